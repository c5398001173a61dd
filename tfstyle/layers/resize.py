"""Reducing images by area averaging."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfstyle.errors import ArgumentError


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
    if longest < 1:
        raise ArgumentError(f"longest: must be at least 1, received {longest!r}.")
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
    return ops.matmul(ops.matmul(down, images[..., 0]), ops.transpose(across))[..., None]


def _area_weights(size, reduced):
    """(reduced, size) share of every pixel in every reduced pixel; rows sum to 1."""
    step = ops.cast(size, "float32") / ops.cast(reduced, "float32")
    start = ops.arange(reduced, dtype="float32")[:, None] * step
    pixel = ops.arange(size, dtype="float32")[None]
    overlap = ops.minimum(start + step, pixel + 1.0) - ops.maximum(start, pixel)
    return ops.relu(overlap) / step


def reduce_array(images: np.ndarray, longest: int) -> np.ndarray:
    """:func:`reduce_size` in NumPy, without threads that a single image would wait for.

    Args:
        images: float32 array (B, H, W, 1).
        longest: Largest height or width of the result, at least 1.

    Returns:
        float32 array (B, h, w, 1); `images` themselves where they are small.
    """
    sides = images.shape[1:3]
    if max(sides) <= longest:
        return images
    scale = longest / max(sides)
    for axis, side in zip((1, 2), sides):
        images = _averaged(images, max(int(side * scale + 0.5), 1), axis)
    return images


def _averaged(images: np.ndarray, reduced: int, axis: int) -> np.ndarray:
    side = images.shape[axis]
    edges = np.arange(reduced) * (side / reduced)
    first = edges.astype(int)
    # Sums of whole pixels; of the pixel that an edge cuts, a part belongs to what lies before it.
    sums = np.add.reduceat(images, first, axis=axis)
    parts = (edges - first).astype(np.float32).reshape((-1, *[1] * (3 - axis)))
    parts = parts * images.take(first, axis)
    sums -= parts
    before, after = [slice(None)] * 4, [slice(None)] * 4
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    sums[tuple(before)] += parts[tuple(after)]
    return sums * np.float32(reduced / side)
