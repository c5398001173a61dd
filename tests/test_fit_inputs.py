"""What `fit` and its kin take, and what they refuse with a clear word."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import image, small_model
from tfstyle.baselines.contextual_transformation import CascadedRefinement, ContextualTransformation
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError
from tfstyle.segmentation import UNet

CONTENT, STYLE = image(0, (4, 12, 10, 1)), image(1, (4, 12, 10, 1)) ** 2
PAIR = {"content": CONTENT, "style": STYLE}
HALF = CONTENT.copy()
HALF[2:] = 2000 * HALF[2:] - 1000
ONE_NAN = CONTENT.copy()
ONE_NAN[1, 3, 4] = np.nan


@pytest.fixture(scope="module")
def model():
    model = small_model("relu1_1")
    model.compile(
        keras.optimizers.SGD(0.0),
        content_loss="mse",
        content_layers=["relu1_1"],
        style_layers=["relu1_1"],
        jit_compile=False,
    )
    return model


def loss(model, *arguments):
    return model.fit(*arguments, verbose=0, shuffle=False).history["loss"][0]


def test_every_form_of_a_pair_is_the_same(model):
    expected = float(np.mean(model.losses_of(CONTENT, STYLE)["loss"]))
    data = tf.data.Dataset
    doubles = {name: values.astype(np.float64) for name, values in PAIR.items()}
    for arguments in (
        ([CONTENT, STYLE],),
        (CONTENT, STYLE),
        (data.from_tensors((CONTENT, STYLE)),),
        (data.from_tensors(doubles),),
    ):
        assert loss(model, *arguments) == pytest.approx(expected, rel=1e-5)
    for arguments in ((PAIR,), (CONTENT, STYLE)):
        for method in (model.train_on_batch, model.test_on_batch):
            assert method(*arguments, return_dict=True)["loss"] == pytest.approx(expected, 1e-5)
    for inputs in ([CONTENT, STYLE], doubles):
        np.testing.assert_allclose(model(inputs), model(PAIR), atol=1e-5)
    np.testing.assert_allclose(model.predict(PAIR, verbose=0), model(PAIR), atol=1e-5)
    rounded = np.clip(2 * CONTENT - 0.5, -5e-4, 1 + 5e-4)  # as rounding leaves it
    assert np.isfinite(model({**PAIR, "content": rounded})).all()


def test_sizes_that_are_no_multiples_or_not_known():
    model = small_model("relu2_1")  # stride 2
    layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1"]}
    model.compile(**layers, histogram_weight=1.0, jit_compile=False)
    content, style = CONTENT[:, :11, :9], STYLE[:, :11, :9]
    signature = {name: tf.TensorSpec((None, None, None, 1)) for name in PAIR}
    data = tf.data.Dataset.from_generator(
        lambda: iter([{"content": content, "style": style}]), output_signature=signature
    )
    known = model.evaluate({"content": content, "style": style}, verbose=0, return_dict=True)
    assert np.isfinite(known["loss"])
    assert model.evaluate(data, verbose=0, return_dict=True) == pytest.approx(known, rel=1e-4)
    assert model({"content": content, "style": style}).shape == (4, 11, 9, 1)


def ragged():
    images = tf.ragged.stack([CONTENT[0], CONTENT[1, :7]])
    return {"content": images, "style": STYLE[:2]}


def test_bad_batches(model):
    for data, message in (
        ({**PAIR, "style": 2000 * STYLE - 1000}, r"style: values.*window.* \[-\d+\] \[\d+\]"),
        ({**PAIR, "content": ONE_NAN}, "content: holds NaN or infinite values"),
        ({**PAIR, "style": (255 * STYLE).astype(np.uint8)}, "style: must be float.*uint8"),
        ({**PAIR, "content": CONTENT[..., 0]}, r"content: must be \(B, H, W, 1\)"),
        (ragged(), "content: must be a dense tensor, received a RaggedTensor"),
        ({**PAIR, "mask": CONTENT}, "may hold 'paired', received 'content', 'style', 'mask'"),
        ((PAIR, STYLE), "x, y, sample_weight: give content as x"),
        (CONTENT, "'content' and 'style', or the two in a list"),
    ):
        with pytest.raises(ArgumentError, match=message):
            model.evaluate(tf.data.Dataset.from_tensors(data), verbose=0)


def test_bad_values_in_every_method(model):
    for method in ("fit", "predict", "train_on_batch", "test_on_batch", "predict_on_batch"):
        with pytest.raises(ArgumentError, match="content: values must lie"):
            getattr(model, method)({**PAIR, "content": HALF})


def test_other_models():
    unet = UNet(2, depth=1, width=2)
    unet.compile("sgd", "mse", jit_compile=False)
    transformation = ContextualTransformation(
        VGG16(weights=None, depth="relu1_1"), generator=CascadedRefinement((2, 2))
    )
    layers = {"content_layers": ["relu1_1"], "style_layers": ["relu1_1"]}
    transformation.compile(jit_compile=False, **layers)
    for model, good, bad in (
        (unet, (CONTENT, STYLE), (HALF, STYLE)),
        (transformation, (CONTENT, STYLE), (HALF, STYLE)),
        (transformation, (CONTENT, STYLE), (CONTENT, HALF)),
    ):
        assert np.isfinite(loss(model, *good))
        with pytest.raises(ArgumentError, match=r"(content|style|inputs): values must lie"):
            model.fit(*bad, verbose=0)
    for call in (unet, transformation):
        for wrong in (255 * CONTENT, HALF, ONE_NAN):
            with pytest.raises(ArgumentError, match=r"(inputs|content): (values lie|holds)"):
                call(wrong)
