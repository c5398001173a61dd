"""Arrays as TensorProto and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto


def encode_tensor(proto: TensorProto, value: np.ndarray) -> None:
    """Fills a TensorProto from an array, numbers as bytes and with one copy."""
    if value.dtype.kind not in "fiub" or not value.flags.c_contiguous or value.size < 2:
        proto.CopyFrom(tf.make_tensor_proto(value))
        return
    proto.dtype = tf.as_dtype(value.dtype).as_datatype_enum
    for size in value.shape:
        proto.tensor_shape.dim.add().size = size
    proto.tensor_content = value.tobytes()


def decode_tensor(proto: TensorProto) -> np.ndarray:
    """The array in a TensorProto; read-only and without a copy where it holds plain bytes.

    Raises:
        TypeError: It has no dtype, or one that NumPy lacks.
        ValueError: Its values do not fit its shape.
    """
    content = proto.tensor_content
    if not content:
        return tf.make_ndarray(proto)
    dtype = tf.as_dtype(proto.dtype).as_numpy_dtype
    return np.frombuffer(content, dtype).reshape([dim.size for dim in proto.tensor_shape.dim])
