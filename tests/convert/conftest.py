"""Small exported models for all tests of conversion, and the CT slice that pydicom carries."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.models import image, small_model
from tfstyle.convert import conversion
from tfstyle.export import Servable, export_servable
from tfstyle.export.signatures import stylize_signatures

SIGNATURES = ("stylize", "stylize_strength", "encode_style", "stylize_with_code")


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base folder of an export, with version 1; few signatures, for loading takes time."""
    model = small_model("relu1_2")
    signatures = stylize_signatures(model)
    style = image(1, (1, 8, 8, 1))
    examples = {"content": image(2, (1, 8, 8, 1)), "style": style, "strength": np.float32(0.5)}
    examples["code"] = np.asarray(model.code_of(style))
    folder = tmp_path_factory.mktemp("convert") / "stylize"
    export_servable(
        {name: signatures[name] for name in SIGNATURES},
        folder,
        name="stylize",
        default="stylize",
        examples=examples,
        model={"preset": "test_preset"},
    )
    return folder


@pytest.fixture(scope="session")
def blur(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of other origin: one convolution of one channel, and no check."""
    module = tf.Module()
    module.kernel = tf.Variable(np.full((3, 3, 1, 1), 1 / 9, np.float32))
    spec = tf.TensorSpec([None, None, None, 1], name="content")
    function = tf.function(
        lambda content: {"blurred": tf.nn.conv2d(content, module.kernel, 1, "SAME")},
        input_signature=[spec],
    )
    folder = tmp_path_factory.mktemp("blur")
    tf.saved_model.save(module, str(folder), signatures={"blur": function})
    return folder


@pytest.fixture(scope="session")
def servable(saved_model: Path):
    with Servable(saved_model / "1") as servable:
        yield servable


@pytest.fixture(autouse=True)
def _few_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "COMPARISON_PAIRS", 2)
