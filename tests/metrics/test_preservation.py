"""Monotonicity and edge displacement: definitions, properties, Keras metrics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstyle import metrics
from tfstyle.data import scan_to_unit, spine_phantom
from tfstyle.errors import ArgumentError
from tfstyle.metrics.monotone import LEVELS, _isotonic


def phantoms(count=2, size=96):
    images = [scan_to_unit(spine_phantom(seed, size).scan, "soft_tissue") for seed in range(count)]
    return np.concatenate(images).astype(np.float32)


def pool_adjacent_violators(means, weights):
    """Isotonic regression as in the textbook: merge neighbors until nothing falls."""
    blocks = []
    for mean, weight in zip(means, weights):
        blocks.append([mean, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            m, w, n = blocks.pop()
            blocks[-1][0] = (blocks[-1][0] * blocks[-1][1] + m * w) / (blocks[-1][1] + w)
            blocks[-1][1] += w
            blocks[-1][2] += n
    return np.concatenate([[m] * n for m, _, n in blocks])


class TestMonotonicity:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6))
    def test_closed_form_is_isotonic_regression(self, seed):
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 6, LEVELS).astype(np.float32)
        counts[0] += 1
        means = rng.normal(size=LEVELS) + np.linspace(0, 2, LEVELS)
        there = counts > 0
        sums = (means * counts).astype(np.float32)
        found = np.asarray(_isotonic(tf.constant(counts[None]), tf.constant(sums[None])))[0]
        expected = pool_adjacent_violators(means[there], counts[there])
        np.testing.assert_allclose(found[there], expected, atol=1e-4)

    def test_any_rising_curve_will_do_even_one_a_place(self):
        x = phantoms()
        gain = np.linspace(0.5, 1.0, x.shape[2], dtype=np.float32)[None, None, :, None]
        for y in (x, 0.3 * x + 0.4, x**2, np.sqrt(x), x > 0.4, gain * x):
            scores = metrics.monotonicity_scores(x, np.asarray(y, np.float32))
            assert (scores.numpy() > 0.98).all()

    def test_reversed_gray_scale(self):
        x = phantoms()
        assert (metrics.monotonicity_scores(x, 1 - x).numpy() < 0.05).all()
        half = x.copy()
        half[:, :48] = 1 - half[:, :48]
        scores = metrics.monotonicity_scores(x, half).numpy()
        assert ((scores > 0.2) & (scores < 0.9)).all()

    def test_a_small_organ_turned_dark_is_seen_where_it_is(self):
        x = phantoms(1)
        y = x.copy()
        y[:, 40:56, 40:56] = 1 - y[:, 40:56, 40:56]
        mask = np.zeros(x.shape, bool)
        mask[:, 40:56, 40:56] = True
        whole = metrics.monotonicity_scores(x, y).numpy()[0]
        there = metrics.monotonicity_scores(x, y, mask).numpy()[0]
        assert there < 0.1 < whole

    def test_noise_and_invented_structure_lower_it(self):
        x = phantoms()
        rng = np.random.default_rng(0)
        previous = np.ones(len(x))
        for sigma in (0.02, 0.1, 0.4):
            y = (x + rng.normal(0, sigma, x.shape)).astype(np.float32)
            scores = metrics.monotonicity_scores(x, y).numpy()
            assert (scores < previous).all()
            previous = scores
        noise = rng.random(x.shape).astype(np.float32)
        assert (metrics.monotonicity_scores(x, noise).numpy() < 0.05).all()

    def test_only_the_mask_counts(self):
        x = phantoms()
        y = x.copy()
        y[:, :, 48:] = 1 - y[:, :, 48:]
        mask = np.zeros(x.shape, bool)
        mask[:, :, :48] = True
        np.testing.assert_allclose(metrics.monotonicity_scores(x, y, mask), 1, atol=2e-3)

    def test_flat_images(self):
        x = phantoms()
        flat = np.full_like(x, 0.5)
        np.testing.assert_array_equal(metrics.monotonicity_scores(x, flat), [1, 1])
        assert np.isnan(metrics.monotonicity(x[0], flat[0]))
        # Structure where the content has none is all invented.
        np.testing.assert_allclose(metrics.monotonicity_scores(flat, x), 0, atol=1e-3)

    @pytest.mark.parametrize("size", [(16, 16), (33, 50), (7, 90)])
    def test_any_size_in_a_graph(self, size):
        spec = tf.TensorSpec((None, None, None, 1))
        graph = tf.function(metrics.monotonicity_scores, input_signature=[spec, spec])
        rng = np.random.default_rng(0)
        x, y = rng.random((2, 2, *size, 1)).astype(np.float32)
        np.testing.assert_allclose(graph(x, y), metrics.monotonicity_scores(x, y), rtol=1e-5)
        np.testing.assert_allclose(graph(x, x), 1, atol=5e-3)

    def test_one_pair(self):
        x = phantoms(1)[0, ..., 0]
        assert metrics.monotonicity(x, x**2, np.ones_like(x, bool)) > 0.99
        with pytest.raises(ArgumentError, match=r"\(H, W\)"):
            metrics.monotonicity(np.zeros((3, 20, 20)), np.zeros((3, 20, 20)))

    @pytest.mark.parametrize("cell", [6, 15, 16.0, True])
    def test_bad_cell(self, cell):
        x = phantoms(1)
        with pytest.raises(ArgumentError, match="cell"):
            metrics.monotonicity_scores(x, x, cell=cell)


class TestKerasMetrics:
    def flat_and_phantoms(self):
        x = phantoms(3, 64)
        x[1] = 0.5
        y = np.clip(np.roll(x, 1, axis=2) ** 1.2, 0, 1)
        return x, y

    @pytest.mark.parametrize(
        ("metric", "function"),
        [
            (metrics.StructureSimilarity(), metrics.structure_similarity),
            (metrics.EdgeDisplacement((0.7, 0.5)), None),
            (metrics.Monotonicity(), metrics.monotonicity),
        ],
        ids=["structure", "edges", "monotonicity"],
    )
    def test_mean_over_pairs_that_can_be_measured(self, metric, function):
        if function is None:

            def function(a, b):
                return metrics.edge_displacement(a, b, (0.7, 0.5))

        x, y = self.flat_and_phantoms()
        single = np.array([function(a, b) for a, b in zip(x, y)])
        assert np.isnan(single).tolist() == [False, True, False]
        update = tf.function(metric.update_state)
        update(x[:2], y[:2])
        update(x[2:], y[2:])
        assert float(metric.result()) == pytest.approx(np.nanmean(single), rel=1e-4)
        metric.reset_state()
        update(x, y, np.array([1.0, 1.0, 0.0], np.float32))
        assert float(metric.result()) == pytest.approx(single[0], rel=1e-4)

    @pytest.mark.parametrize(
        "metric",
        [metrics.StructureSimilarity(), metrics.EdgeDisplacement(0.7), metrics.Monotonicity()],
        ids=["structure", "edges", "monotonicity"],
    )
    def test_masks(self, metric):
        x = phantoms(1, 64)
        y = x.copy()
        y[:, 32:] = np.roll(1 - y[:, 32:], 1, axis=2)
        mask = np.zeros(x.shape, bool)
        mask[:, :24] = True
        metric.update_state(x, y, mask)
        expected = 0.0 if isinstance(metric, metrics.EdgeDisplacement) else 1.0
        assert float(metric.result()) == pytest.approx(expected, abs=2e-3)
        metric.update_state(x, y)
        assert abs(float(metric.result()) - expected) > 0.05

    @pytest.mark.parametrize(
        "metric",
        [
            metrics.StructureSimilarity(name="mine"),
            metrics.EdgeDisplacement((0.7, 0.5), reach=2),
            metrics.Monotonicity(cell=16),
        ],
    )
    def test_config(self, metric):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
        assert again.get_config() == metric.get_config()

    def test_bad_arguments(self):
        with pytest.raises(ArgumentError, match="spacing"):
            metrics.EdgeDisplacement(0)
        with pytest.raises(ArgumentError, match="reach"):
            metrics.EdgeDisplacement(reach=0)
