"""A fixed line for each channel: what batch normalization is once training is over."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfstyle")
class ChannelAffine(keras.layers.Layer):
    """``scale · x + shift`` with one scale and one shift a channel.

    Batch normalization in inference is this with ``scale = γ / √(σ² + ε)`` and
    ``shift = β − scale · μ`` (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2, step 11).

    Example:
        >>> ChannelAffine()(np.zeros((1, 8, 8, 4))).shape
        TensorShape([1, 8, 8, 4])
    """

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
        self.shift = self.add_weight(shape=channels, initializer="zeros", name="shift")
        self.built = True

    def call(self, x):
        return x * ops.cast(self.scale, x.dtype) + ops.cast(self.shift, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
