"""Export of the U-Net as a servable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError
from tfstyle.export import Servable, export_unet, read_metadata
from tfstyle.segmentation import UNet


@pytest.fixture(scope="module")
def unet():
    keras.utils.set_random_seed(1)
    return UNet(classes=3, depth=2, width=4, normalization="batch")


@pytest.fixture(scope="module")
def exported(unet, tmp_path_factory):
    return export_unet(unet, tmp_path_factory.mktemp("models") / "unet")


def test_layout_and_metadata(unet, exported):
    assert exported.name == "1"
    data = read_metadata(exported)
    assert data["model"]["class"] == "UNet"
    assert data["model"]["classes"] == 3
    assert set(data["signatures"]) == {"segment", "serving_default"}
    assert data["signatures"]["segment"]["outputs"]["mask"]["range"] == [0, 2]
    assert data["parameters"] == unet.count_params()


@pytest.fixture(scope="module")
def servable(exported):
    with Servable(exported) as servable:
        yield servable


@pytest.mark.parametrize(
    ("size", "signature"), [((1, 1, 1), "segment"), ((2, 17, 30), "serving_default")]
)
def test_servable_equals_the_model(unet, servable, size, signature):
    image = np.random.default_rng(0).random((*size, 1), dtype=np.float32)
    served = servable.run(signature, {"image": image})
    np.testing.assert_allclose(served["probabilities"], unet.probabilities(image), atol=1e-5)
    np.testing.assert_array_equal(served["mask"], unet.segment(image))
    assert served["mask"].dtype == np.int32


def test_graph_refuses_bad_input(servable):
    image = np.full((1, 8, 8, 1), np.nan, np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image"):
        servable.run("segment", {"image": image})


def test_bad_argument(tmp_path):
    with pytest.raises(ArgumentError, match="probabilities"):
        export_unet(object(), tmp_path)
