"""All seven encoders against keras.applications, tap by tap, and the rules that all keep."""

from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import encoders
from tfstyle.decoder import Decoder
from tfstyle.encoders import ENCODERS, VGG16, VGG19, DenseNet121, ResNet50
from tfstyle.encoders.weights import assign, copy_application
from tfstyle.errors import ArgumentError, WeightsError

CAFFE = keras.applications.resnet.preprocess_input
TORCH = keras.applications.densenet.preprocess_input


def images(shape=(1, 64, 32, 1)):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def randomize(model):
    """Batch normalization that does something: keras.applications' starts as the identity."""
    rng = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            gamma, variance = rng.uniform(0.5, 1.5, n), rng.uniform(0.3, 2.0, n)
            layer.set_weights([gamma, *rng.normal(0, 0.4, (2, n)), variance])


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_every_tap_is_that_of_keras_applications(name):
    keras.utils.set_random_seed(1)
    model = getattr(keras.applications, ENCODERS[name].__name__)(include_top=False, weights=None)
    randomize(model)
    encoder = ENCODERS[name](weights=None, depth=None)
    copy_application(encoder, model, "random weights")
    x, names = images(), encoder.available_taps
    assert names == tuple(tap.name for tap in encoder.taps_table)
    found = encoder(x, taps=names)
    layers = [model.get_layer(encoder.tap(tap).layer).output for tap in names]
    preprocess = TORCH if "dense" in name else CAFFE
    expected = keras.Model(model.input, layers)(
        preprocess(np.repeat(x, 3, -1) * 255.0), training=False
    )
    for name, values in zip(names, expected):
        tap, scale = encoder.tap(name), np.abs(values).max()
        assert values.shape == (1, 64 // tap.stride, 32 // tap.stride, tap.channels)
        assert scale > 0
        np.testing.assert_allclose(found[name] / scale, values / scale, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", ENCODERS.values(), ids=ENCODERS)
def test_defaults_and_decoders_of_every_tap(family):
    depth = family.order(family.default_depth)
    layers = [family.default_layer, *family.default_content_layers]
    for name in (*layers, *family.default_style_layers):
        assert 0 <= family.order(name) <= depth
    for tap in family.taps_table:
        channels, strides = Decoder.plan(family, tap.name)
        assert (channels[0], strides[0], strides[-1]) == (tap.channels, tap.stride, 1)
        assert all(a in (b, 2 * b) for a, b in pairwise(strides))
        weights = sum(9 * a * b for a, b in zip(channels, (*channels[1:], 1)))
        assert weights < (8e6 if not family.plain else 21e6)


@pytest.mark.parametrize(
    ("family", "depth"),
    [(VGG16, "relu2_1"), (ResNet50, "conv2_block2_out"), (DenseNet121, "pool2_pool")],
)
def test_fast_forms_are_equal(family, depth):
    encoder = family(weights=None, depth=depth)
    x = tf.constant(images((2, 64, 64, 1)))

    def run(call):
        with tf.GradientTape() as tape:
            tape.watch(x)
            maps = call(x, taps=encoder.available_taps)
            total = tf.add_n([tf.reduce_mean(m * m) for m in maps.values()])
        return maps, tape.gradient(total, x)

    (plain, gradient), (fast, fast_gradient) = run(encoder), run(encoder.faster())
    for name, values in plain.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(fast[name] / scale, values / scale, atol=1e-5)
    scale = np.abs(gradient).max()
    # The mean: where rounding takes a ReLU over its bend, single pixels differ by more.
    assert np.abs(fast_gradient - gradient).mean() < 1e-5 * scale


def test_stays_frozen_in_a_trainable_model():
    encoder = ResNet50(weights=None, depth="conv1_relu")
    parent = keras.Sequential([keras.layers.Conv2D(1, 1), encoder])
    parent.build((None, 32, 32, 1))
    x = images()
    before = encoder(x)["conv1_relu"]
    parent.trainable = True
    assert not encoder.trainable
    assert len(parent.trainable_variables) == 2  # the convolution's alone
    np.testing.assert_array_equal(encoder(x, training=True)["conv1_relu"], before)
    encoder.trainable = True
    assert encoder.trainable_variables == []


def test_weights_files_of_keras_applications(tmp_path):
    model = keras.applications.ResNet50(include_top=False, weights=None)
    randomize(model)
    expected = ResNet50(weights=None, depth="conv2_block1_out")
    copy_application(expected, model, "model")
    model.save_weights(tmp_path / "notop.weights.h5")
    encoder = ResNet50(weights=str(tmp_path / "notop.weights.h5"), depth="conv2_block1_out")
    assert encoder.preprocessing == "caffe"
    for a, b in zip(encoder.weights, expected.weights):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(WeightsError, match=r"mine: block1_conv1/kernel is missing"):
        copy_application(VGG16(weights=None, depth="relu1_1"), model, "mine")


def test_seed_says_the_random_weights():
    """Also of the first encoder of its kind in a process, whose graph is made and kept."""
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        weights.append(np.asarray(VGG16(weights=None, depth="relu4_2").weights[0]))
    np.testing.assert_array_equal(*weights)


def test_torch_preprocessing_is_torchvisions():
    encoder = VGG16(weights=None, depth="relu1_1", preprocessing="torch")
    x = images()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(encoder.preprocess(tf.constant(x)), (x - mean) / std, atol=1e-5)


def test_weights_that_cannot_be_had_or_do_not_fit(tmp_path):
    for weights in ("weights.npz", "nowhere.h5", "image-net", "lpips"):
        with pytest.raises(WeightsError, match=weights):
            VGG19(weights=weights, depth="relu1_1")
    path = tmp_path / "weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n not really")
    with pytest.raises(WeightsError, match=r"weights\.h5"):
        VGG16(weights=str(path), depth="relu1_1")
    variables = VGG16(weights=None, depth="relu1_1").named_weights()
    with pytest.raises(WeightsError, match=r"mine: block1_conv1/kernel has shape"):
        assign(variables, {"block1_conv1/kernel": np.zeros((3, 3, 1, 64))}, "mine")


def test_unknown_encoder_and_preprocessing():
    with pytest.raises(ArgumentError, match=r"one of vgg16, .*densenet201, received 'resnet34'"):
        encoders.get("resnet34")
    with pytest.raises(ArgumentError, match="one of caffe, torch"):
        VGG16(weights=None, preprocessing="zero-one")
