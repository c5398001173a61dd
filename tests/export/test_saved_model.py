from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import tfstyle
from tests.minis import MeanTone, visible
from tests.models import SIGNATURE_INPUTS, SIGNATURES
from tfstyle.errors import ArgumentError, OutputError
from tfstyle.export import export_stylize, list_versions, read_metadata
from tfstyle.export.saved_model import graph_operations


class Stand:
    """As little of a model as export needs; what it generates is given."""

    def __init__(self, function):
        self.generate = function


def keep(content, style, strength):
    return content


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


def test_signatures_have_dynamic_sizes(model, servable):
    assert set(servable.signatures) == SIGNATURES
    sizes = {"content": [-1, -1, -1, 1], "style": [-1, -1, -1, 1], "generated": [-1, -1, -1, 1]}
    sizes["code"] = [-1, *model.code_shape]
    for name, signature in servable.signatures.items():
        assert set(signature.inputs) == SIGNATURE_INPUTS[name]
        encodes = name.startswith("encode_style")
        assert set(signature.outputs) == {"code" if encodes else "generated"}
        assert signature.method_name == "tensorflow/serving/predict"
        for key, info in [*signature.inputs.items(), *signature.outputs.items()]:
            assert info.dtype == tf.float32.as_datatype_enum
            if key == "strength":
                assert info.tensor_shape.unknown_rank
            else:
                assert [d.size for d in info.tensor_shape.dim] == sizes[key]


def test_graph_holds_core_operations_alone(saved_model):
    operations = graph_operations(saved_model)
    assert {"Conv2D", "Assert", "CheckNumerics"} <= set(operations)
    assert [op for op in operations if not hasattr(tf.raw_ops, op)] == []
    # Functions are listed by what they hold, not as operations of their own.
    assert [op for op in operations if op.startswith("__inference")] == []


def test_only_variables_of_generation_are_saved(model, saved_model):
    names = [name for name, _ in tf.train.list_variables(str(saved_model / "variables/variables"))]
    kept = [n for n in names if "model_variables" in n]
    second = model.decoder if isinstance(model, tfstyle.StyleTransfer) else model.matcher
    used = [w for w in model.encoder.weights + second.weights if "seed" not in w.name]
    assert len(kept) == len(used)
    assert not [n for n in names if "optimizer" in n]


def test_metadata_says_units_and_origin(model, saved_model):
    data = read_metadata(saved_model)
    assert data["model"] == {
        "class": type(model).__name__,
        "preset": "test_preset",
        "code_shape": list(model.code_shape),
    }
    assert data["versions"]["tensorflow"] == tf.__version__
    assert set(data["signatures"]) == SIGNATURES
    for name, signature in data["signatures"].items():
        assert set(signature["inputs"]) == SIGNATURE_INPUTS[name]
        for tensor in [*signature["inputs"].values(), *signature["outputs"].values()]:
            assert all(tensor[key] for key in ("units", "meaning", "shape", "range"))
    assert data["signatures"]["serving_default"]["same_as"] == "stylize"
    code = data["signatures"]["encode_style"]["outputs"]["code"]
    assert code["shape"] == ["batch or 1", *model.code_shape]
    assert code["range"] == [None, None]
    assert data["parameters"] > 10_000


def rounding(model) -> float:
    """How far a served image may be off: `ToneTransfer.stylize` applies its curve in NumPy."""
    return 1e-4 if isinstance(model, tfstyle.ToneTransfer) else 1e-5


@pytest.mark.parametrize(
    ("content", "style"), [((1, 1, 1, 1), (1, 30, 20, 1)), ((2, 16, 33, 1), (2, 5, 40, 1))]
)
def test_servable_equals_the_model(model, servable, random, content, style):
    content = random.random(content, dtype=np.float32)
    style = random.random(style, dtype=np.float32)
    inputs = {"content": content, "style": style}
    expected = model.stylize(content, style)
    for name in ("stylize", "serving_default"):
        generated = servable.run(name, inputs)["generated"]
        np.testing.assert_allclose(generated, expected, rtol=0, atol=rounding(model))
    half = servable.run("stylize_strength", {**inputs, "strength": np.float32(0.5)})
    expected = model.stylize(content, style, 0.5)
    np.testing.assert_allclose(half["generated"], expected, rtol=0, atol=rounding(model))


def test_codes_stand_for_styles(model, servable, random):
    content = random.random((2, 20, 31, 1), dtype=np.float32)
    styles = random.random((2, 17, 12, 1), dtype=np.float32)
    codes = servable.run("encode_style", {"style": styles})["code"]
    np.testing.assert_allclose(codes, model.encode_style(styles), rtol=1e-5, atol=1e-5)
    for own, style in ((codes, styles), (codes[:1], styles[:1])):
        inputs = {"content": content, "code": own}
        for strength in (None, np.float32(0.3), np.float32([0.3, 0.3])):
            name, given = "stylize_with_code", inputs
            if strength is not None:
                name, given = f"{name}_strength", {**inputs, "strength": strength}
            expected = model.stylize(content, style, 1.0 if strength is None else 0.3)
            generated = servable.run(name, given)["generated"]
            np.testing.assert_allclose(generated, expected, rtol=0, atol=rounding(model))


def test_the_graph_refuses_bad_values_itself(model, servable, random):
    content = random.random((2, 8, 8, 1), dtype=np.float32)
    broken = np.where(content == content.max(), np.float32(np.nan), content)
    code = np.ones((3, *model.code_shape), np.float32)
    for name, inputs, message in (
        ("stylize", {"content": broken, "style": content}, "content: holds NaN"),
        ("encode_style", {"style": 2000 * content - 1000}, "style: .* between 0 and 1; apply a w"),
        ("stylize_with_code", {"code": code[:1] * np.nan}, "code : Tensor had NaN"),
        ("stylize_with_code", {"code": code}, "code: must hold one code, or as many as content"),
        ("stylize_with_code", {"code": code[:0]}, "code: is empty"),
    ):
        given = {"content": content, **inputs} if "code" in inputs else inputs
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            servable.run(name, given)


def test_warm_up_requests_are_tensorflow_servings(saved_model, servable):
    path = saved_model / "assets.extra" / "tf_serving_warmup_requests"
    assert path.stat().st_size < 20_000
    found = set()
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "stylize"
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        name = request.model_spec.signature_name
        assert set(inputs) == SIGNATURE_INPUTS[name]
        assert inputs.get("content", np.empty((1, 16, 16, 1))).shape == (1, 16, 16, 1)
        (answer,) = servable.run(name, inputs).values()  # as a server runs it
        assert np.isfinite(answer).all()
        found.add(name)
    assert found == SIGNATURES


class WrongCode(MeanTone):
    code_shape = (2, 4)


def test_next_free_version(tmp_path):
    folder = tmp_path / "stylize"
    assert export_stylize(Stand(keep), folder) == folder / "1"
    assert export_stylize(Stand(keep), folder, 7) == folder / "7"
    (folder / "8").write_text("a file in the way")
    assert export_stylize(Stand(keep), folder) == folder / "9"
    assert list(list_versions(folder)) == [1, 7, 9]
    before = (folder / "7" / "saved_model.pb").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export_stylize(Stand(keep), folder, 7)
    assert (folder / "7" / "saved_model.pb").read_bytes() == before
    assert visible(folder) == ["1", "7", "8", "9"]


def test_bad_arguments(tmp_path):
    for options in ({"version": 1.0}, {"warm_up_size": -1}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            export_stylize(Stand(keep), tmp_path, **options)
    with pytest.raises(ArgumentError, match="generate"):
        export_stylize(object(), tmp_path)
    with pytest.raises(ArgumentError, match=r"model: its code_shape must be .*\(2, 3\)"):
        export_stylize(WrongCode(), tmp_path)
    assert visible(tmp_path) == []


def fail_while_saving(module, folder, signatures):
    (Path(folder) / "saved_model.pb").write_bytes(b"half of it")
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


def test_nothing_appears_when_saving_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", fail_while_saving)
    with pytest.raises(OutputError, match="the disk is full"):
        export_stylize(Stand(keep), tmp_path)
    assert visible(tmp_path) == []


def in_python(content, style, strength):
    generated = tf.numpy_function(lambda x: x, [content], tf.float32)
    return tf.ensure_shape(generated, content.shape)


def at_random(content, style, strength):
    return content + tf.random.uniform(tf.shape(content))


def by_size(content, style, strength):
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
