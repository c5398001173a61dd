"""Padding by reflection, as a layer and for whole images."""

from __future__ import annotations

import keras
from keras import ops

from tfstyle._private.images import checked_whole
from tfstyle.errors import ArgumentError


@keras.saving.register_keras_serializable(package="tfstyle")
class ReflectionPadding2D(keras.layers.Layer):
    """Pads height and width by reflection without repeating the border pixel.

    A 3x3 convolution behind it sees no invented dark frame, as it would with zeros.

    Args:
        padding: Pixels on every side; must be smaller than the height and width of the input.

    Raises:
        ArgumentError: if an image is not larger than the padding.

    Example:
        >>> ReflectionPadding2D(1)(np.zeros((1, 8, 8, 4))).shape
        TensorShape([1, 10, 10, 4])
    """

    def __init__(self, padding: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.padding = checked_whole("padding", padding, 0)

    def build(self, input_shape):
        self.built = True

    def call(self, x):
        p = self.padding
        if any(size is not None and size <= p for size in x.shape[1:3]):
            raise ArgumentError(f"x: must be larger than {p} pixels, received shape {x.shape}.")
        # Of slices: tf.pad becomes an operation in LiteRT that looks up the source of every value
        # and takes as long as a convolution.
        for axis in (1, 2):
            whole = (slice(None),) * axis
            before = [x[(*whole, slice(i, i + 1))] for i in range(p, 0, -1)]
            behind = [x[(*whole, slice(-1 - i, -i))] for i in range(1, p + 1)]
            x = ops.concatenate([*before, x, *behind], axis=axis)
        return x

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        grow = 2 * self.padding
        return (
            batch,
            None if height is None else height + grow,
            None if width is None else width + grow,
            channels,
        )

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def extend_to_stride(images, stride: int):
    """Images (B, H, W, C) extended below and to the right by reflection to multiples of a stride.

    Sizes may be open when the graph is made; both sides become at least two strides.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        if size is not None and size % stride == 0 and size >= 2 * stride:
            continue
        size = ops.shape(images)[axis]
        total = ops.maximum(-(-size // stride) * stride, 2 * stride)
        # Reflected again and again: works for one pixel too, where tf.pad refuses.
        size = ops.cast(size, "int32")
        period = ops.maximum(2 * (size - 1), 1)
        position = ops.mod(ops.arange(total, dtype="int32"), period)
        rows = ops.where(position < size, position, period - position)
        images = ops.take(images, rows, axis=axis)
    return images
