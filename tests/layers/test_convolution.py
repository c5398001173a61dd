"""Convolutions with fewer products against the plain ones, in value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import image, small_model
from tfstyle.layers.convolution import (
    FastConvolution,
    FastMaxPooling,
    upsampled_convolution,
    winograd_convolution,
)


def arrays(shape, channels, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[3], channels)) / (9 * shape[3]) ** 0.5
    return tf.constant(x), tf.constant(kernel.astype(np.float32))


def plain(x, kernel, reflect, doubled=False):
    if doubled:
        x = keras.layers.UpSampling2D(2, interpolation="nearest")(x)
    mode = "REFLECT" if reflect else "CONSTANT"
    return tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode=mode), kernel, 1, "VALID")


def value_and_gradients(function, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        y = function(x, kernel)
        weights = np.random.default_rng(9).normal(size=y.shape).astype(np.float32)
        loss = tf.reduce_sum(y * weights)
    return y, *tape.gradient(loss, (x, kernel))


def assert_close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "reflect", "jit"), [((8, 12), False, False), ((5, 8), True, True)]
)
def test_winograd(size, reflect, jit):
    x, kernel = arrays((2, *size, 40), 48)
    function = tf.function(
        lambda x, kernel: winograd_convolution(x, kernel, reflect), jit_compile=jit
    )
    expected = value_and_gradients(lambda x, kernel: plain(x, kernel, reflect), x, kernel)
    assert_close(value_and_gradients(function, x, kernel), expected)


@pytest.mark.parametrize(("size", "jit"), [((1, 5), False), ((8, 12), True)])
def test_upsampled(size, jit):
    x, kernel = arrays((2, *size, 20), 12)
    function = tf.function(upsampled_convolution, jit_compile=jit)
    expected = value_and_gradients(lambda x, k: plain(x, k, True, doubled=True), x, kernel)
    assert_close(value_and_gradients(function, x, kernel), expected)


def test_pooling_with_ties():
    x = tf.constant(np.random.default_rng(0).integers(0, 3, (2, 8, 6, 5)).astype(np.float32))
    pool = FastMaxPooling(keras.layers.MaxPooling2D(2))
    found = value_and_gradients(lambda x, _: pool(x), x, x)[:2]
    expected = value_and_gradients(lambda x, _: tf.nn.max_pool2d(x, 2, 2, "VALID"), x, x)[:2]
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "channels", "width", "doubled"),
    [("float32", 3, 8, False), ("float32", 40, 6, True), ("bfloat16", 40, 8, False)],
)
def test_every_layer_has_a_form(dtype, channels, width, doubled):
    x, _ = arrays((1, 4, width, channels), 1)
    layer = keras.layers.Conv2D(33, 3, activation="relu")
    layer.build(x.shape)
    layer.bias.assign(np.linspace(-1, 1, 33))
    expected = tf.nn.relu(plain(x, tf.convert_to_tensor(layer.kernel), True, doubled) + layer.bias)
    found = FastConvolution(layer, reflect=True, doubled=doubled).call(tf.cast(x, dtype))
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 0.05
    assert_close([tf.cast(found, "float32")], [expected], tolerance)


def test_decoder_is_the_same_decoder():
    """Those of encoders are in tests/encoders/test_families.py."""
    model = small_model("relu3_1")
    features = model.encode(image(0, (2, 32, 48, 1)))
    assert_close([model.decoder.faster()(features)], [model.decoder(features)], 2e-5)
