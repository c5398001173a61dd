"""Every loss against its equation, written out in float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import losses


def features(seed, shape=(2, 5, 6, 7)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def contextual_reference(g, x, h, spatial=0.0):
    """The definition, sample by sample, pair by pair."""
    values = []
    for gs, xs in zip(g.astype(np.float64), x.astype(np.float64)):
        height, width, channels = xs.shape
        gv, xv = gs.reshape(-1, channels), xs.reshape(-1, channels)
        center = xv.mean(0)
        gv, xv = gv - center, xv - center
        d = np.empty((len(gv), len(xv)))
        for i in range(len(gv)):
            for j in range(len(xv)):
                lengths = np.linalg.norm(gv[i]) * np.linalg.norm(xv[j])
                d[i, j] = 1 - gv[i] @ xv[j] / lengths
                if spatial:
                    a, b = np.divmod(i, width), np.divmod(j, width)
                    unit = max(height, width) / 4
                    far = ((a[0] - b[0]) / unit) ** 2 + ((a[1] - b[1]) / unit) ** 2
                    d[i, j] = (1 - spatial) * d[i, j] + spatial * far
        relative = d / (d.min(axis=1, keepdims=True) + 1e-5)
        w = np.exp((1 - relative) / h)
        ca = w / w.sum(axis=1, keepdims=True)
        values.append(-np.log(ca.max(axis=0).mean()))
    return np.array(values)


class TestContextual:
    @pytest.mark.parametrize("options", [(0.1,), (2.0,), (0.2, 0.6)])
    def test_equation(self, options):
        g, x = features(0), features(1)
        value = losses.contextual_loss(g, x, *options)
        np.testing.assert_allclose(value, contextual_reference(g, x, *options), rtol=1e-4)
        value = losses.contextual_loss(g, x, *options, method="blockwise", block=8)
        np.testing.assert_allclose(value, contextual_reference(g, x, *options), rtol=1e-4)


def test_moments_equation():
    g, y = features(0).astype(np.float64), features(1, (2, 9, 4, 7)).astype(np.float64)
    expected = np.zeros(2)
    for statistic in (np.mean, np.std):
        difference = statistic(g, axis=(1, 2)) - statistic(y, axis=(1, 2))
        expected += np.sqrt((difference**2).mean(axis=1))
    np.testing.assert_allclose(losses.moments_loss(g, y), expected, rtol=1e-3)
    np.testing.assert_allclose(losses.moments_loss(g, g), 0, atol=1e-6)


def test_gram_equation():
    g, y = features(0).astype(np.float64), features(1).astype(np.float64)
    positions, channels = 30, 7
    expected = []
    for a, b in zip(g.reshape(2, positions, channels), y.reshape(2, positions, channels)):
        difference = a.T @ a - b.T @ b
        expected.append((difference**2).sum() / (4 * channels**2 * positions**2))
    np.testing.assert_allclose(losses.gram_loss(g, y), expected, rtol=1e-4)
    gram = np.asarray(losses.gram_matrix(g))
    np.testing.assert_allclose(gram, gram.transpose(0, 2, 1), atol=1e-6)


def test_mse_equation():
    g, x = features(0), features(1)
    np.testing.assert_allclose(losses.mse_loss(g, x), ((g - x) ** 2).mean((1, 2, 3)), rtol=1e-5)


def test_histogram_equals_wasserstein():
    from tfstyle.metrics import histogram_distance

    rng = np.random.default_rng(0)
    g, y = rng.random((3, 8, 8, 1)), rng.random((3, 8, 8, 1)) ** 2
    expected = [histogram_distance(a, b) for a, b in zip(g, y)]
    np.testing.assert_allclose(losses.histogram_loss(g, y), expected, rtol=1e-5)
    shuffled = rng.permutation(g.reshape(3, -1), axis=1).reshape(g.shape)
    np.testing.assert_allclose(losses.histogram_loss(shuffled, g), 0, atol=1e-7)


def test_total_variation():
    step = np.zeros((1, 4, 6, 1), np.float32)
    step[:, :, 3:] = 0.5
    np.testing.assert_allclose(losses.total_variation_loss(step), [0.5 / 5])
    np.testing.assert_allclose(losses.total_variation_loss(np.ones((2, 4, 4, 1))), [0, 0])


def test_compiled_equals_eager():
    for function in (losses.contextual_loss, losses.moments_loss):
        compiled = tf.function(function, jit_compile=True)(features(0), features(1))
        np.testing.assert_allclose(compiled, function(features(0), features(1)), rtol=1e-4)


def test_half_precision_is_accumulated_in_single():
    big = keras.ops.cast(features(0, (1, 16, 16, 8)) * 100 + 300, "float16")
    for function in (losses.moments_loss, losses.gram_loss, losses.mse_loss):
        value = function(big, big * 0.5)
        assert value.dtype == tf.float32
        assert np.isfinite(value).all()
