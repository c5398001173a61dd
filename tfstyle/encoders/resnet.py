"""ResNet encoders: He, Zhang, Ren and Sun, "Deep residual learning", CVPR 2016."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
from keras import layers, ops

from tfstyle.encoders.base import Block, Encoder, Tap
from tfstyle.layers.convolution import convolve, overlapping_max_pooling

#: Width of the 3x3 convolutions in the stages conv2_x to conv5_x; a block's output is 4 times it.
_FILTERS = (64, 128, 256, 512)


def _taps(blocks: Sequence[int]) -> tuple[Tap, ...]:
    """Tap table of a ResNet: the first convolution and the output of every block."""
    return (
        Tap("conv1_relu", "conv1_relu", 64, 2),
        *(
            Tap(f"conv{stage}_block{i}_out", f"conv{stage}_block{i}_out", 4 * filters, 2**stage)
            for stage, (count, filters) in enumerate(zip(blocks, _FILTERS), 2)
            for i in range(1, count + 1)
        ),
    )


@keras.saving.register_keras_serializable(package="tfstyle")
class StemConvolution(Block):
    """7x7 convolution with stride 2 and ReLU, three zeros around: (B, H, W, 3) to half the size."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(
            64,
            7,
            strides=2,
            data_format="channels_last",
            activation="relu",
            name="conv1_conv",
            trainable=False,
        )
        self.steps = [self.conv]

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.built = True

    def call(self, x, fast=False):
        return self.conv(ops.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0))))

    def compute_output_shape(self, input_shape):
        return (*_halved(input_shape), 64)


@keras.saving.register_keras_serializable(package="tfstyle")
class StemPooling(Block):
    """3x3 maximum with stride 2, one zero around; the map has no negative values."""

    def build(self, input_shape):
        self.built = True

    def call(self, x, fast=False):
        if fast and None not in x.shape[1:3] and not any(size % 2 for size in x.shape[1:3]):
            return overlapping_max_pooling(x)
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return ops.max_pool(x, 3, strides=2, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        return (*_halved(input_shape), input_shape[-1])


@keras.saving.register_keras_serializable(package="tfstyle")
class Bottleneck(Block):
    """A residual block, relu(F(x) + W·x): 1x1, 3x3 and 1x1 convolutions beside a shortcut.

    The stride is that of the first 1x1 convolution, as in the paper and in keras.applications;
    torchvision puts it on the 3x3 one.

    Args:
        filters: Width of the 3x3 convolution; the output has 4 times as many channels.
        stride: Of the block.
        project: Whether the shortcut W is a 1x1 convolution, equation 2; else equation 1.
        **kwargs: ``name``, ends in ``_out``.
    """

    def __init__(self, filters: int, stride: int = 1, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.stride, self.project = filters, stride, project
        stem = self.name.removesuffix("_out")

        def conv(number, channels, size, **options):
            return layers.Conv2D(
                channels,
                size,
                data_format="channels_last",
                name=f"{stem}_{number}_conv",
                trainable=False,
                **options,
            )

        self.shortcut = conv(0, 4 * filters, 1, strides=stride) if project else None
        self.first = conv(1, filters, 1, strides=stride, activation="relu")
        self.second = conv(2, filters, 3, padding="same", activation="relu")
        self.third = conv(3, 4 * filters, 1)
        self.steps = [self.first, self.second, self.third]
        if project:
            self.steps.insert(0, self.shortcut)

    def build(self, input_shape):
        if self.project:
            self.shortcut.build(input_shape)
        self.first.build(input_shape)
        self.second.build((*input_shape[:3], self.filters))
        self.third.build((*input_shape[:3], self.filters))
        self.built = True

    def call(self, x, fast=False):
        shortcut = self.shortcut(x) if self.project else x
        x = self.first(x)
        x = convolve(self.second, x) if fast else self.second(x)
        return ops.relu(shortcut + self.third(x))

    def compute_output_shape(self, input_shape):
        shape = _halved(input_shape) if self.stride == 2 else input_shape[:3]
        return (*shape, 4 * self.filters)


class ResNet(Encoder):
    """Common architecture of ResNet50 and ResNet101, version 1, batch normalisation folded.

    | tap | table 1 of the paper | channels | stride |
    | --- | --- | ---: | ---: |
    | ``conv1_relu`` | conv1 | 64 | 2 |
    | ``conv2_block1_out`` … ``conv2_block3_out`` | conv2_x | 256 | 4 |
    | ``conv3_block1_out`` … ``conv3_block4_out`` | conv3_x | 512 | 8 |
    | ``conv4_block1_out`` … ``conv4_block6_out`` (ResNet101: 23) | conv4_x | 1024 | 16 |
    | ``conv5_block1_out`` … ``conv5_block3_out`` | conv5_x | 2048 | 32 |

    Each is the output behind the ReLU and has the name of keras.applications' layer.
    """

    default_layer = "conv3_block4_out"
    default_content_layers = ("conv3_block4_out",)
    default_style_layers = ("conv1_relu", "conv2_block3_out", "conv3_block4_out")

    @classmethod
    def make_blocks(cls) -> Iterator[keras.layers.Layer]:
        yield StemConvolution(name="conv1_relu")
        yield StemPooling(name="pool1_pool")
        before = 4
        for index, tap in enumerate(cls.taps_table[1:]):
            yield Bottleneck(
                tap.channels // 4,
                stride=tap.stride // before,
                project=index == 0 or tap.stride > before,
                name=tap.layer,
            )
            before = tap.stride

    @classmethod
    def batch_norm_of(cls, layer: str) -> str:
        return layer.removesuffix("_conv") + "_bn"

    @classmethod
    def map_size(cls, size: int, tap: Tap) -> int:
        return -(-size // tap.stride)


@keras.saving.register_keras_serializable(package="tfstyle")
class ResNet50(ResNet):
    """ResNet50 as a frozen encoder with the taps ``conv1_relu`` to ``conv5_block3_out``.

    Args:
        weights: ``"imagenet"`` (downloaded by keras.applications), a path (an ``.npz`` of tfstyle
            or an ``.h5`` of keras.applications), or None for random weights.
        depth: Deepest tap to build, ``"conv4_block6_out"`` unless told; None builds all.
        preprocessing: ``"caffe"`` (the default) or ``"torch"``; overruled by the weights where
            they are known.
        name: Keras model name.

    Raises:
        ArgumentError: unknown tap or preprocessing.
        WeightsError: weights that cannot be fetched, read or matched.

    Example:
        >>> encoder = ResNet50(weights=None)
        >>> encoder(images, taps=["conv3_block4_out"])   # {…: (B, H / 8, W / 8, 512)}

    Reference: He, Zhang, Ren and Sun, arXiv:1512.03385, table 1, 50-layer.
    """

    taps_table = _taps((3, 4, 6, 3))
    default_depth = "conv4_block6_out"


@keras.saving.register_keras_serializable(package="tfstyle")
class ResNet101(ResNet):
    """ResNet101 as a frozen encoder with the taps ``conv1_relu`` to ``conv5_block3_out``.

    Takes the arguments of :class:`ResNet50`; built to ``"conv4_block23_out"`` unless told.

    Example:
        >>> encoder = ResNet101(weights="imagenet", depth="conv3_block4_out")

    Reference: He, Zhang, Ren and Sun, arXiv:1512.03385, table 1, 101-layer.
    """

    taps_table = _taps((3, 4, 23, 3))
    default_depth = "conv4_block23_out"


def _halved(shape):
    """(B, H, W, …) to (B, H / 2, W / 2), rounded up; None where unknown."""
    return (shape[0], *(None if size is None else -(-size // 2) for size in shape[1:3]))
