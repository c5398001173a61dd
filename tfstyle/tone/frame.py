"""The part of an image that shows something, in one size: the air around a body tells nothing."""

from __future__ import annotations

from keras import ops

#: Side of the thumbnail in which the frame is found.
THUMBNAIL = 48
#: A gray level this much above the darkest of the thumbnail shows something.
ABOVE_DARKEST = 0.04
#: Rows and columns belong to the frame from the first to the last with this share of such pixels.
LEAST_SHARE = 0.06
#: Shortest side of a frame, as a share of the image's side, and of the frame's other side.
LEAST_SIDE, LEAST_ASPECT = 0.4, 0.6


def frame(images, size: int):
    """Cuts images (B, H, W, 1) to what they show, and gives that the size (size, size).

    Frames are stretched to squares, by 1 / LEAST_ASPECT at most unless the image itself is longer.
    """
    x = ops.cast(images, "float32")[..., 0]
    shape = ops.shape(x)
    height, width = (ops.cast(side, "float32") for side in shape[1:3])
    nothing = 0.0 * x[:, 0, 0]  # not a constant: TFLite's converter folds constant weights wrongly
    thumbnail = resample(x, (nothing, nothing + height), (nothing, nothing + width), THUMBNAIL)
    darkest = ops.min(thumbnail, axis=(1, 2), keepdims=True)
    shown = ops.cast(thumbnail > darkest + ABOVE_DARKEST, "float32")
    rows, columns = (_extent(ops.mean(shown, axis=axis)) for axis in (2, 1))
    rows = [edge * (height / THUMBNAIL) for edge in rows]
    columns = [edge * (width / THUMBNAIL) for edge in columns]
    tall, wide = rows[1] - rows[0], columns[1] - columns[0]
    rows = _extended(rows, ops.maximum(LEAST_SIDE * height, LEAST_ASPECT * wide), height)
    columns = _extended(columns, ops.maximum(LEAST_SIDE * width, LEAST_ASPECT * tall), width)
    return resample(x, rows, columns, size)[..., None]


def resample(x, rows, columns, size: int):
    """Parts of images (B, H, W), given by first and last edges in pixels, in (size, size).

    Enlarged by linear interpolation, reduced by means over triangles of twice a pixel's width.
    """
    shape = ops.shape(x)
    down, across = _weights(rows, shape[1], size), _weights(columns, shape[2], size)
    return ops.matmul(ops.matmul(down, x), ops.transpose(across, (0, 2, 1)))


def _weights(edges, count, size):
    """(B, size, count) shares of pixels in those of the result; rows sum to 1."""
    start, stop = edges
    step = ((stop - start) / size)[:, None, None]
    middle = ops.arange(size, dtype="float32")[None, :, None] + 0.5
    middle = start[:, None, None] + middle * step
    pixel = ops.arange(count, dtype="float32")[None, None] + 0.5
    weights = ops.relu(1.0 - ops.abs(pixel - middle) / ops.maximum(step, 1.0))
    return weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1e-6)


def _extent(shares):
    """First and last edge of what is shown along an axis, from shares (B, N); all if nothing is."""
    there, count = shares > LEAST_SHARE, shares.shape[1]
    place = ops.arange(count, dtype="float32")[None]
    first = ops.min(ops.where(there, place, float(count)), axis=1)
    last = ops.max(ops.where(there, place + 1.0, 0.0), axis=1)
    nothing = last < first
    return ops.where(nothing, 0.0, first), ops.where(nothing, float(count), last)


def _extended(edges, least, whole):
    """The edges at least `least` apart, within the image as far as it goes."""
    start, stop = edges
    middle, length = 0.5 * (start + stop), ops.minimum(ops.maximum(stop - start, least), whole)
    start = ops.clip(middle - 0.5 * length, 0.0, whole - length)
    return start, start + length
