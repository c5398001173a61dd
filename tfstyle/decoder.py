"""The decoder: maps normalized features back to an image, as the mirror of its encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
from keras import layers

from tfstyle._private.keras_files import KerasFile
from tfstyle.encoders.base import Encoder
from tfstyle.errors import ArgumentError
from tfstyle.layers.convolution import fast_forms
from tfstyle.layers.padding import ReflectionPadding2D

#: Width of a decoder that is not a mirror: channels for each pixel of stride, and at most.
_CHANNELS_PER_STRIDE, _MOST_CHANNELS = 32, 256


@keras.saving.register_keras_serializable(package="tfstyle")
class Decoder(KerasFile, keras.Model):
    """Maps features at one tap of an encoder to an image, after Huang and Belongie (2017).

    3x3 convolutions with padding by reflection and ReLU, nearest neighbor upsampling between
    them, and no normalization, as in section 6 there. The last convolution gives one channel
    without activation. :meth:`for_encoder` makes the one for a tap.

    Args:
        channels: Channels of the feature maps from the tap up to the image, for example
            ``(256, 128, 128, 64, 64)`` for VGG's ``relu3_1``.
        strides: Stride of each of those maps, for example ``(4, 2, 2, 1, 1)``.
        name: Keras model name.

    Call arguments:
        x: float tensor (B, h, w, channels[0]), h and w at least 2.

    Returns:
        float tensor (B, h·strides[0], w·strides[0], 1), nominally in [0, 1] but not clipped.

    Raises:
        ArgumentError: if channels and strides do not describe an encoder.

    Example:
        >>> decoder = Decoder.for_encoder(tfstyle.encoders.VGG16, "relu1_1")
        >>> decoder(np.zeros((1, 8, 8, 64))).shape
        TensorShape([1, 8, 8, 1])
    """

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], name=None):
        super().__init__(name=name or "decoder")
        self.channels = tuple(int(c) for c in channels)
        self.strides = tuple(int(s) for s in strides)
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ArgumentError(
                f"channels and strides: must have the same length above 0, received "
                f"{self.channels} and {self.strides}."
            )
        if any(a % b for a, b in zip(self.strides, (*self.strides[1:], 1))):
            raise ArgumentError(f"strides: must divide one another downwards: {self.strides}.")
        self.steps = []
        following = [*zip(self.channels[1:], self.strides[1:]), (1, 1)]
        for index, (stride, (channels_out, stride_out)) in enumerate(zip(self.strides, following)):
            last = index == len(following) - 1
            self.steps.append(ReflectionPadding2D(1, name=f"pad{index}"))
            self.steps.append(
                layers.Conv2D(
                    channels_out,
                    3,
                    data_format="channels_last",
                    activation=None if last else "relu",
                    name=f"conv{index}",
                )
            )
            if stride != stride_out:
                self.steps.append(
                    layers.UpSampling2D(
                        stride // stride_out,
                        data_format="channels_last",
                        interpolation="nearest",
                        name=f"up{index}",
                    )
                )
        self.build((None, None, None, self.channels[0]))

    @classmethod
    def for_encoder(cls, encoder: Encoder | type[Encoder], layer: str) -> Decoder:
        """Builds the decoder for the tap `layer` of an encoder; see :meth:`plan`."""
        return cls(*cls.plan(encoder, layer))

    @staticmethod
    def plan(
        encoder: Encoder | type[Encoder], layer: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and strides of the decoder for a tap, out of the encoder's tap table.

        A VGG is mirrored: each 3x3 convolution up to the tap is answered by one, each pooling by
        upsampling. The mirror of a residual or dense network would be far larger than the network,
        and at the size of the image, where the encoder has no map, there would be nothing. There
        every stride from the tap's down to 1 has two maps (the tap itself is the first), of 32
        channels times the stride, at most 256 and at most the tap's; upsampling is by 2 each time.

        Raises:
            ArgumentError: if the encoder has no such tap, or there is nothing to decode.

        Example:
            >>> Decoder.plan(tfstyle.encoders.ResNet50, "conv2_block1_out")
            ((256, 128, 64, 64, 32, 32), (4, 4, 2, 2, 1, 1))
        """
        taps = encoder.taps_table[: encoder.order(layer) + 1][::-1]
        if not taps:
            raise ArgumentError(f"layer: {layer!r} has nothing to decode; use a tap behind it.")
        if encoder.plain:
            return tuple(tap.channels for tap in taps), tuple(tap.stride for tap in taps)
        tap, stride = taps[0], taps[0].stride
        most = min(tap.channels, _MOST_CHANNELS)
        maps = [(tap.channels, stride), (min(_CHANNELS_PER_STRIDE * stride, most), stride)]
        while stride > 1:
            stride //= 2
            maps += 2 * [(min(_CHANNELS_PER_STRIDE * stride, most), stride)]
        channels, strides = zip(*maps)
        return channels, strides

    def build(self, input_shape):
        shape = (None, None, None, self.channels[0])
        for step in self.steps:
            if not step.built:
                step.build(shape)
            shape = step.compute_output_shape(shape)
        self.built = True

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return x

    def faster(self) -> Callable:
        """The decoder's call with :func:`tfstyle.layers.convolution.fast_forms` swapped in.

        It has the decoder's weights and gives its results but for rounding.
        """
        steps = [*map(fast_forms(), self.steps)]
        return lambda x: functools.reduce(lambda x, step: step(x), steps, x)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        factor = self.strides[0]
        return (
            batch,
            None if height is None else height * factor,
            None if width is None else width * factor,
            1,
        )

    def get_config(self):
        return {
            "channels": list(self.channels),
            "strides": list(self.strides),
            "name": self.name,
        }
