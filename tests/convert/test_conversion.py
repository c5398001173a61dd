"""What holds for TFLite and ONNX alike; each test runs for both."""

import hashlib
import json

import numpy as np
import pytest

from tests.minis import MeanTone, visible
from tests.models import image, small_tone
from tfstyle.convert import conversion
from tfstyle.errors import (
    ArgumentError,
    ConversionError,
    InputFileError,
    MissingPackageError,
    OutputError,
)
from tfstyle.export import Servable, export_servable, export_unet
from tfstyle.export.signatures import stylize_signatures


def run_tflite(path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda inputs: run(**inputs)


def run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


TARGETS = {"tflite": (run_tflite, "ai_edge_litert"), "onnx": (run_onnx, "onnxruntime")}


@pytest.fixture(params=sorted(TARGETS))
def target(request):
    pytest.importorskip(TARGETS[request.param][1], reason=f"no extra {request.param!r}")
    return request.param


#: For what is the same code for every target.
once = pytest.mark.parametrize("target", ["tflite"], indirect=True)


@pytest.fixture
def convert(target, saved_model, ct, tmp_path):
    """Converts to a file in `tmp_path`; 32x32 pixels unless told."""

    def start(output=None, source=saved_model, **options):
        output = output or tmp_path / f"model.{target}"
        defaults = {"to": target, "size": 32, "compare": ct}
        return conversion.convert(source, output, **{**defaults, **options})

    return start


@pytest.fixture
def load(target, tmp_path):
    """Loads the model as its users do, with neither tfstyle nor TensorFlow."""
    return lambda: TARGETS[target][0](tmp_path / f"model.{target}")


def test_float32_with_a_report_beside_it(convert, load, servable, target, tmp_path):
    report, path = convert(), tmp_path / f"model.{target}"
    assert report.difference.max_difference < 1e-4
    given = {"content": image(3, (1, 32, 32, 1)), "style": image(4, (1, 32, 32, 1)) ** 2}
    expected = servable.run("stylize", given)["generated"]
    assert expected.std() > 0.05
    np.testing.assert_allclose(load()(given)["generated"], expected, rtol=0, atol=1e-4)
    assert visible(tmp_path) == [path.name, f"{path.name}.json"]
    stored = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert stored == report.as_dict()
    content = path.read_bytes()
    assert stored["model"]["bytes"] == len(content)
    assert stored["model"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert stored["model"]["inputs"]["style"] == {"dtype": "float32", "shape": [1, 32, 32, 1]}
    assert stored["source"]["preset"] == "test_preset"
    assert stored["dropped"] == {"Assert": 7}
    assert "CT_small" not in json.dumps(stored)  # names of files may be those of patients


def test_free_sizes(convert, load, servable):
    report = convert(size=None)
    assert report.difference.max_difference < 1e-4
    model = load()
    for content, style in (((1, 37, 51, 1), (1, 40, 33, 1)), ((2, 8, 24, 1), (1, 24, 24, 1))):
        given = {"content": image(5, content), "style": image(6, style) ** 2}
        expected = servable.run("stylize", given)["generated"]
        np.testing.assert_allclose(model(given)["generated"], expected, rtol=0, atol=1e-4)


@once
def test_float16(convert):
    half = convert(precision="float16")
    assert half.precision == "float16"
    assert 1e-5 < half.difference.max_difference < 0.01
    # 76 000 parameters, nearly all of them weights of convolutions.
    assert half.model["bytes"] < 3 * 76_000


def test_segmentation(convert, load, tmp_path):
    from tfstyle.segmentation import UNet

    export_unet(UNet(3, depth=2, width=4), tmp_path / "unet", warm_up_size=0)
    report = convert(source=tmp_path / "unet")  # its only signature
    assert report.difference.equal_share > 0.999
    assert report.difference.max_difference < 1e-4
    given = {"image": image(1, (1, 32, 32, 1))}
    with Servable(tmp_path / "unet" / "1") as servable:
        expected = servable.run("segment", given)
    found = load()(given)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["mask"], found["probabilities"].argmax(-1)[..., None])


@once
def test_a_model_that_is_not_exported_yet(convert, load, tmp_path):
    model = MeanTone()
    report = convert(source=model, signature="stylize_with_code_strength", size=None)
    assert report.source["class"] == "MeanTone"
    content, style = image(3, (2, 9, 7, 1)), image(4, (1, 5, 8, 1))
    code = np.asarray(model.code_of(style))
    given = {"content": content, "code": code, "strength": np.float32([0.5])}
    expected = np.asarray(model.generate(content, style, 0.5))
    np.testing.assert_allclose(load()(given)["generated"], expected, rtol=0, atol=1e-5)
    assert len(visible(tmp_path)) == 2


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    """A tone transfer and its export, of the two signatures that hold all of it."""
    model, folder = small_tone(), tmp_path_factory.mktemp("tone")
    names = "encode_style", "stylize_with_code_strength"
    table = {name: stylize_signatures(model)[name] for name in names}
    content, style = image(1, (1, 20, 30, 1)), image(2, (1, 20, 30, 1)) ** 2
    examples = {"content": content, "style": style, "strength": np.float32(0.5)}
    examples["code"] = np.asarray(model.code_of(style))
    return model, export_servable(
        table, folder, name="tone", default="encode_style", examples=examples
    )


@pytest.mark.slow
def test_tone_transfer(convert, load, tone):
    model, folder = tone
    convert(source=folder, signature="stylize_with_code_strength", size=None)
    run = load()
    for content, style in (((2, 70, 51, 1), (1, 9, 64, 1)), ((1, 1, 1, 1), (1, 5, 5, 1))):
        code = np.asarray(model.code_of(image(2, style) ** 2))
        given = {"content": image(1, content), "code": code, "strength": np.float32([0.5])}
        expected = np.asarray(model.generate_from_code(*given.values()))
        np.testing.assert_allclose(run(given)["generated"], expected, rtol=0, atol=1e-3)
        assert expected.size == 1 or np.abs(expected - given["content"]).max() > 0.02


@once
def test_any_saved_model_converts(convert, blur, load, ct):
    report = convert(source=blur, signature="blur", size=None)
    assert report.source is None
    assert report.model["outputs"] == ["blurred"]
    content = image(1, (2, 9, 7, 1))
    found = load()({"content": content})["blurred"]
    assert found[0, 4, 3, 0] == pytest.approx(content[0, 3:6, 2:5].mean(), rel=1e-4)


@once
def test_bad_arguments(convert, tmp_path):
    for options, error, message in (
        ({"to": "onnx", "precision": "float16"}, ArgumentError, "must be one of float32"),
        ({"to": "trt"}, ArgumentError, "to: must be one of tflite, onnx, received 'trt'"),
        ({"signature": "other"}, ArgumentError, r"'other'.*stylize_strength"),
        ({"source": "/nowhere"}, InputFileError, "no such folder"),
        ({"compare": ["/nowhere"]}, InputFileError, "/nowhere"),
    ):
        with pytest.raises(error, match=message):
            convert(**options)
        assert visible(tmp_path) == []


@once
def test_outputs(convert, blur, target, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        convert(tmp_path / "no" / f"model.{target}")
    path, report = tmp_path / f"model.{target}", tmp_path / f"model.{target}.json"
    for mine in (path, report):  # nothing is overwritten
        mine.write_text("mine")
        with pytest.raises(OutputError, match=rf"{mine.name}: exists already"):
            convert()
        assert visible(tmp_path) == [mine.name]
        mine.unlink()
    path.write_text("mine")
    convert(source=blur, signature="blur", overwrite=True)
    assert path.read_bytes() != b"mine"
    assert json.loads(report.read_text())["target"] == target


@once
def test_nothing_appears_when_the_report_cannot_be_made(convert, blur, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ConversionError("gives NaN")

    monkeypatch.setattr(conversion, "measure_difference", fail)
    with pytest.raises(ConversionError, match="gives NaN"):
        convert(source=blur, signature="blur")
    assert visible(tmp_path) == []


@once
def test_missing_packages_are_named(convert, target, tmp_path, monkeypatch):
    monkeypatch.setattr("tfstyle.errors.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'tfstyle\[{target}\]'"):
        convert()
    assert visible(tmp_path) == []


@once
def test_signature_that_tflite_cannot_run(convert, tmp_path):
    import tensorflow as tf

    spec = tf.TensorSpec([None, None, None, 1], name="content")
    function = tf.function(
        lambda content: {"y": tf.linalg.cholesky(content[..., 0])}, input_signature=[spec]
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "odd"), signatures={"odd": function})
    with pytest.raises(ConversionError, match="'odd' cannot be converted to TFLite"):
        convert(source=tmp_path / "odd", signature="odd")
    assert visible(tmp_path) == ["odd"]
