"""What VGG16 and VGG19 do alone; the rules of all encoders are in test_families.py."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import encoders
from tfstyle.encoders import VGG16, VGG19
from tfstyle.encoders.weights import save_npz
from tfstyle.errors import ArgumentError, TfstyleError, WeightsError


def images(shape=(2, 32, 48, 1)):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("family", [VGG16, VGG19])
def test_weights_file_of_keras_applications(family, tmp_path):
    model = getattr(keras.applications, family.__name__)(include_top=False, weights=None)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    encoder = family(weights=str(path), depth="relu1_2")
    expected = model.get_layer("block1_conv2").get_weights()
    np.testing.assert_array_equal(
        encoder.graph.get_layer("block1_conv2").get_weights()[0], expected[0]
    )


def test_torch_preprocessing_is_torchvisions():
    encoder = VGG16(weights=None, depth="relu1_1", preprocessing="torch")
    x = images()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(encoder.preprocess(tf.constant(x)), (x - mean) / std, atol=1e-5)


def test_default_depth_and_deepest_output():
    encoder = VGG19(weights=None)
    assert encoder.depth == "relu5_1"
    assert list(encoder(images())) == ["relu5_1"]


def test_cut_encoder_builds_nothing_behind_the_tap():
    encoder = VGG16(weights=None, depth="relu2_1")
    assert encoder.available_taps == ("relu1_1", "relu1_2", "relu2_1")
    with pytest.raises(ArgumentError, match=r"'relu3_1'.*'relu2_1'.*depth"):
        encoder(images(), taps=["relu3_1"])


def test_image_tap_is_the_image():
    x = images()
    np.testing.assert_array_equal(
        VGG16(weights=None, depth="relu1_1")(x, taps=["image"])["image"], x
    )


@pytest.mark.parametrize("name", ["relu9_1", "conv4_block6_out", ""])
def test_unknown_tap(name):
    with pytest.raises(ArgumentError, match=r"unknown layer.*relu1_1, relu1_2"):
        VGG16(weights=None, depth=name)


def test_unknown_encoder_and_preprocessing():
    with pytest.raises(ArgumentError, match="vgg16, vgg19"):
        encoders.get("alexnet")
    with pytest.raises(ArgumentError, match="'caffe', 'torch'"):
        VGG16(weights=None, preprocessing="zero-one")


def test_npz_weights_round_trip(tmp_path):
    first = VGG16(weights=None, depth="relu2_1")
    table = {
        f"{layer.name}/{part}": value
        for layer in first.weighted_layers()
        for part, value in zip(("kernel", "bias"), layer.get_weights())
    }
    path = tmp_path / "weights.npz"
    save_npz(path, {**table, "preprocessing": np.array("torch")})
    second = VGG16(weights=str(path), depth="relu2_1")
    assert second.preprocessing == "torch"
    for a, b in zip(first.weights, second.weights):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(WeightsError, match=r"weights\.npz.*block2_conv2/kernel"):
        VGG16(weights=str(path), depth="relu2_2")
    table["block1_conv1/kernel"] = table["block1_conv1/kernel"][:, :, :1]
    save_npz(path, table)
    with pytest.raises(WeightsError, match=r"block1_conv1/kernel.*shape"):
        VGG16(weights=str(path), depth="relu2_1")


@pytest.mark.parametrize("weights", ["nowhere.npz", "nowhere.h5", "image-net", "lpips"])
def test_weights_that_cannot_be_had(weights):
    with pytest.raises(WeightsError, match=weights):
        VGG19(weights=weights, depth="relu1_1")


def test_damaged_npz(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(TfstyleError, match=r"weights\.npz"):
        VGG16(weights=str(path), depth="relu1_1")


def test_config_round_trip():
    encoder = VGG16(weights=None, depth="relu2_2", preprocessing="torch")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
    assert (again.depth, again.preprocessing) == ("relu2_2", "torch")
