from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.models import SIGNATURES
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.serving import Servable, export_stylize, list_versions, read_metadata
from tfstyle.serving.export import graph_operations


class Stand:
    """As little of a model as export needs; what it generates is given."""

    def __init__(self, function):
        self.generate = function


def keep(content, style, strength, detail):
    return content


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_layout_is_tensorflow_servings(saved_model):
    names = {p.relative_to(saved_model).as_posix() for p in saved_model.rglob("*") if p.is_file()}
    assert {
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets.extra/tfstyle.json",
    } <= names
    # A container may run as another user.
    assert all(p.stat().st_mode & 0o004 for p in saved_model.rglob("*"))


def test_signatures_have_dynamic_sizes(saved_model):
    servable = Servable("stylize", 1, saved_model)
    try:
        assert set(servable.signatures) == SIGNATURES
        for name, signature in servable.signatures.items():
            extra = {"strength"} if name.endswith("_strength") else set()
            assert set(signature.inputs) == {"content", "style"} | extra
            assert set(signature.outputs) == {"generated"}
            assert signature.method_name == "tensorflow/serving/predict"
            images = [signature.inputs["content"], signature.inputs["style"]]
            for info in [*images, signature.outputs["generated"]]:
                assert info.dtype == tf.float32.as_datatype_enum
                assert [d.size for d in info.tensor_shape.dim] == [-1, -1, -1, 1]
    finally:
        servable.close()


def test_graph_holds_core_operations_alone(saved_model):
    operations = graph_operations(saved_model)
    assert {"Conv2D", "Assert", "CheckNumerics"} <= set(operations)
    assert [op for op in operations if not hasattr(tf.raw_ops, op)] == []
    assert [op for op in operations if "PyFunc" in op] == []
    # Functions are listed by what they hold, not as operations of their own.
    assert [op for op in operations if op.startswith("__inference")] == []


def test_only_variables_of_generation_are_saved(model, saved_model):
    names = [name for name, _ in tf.train.list_variables(str(saved_model / "variables/variables"))]
    kept = [n for n in names if "model_variables" in n]
    used = model.encoder.weights + model.decoder.weights
    assert len(kept) == len(used)
    assert not [n for n in names if "optimizer" in n]


def test_metadata_says_units_and_origin(saved_model):
    data = read_metadata(saved_model)
    assert data["model"] == {
        "class": "StyleTransfer",
        "preset": "test_preset",
        "encoder": "vgg16",
        "layer": "relu2_1",
        "stride": 2,
    }
    assert data["versions"]["tensorflow"] == tf.__version__
    for signature in SIGNATURES:
        for tensors in ("inputs", "outputs"):
            for tensor in data["signatures"][signature][tensors].values():
                assert tensor["range"] == [0.0, 1.0]
                assert tensor["units"]
    assert data["operations"] == graph_operations(saved_model)
    assert data["parameters"] > 100_000


@pytest.mark.parametrize("content", ["not json", "[]", '{"format": "other/1"}'])
def test_foreign_metadata_is_refused(tmp_path, content):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "tfstyle.json").write_text(content)
    with pytest.raises(InputFileError, match=r"tfstyle\.json"):
        read_metadata(tmp_path)


def test_missing_metadata_is_named(tmp_path):
    with pytest.raises(InputFileError, match="was not exported by tfstyle"):
        read_metadata(tmp_path)


@pytest.mark.parametrize(
    ("content", "style"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1)),
        ((1, 1, 1, 1), (1, 30, 20, 1)),
        ((1, 31, 17, 1), (1, 8, 9, 1)),
        ((3, 20, 24, 1), (1, 16, 16, 1)),
        ((2, 16, 33, 1), (2, 5, 40, 1)),
    ],
)
def test_servable_equals_the_model(model, saved_model, random, content, style):
    content = random.random(content, dtype=np.float32)
    style = random.random(style, dtype=np.float32)
    servable = Servable("stylize", 1, saved_model)
    try:
        inputs = {"content": content, "style": style}
        expected = model.stylize(content, style)
        for name in ("stylize", "serving_default"):
            generated = servable.run(name, inputs)["generated"]
            np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)
        plain = servable.run("stylize_plain", inputs)["generated"]
        expected = model.stylize(content, style, detail="plain")
        np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-5)
        half = servable.run("stylize_strength", {**inputs, "strength": np.float32(0.5)})
        expected = model.stylize(content, style, 0.5)
        np.testing.assert_allclose(half["generated"], expected, rtol=0, atol=1e-5)
    finally:
        servable.close()


def test_next_free_version(model, tmp_path):
    folder = tmp_path / "stylize"
    assert export_stylize(Stand(keep), folder) == folder / "1"
    assert export_stylize(Stand(keep), folder, 7) == folder / "7"
    (folder / "8").write_text("a file in the way")
    assert export_stylize(Stand(keep), folder) == folder / "9"
    assert list(list_versions(folder)) == [1, 7, 9]
    assert visible(folder) == ["1", "7", "8", "9"]


def test_version_taken_meanwhile_by_another_export(tmp_path, monkeypatch):
    import tfstyle.serving.export as export

    folder = tmp_path / "stylize"
    real, others = export.os.rename, iter(["1"])

    def rename(source, target):
        for name in others:
            (folder / name).mkdir()
            (folder / name / "saved_model.pb").touch()
            raise OSError(39, "Directory not empty")
        real(source, target)

    monkeypatch.setattr(export.os, "rename", rename)
    assert export_stylize(Stand(keep), folder) == folder / "2"


def test_existing_version_is_kept(tmp_path):
    folder = tmp_path / "stylize"
    export_stylize(Stand(keep), folder, 3)
    before = (folder / "3" / "saved_model.pb").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export_stylize(Stand(keep), folder, 3)
    assert (folder / "3" / "saved_model.pb").read_bytes() == before


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "2"])
def test_bad_version(tmp_path, version):
    with pytest.raises(ArgumentError, match="version"):
        export_stylize(Stand(keep), tmp_path, version)
    assert visible(tmp_path) == []


def test_model_without_generate(tmp_path):
    with pytest.raises(ArgumentError, match="generate"):
        export_stylize(object(), tmp_path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        export_stylize(Stand(keep), tmp_path / "file" / "stylize")


def fail_while_saving(module, folder, signatures):
    (Path(folder) / "saved_model.pb").write_bytes(b"half of it")
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


def test_nothing_appears_when_saving_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", fail_while_saving)
    with pytest.raises(OutputError, match="No space left on device"):
        export_stylize(Stand(keep), tmp_path)
    assert visible(tmp_path) == []


def in_python(content, style, strength, detail):
    generated = tf.numpy_function(lambda x: x, [content], tf.float32)
    return tf.ensure_shape(generated, content.shape)


def at_random(content, style, strength, detail):
    return content + tf.random.uniform(tf.shape(content))


def by_size(content, style, strength, detail):
    if content.shape[1] > 8:  # unknown while tracing
        return content
    return style


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (in_python, OutputError, "PyFunc"),
        (at_random, OutputError, "differs from the model"),
        (by_size, ArgumentError, "cannot be traced with unknown sizes"),
    ],
)
def test_nothing_appears_when_the_model_does_not_serve(tmp_path, function, error, message):
    with pytest.raises(error, match=message):
        export_stylize(Stand(function), tmp_path)
    assert visible(tmp_path) == []


def test_versions_are_whole_numbers(tmp_path):
    for name in ("10", "9", "x", "1.5", ".export-1", "-3", "١"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert list(list_versions(tmp_path)) == [9, 10]
    assert list_versions(tmp_path / "missing") == {}


def test_metadata_is_plain_json(saved_model):
    text = (saved_model / "assets.extra" / "tfstyle.json").read_text(encoding="utf-8")
    assert json.loads(text)["intended_use"] == "research and development; not for diagnosis"
