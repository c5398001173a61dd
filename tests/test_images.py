"""Gray levels as tensors: what is refused, in eager code, in graphs and in pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfstyle._private.images import as_batch, gray_tensor
from tfstyle.errors import ArgumentError

GOOD = np.random.default_rng(0).random((2, 6, 5, 1)).astype(np.float32)
HALF = GOOD.copy()
HALF[1] = 2000 * HALF[1] - 1000
ONE_NAN = GOOD.copy()
ONE_NAN[0, 2, 3] = np.nan

#: Values that are not gray levels, and what both the eager and the graph's error say.
WRONG = {
    "HU": (2000 * GOOD - 1000, "apply a window"),
    "half in HU": (HALF, "apply a window"),
    "a little beyond": (GOOD * 0 + 1.01, "apply a window"),
    "NaN": (ONE_NAN, "holds NaN or infinite"),
    "infinite": (GOOD * np.float32(np.inf), "holds NaN or infinite"),
}


def graph(values):
    return tf.function(lambda x: gray_tensor(x, "content"), autograph=False)(values)


def pipeline(values):
    data = tf.data.Dataset.from_tensor_slices(values).batch(2)
    return next(iter(data.map(lambda x: gray_tensor(x, "content"))))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(name):
    values, message = WRONG[name]
    for refused, error in (
        (lambda x: gray_tensor(x, "content"), ArgumentError),
        (lambda x: as_batch(x, "content"), ArgumentError),
        (graph, tf.errors.InvalidArgumentError),
        (pipeline, tf.errors.InvalidArgumentError),
    ):
        with pytest.raises(error, match=f"content: .*{message}"):
            refused(values)


def test_the_graph_names_the_values():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[-1000\]\s*\[\d+\]"):
        graph(np.float32([-1000, 500.5]).reshape(1, 2, 1, 1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("run", [lambda x: gray_tensor(x, "content"), graph])
def test_gray_levels_pass_as_float32(dtype, run):
    result = run(GOOD.astype(dtype))
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, GOOD, atol=1e-3)
    rounded = np.float32([-5e-4, 1 + 5e-4]).reshape(1, 2, 1, 1)
    np.testing.assert_array_equal(run(rounded), rounded)


def test_sizes_may_be_unknown():
    spec = tf.TensorSpec((None, None, None, 1))
    traced = tf.function(lambda x: gray_tensor(x, "x"), input_signature=[spec], autograph=False)
    assert traced(GOOD[:, :3]).shape == (2, 3, 5, 1)
    assert traced(GOOD[:0]).shape == (0, 6, 5, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((255 * GOOD).astype(np.uint8), "content: must be float.*uint8"),
        (GOOD > 0.5, "content: must be float.*bool"),
        (GOOD[..., 0], r"content: must be \(B, H, W, 1\).*\(2, 6, 5\)"),
        (np.repeat(GOOD, 3, axis=-1), r"content: must be \(B, H, W, 1\).*\(2, 6, 5, 3\)"),
        (tf.ragged.constant([[[[0.0]]], [[[0.0]], [[1.0]]]]), "content: must be a dense.*Ragged"),
        (tf.sparse.from_dense(GOOD), "content: must be a dense.*Sparse"),
        ([{"a": 1}], "content: not a numeric tensor"),
    ],
)
def test_wrong_tensors(images, message):
    with pytest.raises(ArgumentError, match=message):
        gray_tensor(images, "content")
