"""The blockwise contextual loss against dense matrices in float64, value and gradient."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.process import python
from tfstyle.losses import ContextualLoss, contextual_loss, contextual_similarity


def dense64(g, x, bandwidth=0.1, spatial=0.0, distance="cosine"):
    """−log CA and its gradients by g and x, whole matrices in float64, TensorFlow's gradient."""
    g, x = tf.constant(g, tf.float64), tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([g, x])
        gv, xv = (tf.reshape(v, (v.shape[0], -1, v.shape[-1])) for v in (g, x))
        center = tf.reduce_mean(xv, axis=1, keepdims=True)
        gv, xv = gv - center, xv - center
        if distance == "l2":
            d = tf.reduce_sum(gv**2, -1)[:, :, None] + tf.reduce_sum(xv**2, -1)[:, None]
            d -= 2 * tf.matmul(gv, xv, transpose_b=True)
        else:
            gv, xv = (v / tf.norm(v, axis=-1, keepdims=True) for v in (gv, xv))
            d = 1 - tf.matmul(gv, xv, transpose_b=True)
            d = d / 2 if distance == "cosine/2" else d
        if spatial:
            height, width = x.shape[1:3]
            rows, columns = np.divmod(np.arange(height * width), width)
            far = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
            d = (1 - spatial) * d + spatial * far / (max(height, width) / 4) ** 2
        relative = d / (tf.reduce_min(d, axis=2, keepdims=True) + 1e-5)
        ca = tf.nn.softmax((1 - relative) / bandwidth, axis=2)
        loss = -tf.math.log(tf.reduce_mean(tf.reduce_max(ca, axis=1), axis=1))
    return [loss.numpy(), *(v.numpy() for v in tape.gradient(loss, [g, x]))]


def value_and_gradients(g, x, jit=False, **options):
    options = {"method": "blockwise", **options}

    @tf.function(jit_compile=jit, autograph=False)
    def run(g, x):
        with tf.GradientTape() as tape:
            tape.watch([g, x])
            loss = contextual_loss(g, x, **options)
        return [loss, *tape.gradient(loss, [g, x])]

    return [value.numpy() for value in run(tf.constant(g), tf.constant(x))]


def relative_error(value, expected):
    value = np.asarray(value, np.float64)
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def random_features(seed, height, width, channels=32, batch=1):
    rng = np.random.default_rng(seed)
    shape = (batch, height, width, channels)
    g, x = rng.normal(size=shape), rng.normal(size=shape)
    # Half of one image is in the other, as in a content and what was generated from it.
    return (np.float32(np.maximum(v, 0)) for v in (0.7 * g + 0.7 * x, x))


def check(result, expected):
    assert relative_error(result[0], expected[0]) <= 1e-5
    assert relative_error(result[1], expected[1]) <= 1e-4
    assert relative_error(result[2], expected[2]) <= 1e-4


class TestEqualsDense:
    @pytest.mark.parametrize(
        ("size", "block", "jit"), [((8, 8), 1000, False), ((7, 9), 10, True), ((25, 40), 96, False)]
    )
    def test_random_features(self, size, block, jit):
        g, x = random_features(0, *size, batch=2)
        check(value_and_gradients(g, x, jit, block=block), dense64(g, x))

    @pytest.mark.parametrize(
        ("method", "distance", "spatial"),
        [
            ("blockwise", "cosine/2", 0.6),
            ("blockwise", "l2", 0.0),
            ("dense", "cosine/2", 0.6),
            ("dense", "l2", 0.0),
        ],
    )
    def test_distances(self, distance, spatial, method):
        g, x = random_features(2, 9, 11, batch=2)
        result = value_and_gradients(
            g, x, distance=distance, spatial_weight=spatial, method=method, bandwidth=0.3
        )
        check(result, dense64(g, x, 0.3, spatial, distance))

    def test_maps_of_different_size(self):
        (g, _), (_, x) = random_features(4, 9, 11), random_features(5, 6, 7)
        check(value_and_gradients(g, x, block=16), dense64(g, x))
        check(value_and_gradients(x, g, block=16), dense64(x, g))

    def test_unknown_sizes(self):
        map_ = tf.TensorSpec((None, None, None, 8), tf.float32)

        @tf.function(input_signature=(map_, map_), autograph=False)
        def run(g, x):
            with tf.GradientTape() as tape:
                tape.watch(g)
                loss = contextual_loss(g, x, spatial_weight=0.2)
            return loss, tape.gradient(loss, g)

        for size, batch in (((5, 6), 1), ((13, 8), 3)):
            g, x = random_features(6, *size, channels=8, batch=batch)
            loss, gradient = run(g, x)
            expected = dense64(g, x, spatial=0.2)
            assert relative_error(loss, expected[0]) <= 1e-5
            assert relative_error(gradient, expected[1]) <= 1e-4


class TestDegenerate:
    @pytest.mark.parametrize("case", ["identical", "zeros", "one zero", "ties"])
    def test_finite(self, case):
        g, x = random_features(7, 6, 7, channels=5)
        if case == "identical":
            g = x
        elif case == "zeros":
            g, x = np.zeros_like(g), np.zeros_like(x)
        elif case == "one zero":
            g[:, 2, 3], x[:, 2, 3] = x[0].mean((0, 1)), x[0].mean((0, 1))
        else:
            g[:, 3:], x[:, 3:6] = g[:, :3], x[:, :3]
        for method in ("blockwise", "dense"):
            for value in value_and_gradients(g, x, method=method, block=8):
                assert np.isfinite(value).all()

    def test_identical_maps_match_in_full(self):
        x = next(random_features(8, 9, 9))
        assert contextual_similarity(x, x, method="blockwise", block=16)[0] > 0.999


class TestOptions:
    def test_center_is_the_samples_own(self):
        """A sample's loss does not depend on the batch that it is in."""
        (a, b), (c, d) = random_features(10, 6, 6), random_features(11, 6, 6)
        both = contextual_loss(
            np.concatenate([a, 3 * c]), np.concatenate([b, 3 * d + 5]), method="blockwise", block=8
        )
        np.testing.assert_allclose(both[0], contextual_loss(a, b)[0], rtol=1e-5)
        np.testing.assert_allclose(both[1], contextual_loss(3 * c, 3 * d + 5)[0], rtol=1e-5)

    def test_directions_as_a_keras_loss(self):
        g, x = random_features(12, 6, 6, batch=2)
        names = ("forward", "reverse", "symmetric")
        for method in ("blockwise", "dense"):
            forward, reverse, both = (
                contextual_loss(g, x, 0.3, distance="l2", direction=name, method=method)
                for name in names
            )
            assert np.abs(forward - reverse).min() > 1e-3
            np.testing.assert_allclose(both, (forward + reverse) / 2, rtol=1e-6)
        loss = ContextualLoss(bandwidth=0.3, distance="l2", direction="symmetric")
        assert float(loss(x, g)) == pytest.approx(float(np.mean(both)))
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert float(again(x, g)) == pytest.approx(float(loss(x, g)))


MEMORY = """
import resource
import tensorflow as tf
from tfstyle.losses import contextual_loss

@tf.function(autograph=False)
def step(g, x):
    with tf.GradientTape() as tape:
        tape.watch([g, x])
        loss = contextual_loss(g, x, method="blockwise")
    return tape.gradient(loss, [g, x])

for side in (8, 80):
    step(*(tf.random.stateless_uniform((1, side, side, 4), (seed, 0)) for seed in (0, 1)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
@pytest.mark.slow
def test_memory_grows_with_the_block_alone():
    """By less than one of the matrices of 6400 x 6400 pairs of which the dense form has several."""
    small, large = map(int, python("-c", MEMORY).split())
    assert (large - small) * 1024 < 6400**2 * 4
