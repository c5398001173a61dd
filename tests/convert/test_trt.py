"""TF-TRT without a GPU: what it says, what it would call, and the script for the container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tfstyle.convert import to_trt, trt
from tfstyle.errors import ArgumentError, ConversionError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / trt.SCRIPT


def test_without_tensorrt_the_container_is_named(saved_model, tmp_path):
    if trt._built_with_tensorrt():
        pytest.skip("this TensorFlow has TensorRT")
    with pytest.raises(ConversionError) as caught:
        to_trt(saved_model, tmp_path / "1")
    assert trt.CONTAINER_IMAGE in str(caught.value)
    assert trt.SCRIPT in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu(saved_model, tmp_path, monkeypatch):
    monkeypatch.setattr(trt, "_built_with_tensorrt", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with pytest.raises(ConversionError, match="sees no NVIDIA GPU"):
        to_trt(saved_model, tmp_path / "1")


class Converter:
    """Stands for TensorFlow's converter: leaves the graph as it is, notes what it is asked."""

    def __init__(self, **options):
        self.options = options
        self.folder = Path(options["input_saved_model_dir"])
        Converter.last = self

    def convert(self, calibration_input_fn=None):
        self.calibrated = [*calibration_input_fn()] if calibration_input_fn else None

    def build(self, input_fn):
        self.built = [*input_fn()]

    def save(self, folder):
        shutil.copytree(self.folder, folder)


@pytest.fixture
def converter(monkeypatch):
    from tensorflow.python.compiler.tensorrt import trt_convert

    monkeypatch.setattr(trt, "_require_tensorrt", lambda: None)
    monkeypatch.setattr(trt_convert, "TrtGraphConverterV2", Converter)
    real, engines = trt.operation_counts, {"TRTEngineOp": 1}
    monkeypatch.setattr(trt, "operation_counts", lambda folder: {**real(folder), **engines})
    return engines


def test_float16_with_free_sizes(converter, saved_model, ct, tmp_path):
    report = to_trt(
        saved_model, tmp_path / "1", signature="stylize_plain", precision="float16", compare=ct
    )
    assert Converter.last.options["precision_mode"] == "FP16"
    assert Converter.last.options["use_dynamic_shape"] is True
    assert Converter.last.options["input_saved_model_signature_key"] == "stylize_plain"
    assert Converter.last.calibrated is None
    assert {tuple(feed["content"].shape) for feed in Converter.last.built} == {(1, 128, 128, 1)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "1.json"]
    assert report.target == "trt"
    assert report.difference.max_difference < 1e-4
    assert report.model["operations"]["TRTEngineOp"] == 1


def test_int8_is_calibrated_on_one_size(converter, saved_model, ct, tmp_path):
    options = {"signature": "stylize_plain", "precision": "int8", "calibrate": ct, "compare": ct}
    with pytest.raises(ArgumentError, match="size"):
        to_trt(saved_model, tmp_path / "1", **options)
    report = to_trt(saved_model, tmp_path / "1", size=16, **options)
    assert Converter.last.options["use_dynamic_shape"] is False
    assert {tuple(feed["style"].shape) for feed in Converter.last.calibrated} == {(1, 16, 16, 1)}
    assert report.method["calibration_pairs"] == len(Converter.last.calibrated) == 3


def test_graph_that_tensorrt_leaves_alone(converter, saved_model, ct, tmp_path):
    converter.clear()
    with pytest.raises(ConversionError, match="can run no part"):
        to_trt(saved_model, tmp_path / "1", signature="stylize_plain", size=16, compare=ct)
    assert list(tmp_path.iterdir()) == []


def test_script_is_valid():
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    assert subprocess.run([bash, "-n", SCRIPT]).returncode == 0
    assert os.access(SCRIPT, os.X_OK)
    assert trt.CONTAINER_IMAGE in SCRIPT.read_text()
    compile(SCRIPT.with_suffix(".py").read_text(), "convert.py", "exec")


@pytest.fixture
def script(tmp_path):
    """Runs the script with a `docker` that writes down its arguments, one a line."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    folder = tmp_path / "bin"
    folder.mkdir()
    docker = folder / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)

    def run(*words, **environment):
        return subprocess.run(
            [SCRIPT, *map(str, words)],
            cwd=tmp_path,
            env={"PATH": f"{folder}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
        )

    return run


def test_script_mounts_what_is_named(script, tmp_path):
    (tmp_path / "saved models").mkdir()
    (tmp_path / "ct").mkdir()
    done = script(
        "saved models", "trt/stylize/1", "--precision", "int8", "--size", 512, "--calibrate", "ct"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert trt.CONTAINER_IMAGE in lines
    for mount in (
        f"{ROOT}:/tfstyle:ro",
        f"{tmp_path}/saved models:{tmp_path}/saved models:ro",
        f"{tmp_path}/trt/stylize:{tmp_path}/trt/stylize",
        f"{tmp_path}/ct:{tmp_path}/ct:ro",
    ):
        assert lines[lines.index(mount) - 1] == "-v"
    assert lines[lines.index(f"{tmp_path}/trt/stylize/1") :] == [
        f"{tmp_path}/trt/stylize/1",
        *("--precision", "int8", "--size", "512", "--calibrate", f"{tmp_path}/ct"),
    ]
    assert "other/image:1" in script("saved models", "out/1", IMAGE="other/image:1").stdout


def test_script_says_what_is_missing(script, tmp_path):
    done = script("--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr
    done = script("nowhere", "out")
    assert done.returncode == 2
    assert "nowhere: no such folder" in done.stderr
    (tmp_path / "model").mkdir()
    done = script("model", "out", DOCKER="no-such-docker")
    assert done.returncode == 1
    assert "no-such-docker is not on PATH" in done.stderr


def test_conversion_needs_neither_keras_nor_the_serving_api(tmp_path):
    """The container has TensorFlow 2.17 with an older Keras, and none of the rest."""
    code = """
import sys
for name in ("keras", "tensorflow_serving", "grpc", "rich", "onnx", "ai_edge_litert"):
    sys.modules[name] = None
sys.argv = ["convert.py", "nowhere", "out"]
import runpy
runpy.run_path(PATH, run_name="__main__")
"""
    code = code.replace("PATH", repr(str(SCRIPT.with_suffix(".py"))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "was built without TensorRT" in done.stderr
