"""Messages of the size of images, and descriptions of tensors in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
