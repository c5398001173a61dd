"""Arrays as TensorProto and back, and descriptions of tensors in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

#: Options of gRPC channels and servers for messages of the size of images, which would otherwise
#: wait for the other side's leave every 64 kB.
LARGE_MESSAGES = (
    ("grpc.http2.lookahead_bytes", 4 * 2**20),
    ("grpc.http2.max_frame_size", 2**20),
)


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


def describe_tensor(info: TensorInfo | TensorProto) -> str:
    """Dtype and shape in words, such as ``float32 (?, ?, ?, 1)``."""
    try:
        dtype = tf.as_dtype(info.dtype).name
    except TypeError:
        dtype = f"dtype {info.dtype}"
    if info.tensor_shape.unknown_rank:
        return f"{dtype} of any shape"
    sizes = ("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)
    return f"{dtype} ({', '.join(sizes)})"
