"""Gray levels as tensors: what passes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfstyle._private.images import gray_tensor
from tfstyle.errors import ArgumentError

GOOD = np.random.default_rng(0).random((2, 6, 5, 1)).astype(np.float32)


def graph(values):
    return tf.function(lambda x: gray_tensor(x, "content"), autograph=False)(values)


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
        (GOOD * 0 + 1.01, "content: .*apply a window"),
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
