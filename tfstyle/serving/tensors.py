"""Arrays as TensorProto."""

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
