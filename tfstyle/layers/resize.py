"""Reducing images by area averaging."""

from __future__ import annotations

from keras import ops

from tfstyle._private.images import checked_whole


def reduce_size(images, longest: int):
    """Reduces images by area averaging until no side is longer than `longest`.

    Args:
        images: float tensor (B, H, W, 1), any size, static or not.
        longest: Largest height or width of the result, at least 1.

    Returns:
        float tensor (B, h, w, 1) of nearly the same proportions; smaller images stay as they are.

    Raises:
        ArgumentError: if `longest` is below 1.

    Example:
        >>> reduce_size(ops.ones((1, 512, 400, 1)), 256).shape
        TensorShape([1, 256, 200, 1])
    """
    checked_whole("longest", longest, 1)
    shape = ops.shape(images)
    height, width = shape[1], shape[2]
    if isinstance(height, int) and isinstance(width, int) and max(height, width) <= longest:
        return images
    if isinstance(height, int) and isinstance(width, int):
        scale = longest / max(height, width)
        rows, columns = (max(int(size * scale + 0.5), 1) for size in (height, width))
    else:
        largest = ops.maximum(ops.maximum(height, width), longest)
        scale = longest / ops.cast(largest, "float32")
        rows, columns = (
            ops.maximum(ops.cast(ops.cast(size, "float32") * scale + 0.5, "int32"), 1)
            for size in (height, width)
        )
    down, across = _area_weights(height, rows), _area_weights(width, columns)
    reduced = ops.matmul(ops.matmul(down, images[..., 0]), ops.transpose(across))
    return ops.expand_dims(reduced, -1)  # LiteRT has no slice of free sizes that adds an axis


def _area_weights(size, reduced):
    """(reduced, size) share of every pixel in every reduced pixel; rows sum to 1."""
    step = ops.cast(size, "float32") / ops.cast(reduced, "float32")
    start = ops.arange(reduced, dtype="float32")[:, None] * step
    pixel = ops.arange(size, dtype="float32")[None]
    overlap = ops.minimum(start + step, pixel + 1.0) - ops.maximum(start, pixel)
    return ops.relu(overlap) / step
