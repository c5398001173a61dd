"""Arrays as TensorProto and back."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from tfstyle.serving.tensors import decode_tensor, encode_tensor


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        np.arange(6, dtype=np.int64),
        np.array([True, False]),
        np.array([1.5, -2.0], np.float16),
        np.array([1.5, -2.0], ml_dtypes.bfloat16),
        np.float32(0.25) * np.ones(()),
        np.zeros((0, 4, 4, 1), np.float32),
        np.array([b"a", b"bc"], object),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_there_and_back(value):
    proto = TensorProto()
    encode_tensor(proto, np.asarray(value))
    result = decode_tensor(proto)
    assert result.dtype == value.dtype
    np.testing.assert_array_equal(result, value)
    np.testing.assert_array_equal(tf.make_ndarray(proto), value)


def test_one_value_stands_for_all():
    proto = tf.make_tensor_proto(0.5, tf.float32, [2, 3])
    np.testing.assert_array_equal(decode_tensor(proto), np.full((2, 3), 0.5, np.float32))


@pytest.mark.parametrize("dtype", [tf.string.as_datatype_enum, 0, 99])
def test_bytes_without_a_numeric_dtype(dtype):
    proto = TensorProto(dtype=dtype, tensor_content=bytes(8))
    proto.tensor_shape.dim.add().size = 1
    with pytest.raises((TypeError, ValueError)):
        decode_tensor(proto)
