"""A fixed line for each channel: what batch normalisation is once training is over."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfstyle")
class ChannelAffine(keras.layers.Layer):
    """``scale · x + shift`` with one scale and one shift a channel.

    Batch normalisation in inference is this with ``scale = γ / √(σ² + ε)`` and
    ``shift = β − scale · μ`` (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2, step 11).

    Args:
        activation: Name of an activation applied to the result, or None.

    Example:
        >>> ChannelAffine(activation="relu")(np.zeros((1, 8, 8, 4))).shape
        TensorShape([1, 8, 8, 4])
    """

    def __init__(self, activation: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
        self.shift = self.add_weight(shape=channels, initializer="zeros", name="shift")
        self.built = True

    def call(self, x):
        return self.activation(x * ops.cast(self.scale, x.dtype) + ops.cast(self.shift, x.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}
