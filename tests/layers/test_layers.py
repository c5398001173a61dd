"""AdaIN against its equation, padding by reflection."""

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError
from tfstyle.layers import AdaIN, ReflectionPadding2D, moments


def maps(seed, shape=(2, 6, 5, 4)):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


class TestAdaIN:
    def test_equation(self):
        x, y = maps(0), maps(1, (2, 9, 3, 4))
        expected = np.empty_like(x)
        for b in range(2):
            for c in range(4):
                a, s = x[b, :, :, c].astype(np.float64), y[b, :, :, c].astype(np.float64)
                sigma_x, sigma_y = np.sqrt(a.var() + 1e-5), np.sqrt(s.var() + 1e-5)
                expected[b, :, :, c] = sigma_y * (a - a.mean()) / sigma_x + s.mean()
        np.testing.assert_allclose(AdaIN()(x, y), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("x", "rtol"),
        [(np.abs(maps(10, (1, 512, 512, 3))), 5e-6), (maps(9) * 1e-2 + 1000, 0.05)],
        ids=["many pixels", "large mean"],
    )
    def test_moments_keep_their_digits(self, x, rtol):
        mean, std = moments(tf.constant(x))
        exact = x.astype(np.float64)
        np.testing.assert_allclose(mean[:, 0, 0], exact.mean((1, 2)), rtol=5e-6)
        np.testing.assert_allclose(std[:, 0, 0], exact.std((1, 2)), rtol=rtol)

    def test_strength_interpolates(self):
        x, y = maps(4), maps(5)
        full = np.asarray(AdaIN()(x, y))
        np.testing.assert_allclose(AdaIN()(x, y, strength=0.0), x, atol=1e-5)
        np.testing.assert_allclose(AdaIN()(x, y, strength=0.25), 0.75 * x + 0.25 * full, atol=1e-4)

    def test_one_style_for_a_batch(self):
        x, y = maps(6), maps(7, (1, 6, 5, 4))
        np.testing.assert_allclose(AdaIN()(x, y), AdaIN()(x, np.repeat(y, 2, axis=0)), rtol=1e-6)

    def test_constant_maps_stay_finite(self):
        x = tf.Variable(np.full((1, 4, 4, 2), 7.0, np.float32))
        with tf.GradientTape() as tape:
            result = AdaIN()(x, maps(8, (1, 4, 4, 2)))
            loss = tf.reduce_sum(result**2)
        assert np.isfinite(result).all()
        assert np.isfinite(tape.gradient(loss, x)).all()


class TestReflectionPadding:
    def test_equals_numpy(self):
        x = maps(0)
        expected = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        layer = ReflectionPadding2D(2)
        np.testing.assert_array_equal(layer(x), expected)
        assert layer.compute_output_shape(x.shape) == expected.shape

    def test_bad_padding(self):
        with pytest.raises(ArgumentError, match="padding"):
            ReflectionPadding2D(-1)
        with pytest.raises(ArgumentError, match="larger than 2 pixels"):
            ReflectionPadding2D(2)(maps(0, (1, 2, 5, 1)))
