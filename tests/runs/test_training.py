"""A training run in a folder: small, real, killed and taken up again."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tests.models import image
from tfstyle.data import WINDOWS, spine_phantom, write_nifti, write_png
from tfstyle.errors import (
    ArgumentError,
    InputFileError,
    TfstyleError,
    WeightsError,
)
from tfstyle.runs import Backup, TrainingRun, environment, prepare_scans, train

SMALL = TrainingRun(
    phantoms=2,
    weights="none",
    layer="relu1_2",
    content_layers=("relu1_2",),
    style_layers=("image:2.5", "relu1_1"),
    histogram_weight=0.5,
    paired_weight=0.5,
    same_place=0.5,
    windows=("bone", "soft_tissue"),
    crop=32,
    batch_size=2,
    steps=3,
    epochs=2,
    learning_rate=1e-3,
    seed=3,
)


def options(run: TrainingRun) -> list[str]:
    """The command line that means `run`."""
    words = []
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if value == field.default:
            continue
        words.append("--" + field.name.replace("_", "-"))
        words += map(str, value if isinstance(value, tuple) else (value,))
    return words


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, train(SMALL, folder)


class TestRun:
    def test_result(self, finished):
        folder, result = finished
        assert result.steps == 6
        assert result.resumed_from == 0
        assert result.preset == folder / "preset"
        history = json.loads(result.history.read_text())
        assert {"loss", "content_loss", "style_loss", "tv_loss"} <= set(history)
        assert all(len(v) == 2 and np.isfinite(v).all() for v in history.values())
        assert result.losses["loss"] == history["loss"][-1]

    def test_folder(self, finished):
        folder, _ = finished
        assert json.loads((folder / "run.json").read_text())["settings"]["crop"] == 32
        assert list((folder / "grids").rglob("*.png"))
        assert not (folder / "backup").exists()
        assert not list(folder.rglob("*.tmp"))

    def test_preset_loads_and_works(self, finished):
        _, result = finished
        model = tfstyle.StyleTransfer.from_preset(str(result.preset))
        content = spine_phantom(seed=9, size=40).scan
        image = tfstyle.data.scan_to_unit(content, "bone")[0, ..., 0]
        generated = model.stylize(image, image[::-1])
        assert generated.shape == (40, 40)
        assert generated.std() > 0

    def test_compiled_run_has_the_same_history(self, finished, tmp_path):
        _, result = finished
        compiled = train(dataclasses.replace(SMALL, xla=True), tmp_path / "run")
        assert compiled.losses.keys() == result.losses.keys()
        for name, value in compiled.losses.items():
            assert value == pytest.approx(result.losses[name], rel=1e-3, abs=1e-6)

    def test_finished_run_is_left_alone(self, finished):
        folder, first = finished
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
        again = train(SMALL, folder)
        assert again.steps == 6
        assert again.resumed_from == 2
        assert again.losses == first.losses
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before

    def test_other_settings_are_refused(self, finished):
        folder, _ = finished
        with pytest.raises(ArgumentError, match=r"crop: 64, but .* with 32; seed: 4, but"):
            train(dataclasses.replace(SMALL, crop=64, seed=4), folder)

    def test_card_names_no_paths(self, tmp_path):
        scan = tmp_path / "patient_name.png"
        write_png(np.random.default_rng(0).random((48, 48)), scan)
        run = dataclasses.replace(
            SMALL, content=(str(scan),), phantoms=0, windows=("auto",), steps=1, epochs=1
        )
        result = train(run, tmp_path / "run")
        assert "patient_name" not in (result.preset / "preset.json").read_text()


def test_goes_on_after_kill_9(tmp_path):
    """A process killed in mid-run ends, on the second call, as one that was never killed."""
    run = dataclasses.replace(SMALL, steps=3, epochs=9)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tfstyle", "train", *options(run), "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    history = folder / "history.json"
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if history.is_file() and len(json.loads(history.read_text())["loss"]) >= 2:
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    done_before = len(json.loads(history.read_text())["loss"])
    assert 2 <= done_before < 9
    assert not (folder / "preset").exists()

    result = train(run, folder)
    assert done_before - 1 <= result.resumed_from <= done_before
    assert result.steps == 27
    losses = json.loads(history.read_text())["loss"]
    assert len(losses) == 9

    uninterrupted = train(run, tmp_path / "whole")
    assert uninterrupted.resumed_from == 0
    expected = json.loads(uninterrupted.history.read_text())["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps: must be at least 1"),
            ({"learning_rate": 0.0}, "learning_rate"),
            ({"phantoms": -1}, "phantoms"),
            ({"phantoms": 0}, "content: give content scans"),
        ],
    )
    def test_numbers(self, change, message):
        with pytest.raises(ArgumentError, match=message):
            dataclasses.replace(SMALL, **change)

    @pytest.mark.parametrize(
        "change",
        [
            {"encoder": "vgg17"},
            {"layer": "relu9_9"},
            {"content_loss": "magic"},
            {"style_loss": "magic"},
            {"windows": ("bonee",)},
            {"style_layers": ("relu1_1:much",)},
            {"preset": "no_such_preset"},
        ],
    )
    def test_names(self, change, tmp_path):
        with pytest.raises(TfstyleError):
            train(dataclasses.replace(SMALL, **change), tmp_path / "run")
        assert not (tmp_path / "run" / "preset").exists()

    def test_missing_scan(self, tmp_path):
        with pytest.raises(InputFileError, match="gone"):
            train(dataclasses.replace(SMALL, content=(str(tmp_path / "gone"),)), tmp_path / "run")


def test_stopped_between_history_and_backup(finished, tmp_path, monkeypatch):
    folder, first = finished
    save = Backup.on_epoch_end

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        save(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Backup, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())["loss"]) == 2
    result = train(SMALL, tmp_path / "run")
    assert result.resumed_from == 1
    assert json.loads(result.history.read_text()) == json.loads(first.history.read_text())
    assert {p.name for p in (tmp_path / "run").rglob("*")} == {p.name for p in folder.rglob("*")}
    # stopped when the preset was there and the backup was not gone yet
    (tmp_path / "run" / "backup").mkdir()
    (tmp_path / "run" / "backup" / "state.npz").write_bytes(b"")
    assert train(SMALL, tmp_path / "run").resumed_from == 2
    assert not (tmp_path / "run" / "backup").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b""])
def test_damaged_backup(tmp_path, damage):
    run = dataclasses.replace(SMALL, steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", extra_callbacks=[Stop()])
    backup = tmp_path / "run" / "backup" / "state.npz"
    backup.write_bytes(damage(backup.read_bytes()))
    with pytest.raises(WeightsError, match=r"state\.npz"):
        train(run, tmp_path / "run")


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_prepared_scans_train_as_the_scans_do(tmp_path):
    (tmp_path / "in").mkdir()
    write_png(image(1, (48, 40)), tmp_path / "in" / "picture.png")
    window = WINDOWS["full"]
    for i in range(2):
        scan = spine_phantom(seed=i, size=64).scan
        write_nifti(window.to_unit(scan.pixels), scan, window, tmp_path / "in" / f"{i}.nii.gz")
    prepare_scans([tmp_path / "in"], tmp_path / "prepared", shard_mb=0.001)
    results = []
    for name in ("in", "prepared"):
        content, windows = (str(tmp_path / name),), ("auto", "percentile", "bone")
        run = dataclasses.replace(SMALL, phantoms=0, content=content, windows=windows)
        results.append(train(run, tmp_path / f"run-{name}"))
    one, other = results
    assert json.loads(one.history.read_text()) == json.loads(other.history.read_text())
    with np.load(one.preset / "weights.npz") as a, np.load(other.preset / "weights.npz") as b:
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_tensorboard(tmp_path):
    train(dataclasses.replace(SMALL, steps=1, epochs=1), tmp_path / "run", tensorboard=True)
    events = list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))
    kinds = set()
    for file in events:
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            kinds |= {value.tag for value in event.summary.value}
    assert "content | style | generated" in kinds
    assert any("loss" in kind for kind in kinds)


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("tfstyle.runs.training.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"tfstyle\[tensorboard\]"):
        train(SMALL, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_goes_on_from_a_preset(finished, tmp_path):
    _, first = finished
    run = dataclasses.replace(SMALL, preset=str(first.preset), layer=None, learning_rate=1e-9)
    second = train(run, tmp_path / "again")
    models = [tfstyle.StyleTransfer.from_preset(str(r.preset)) for r in (first, second)]
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    a, b = (model.stylize(image, image[::-1]) for model in models)
    np.testing.assert_allclose(a, b, atol=1e-3)

    deeper = dataclasses.replace(run, style_layers=("relu2_1",), steps=1, epochs=1)
    assert train(deeper, tmp_path / "deeper").steps == 1
    with pytest.raises(ArgumentError, match="cannot become"):
        train(dataclasses.replace(run, layer="relu3_1"), tmp_path / "other")


def test_environment_has_versions():
    versions = environment()
    assert versions["keras"].startswith("3.")
    assert ("git" in versions) == (Path(tfstyle.__file__).parents[1] / ".git").exists()
    assert versions["python"] == sys.version.split()[0]
