"""DenseNet encoders: Huang, Liu, van der Maaten and Weinberger, CVPR 2017."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
from keras import layers, ops

from tfstyle.encoders.base import Block, Encoder, Tap
from tfstyle.encoders.resnet import StemConvolution, StemPooling
from tfstyle.layers.affine import ChannelAffine
from tfstyle.layers.convolution import convolve

#: k, the number of channels that each layer of a dense block adds.
GROWTH_RATE = 32


def _taps(counts: Sequence[int]) -> tuple[Tap, ...]:
    """Tap table of a DenseNet: the first convolution, dense blocks and transitions, the last."""
    taps, channels = [Tap("conv1_relu", "conv1_relu", 64, 2)], 64
    for stage, count in enumerate(counts, 2):
        channels += GROWTH_RATE * count
        name = f"conv{stage}_block{count}_concat"
        taps.append(Tap(name, name, channels, 2**stage))
        if stage < 5:
            channels //= 2
            taps.append(Tap(f"pool{stage}_pool", f"pool{stage}_pool", channels, 2 ** (stage + 1)))
    return (*taps, Tap("relu", "relu", channels, 32))


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseLayer(Block):
    """One layer of a dense block, [x, H(x)]: its input with ``GROWTH_RATE`` channels behind it.

    H is batch normalisation, ReLU, 1x1 convolution to four times as many channels, batch
    normalisation, ReLU and 3x3 convolution, the bottleneck of section 3. The second batch
    normalisation is part of the 1x1 convolution.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        stem = self.name.removesuffix("_concat")
        self.norm = ChannelAffine(activation="relu", name=f"{stem}_0_bn", trainable=False)
        self.first = layers.Conv2D(
            4 * GROWTH_RATE,
            1,
            data_format="channels_last",
            activation="relu",
            name=f"{stem}_1_conv",
            trainable=False,
        )
        self.second = layers.Conv2D(
            GROWTH_RATE,
            3,
            padding="same",
            data_format="channels_last",
            name=f"{stem}_2_conv",
            trainable=False,
            use_bias=False,
        )
        self.steps = [self.norm, self.first, self.second]

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.first.build(input_shape)
        self.second.build((*input_shape[:3], 4 * GROWTH_RATE))
        self.built = True

    def call(self, x, fast=False):
        y = self.first(self.norm(x))
        y = convolve(self.second, y) if fast else self.second(y)
        return ops.concatenate([x, y], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], input_shape[-1] + GROWTH_RATE)


@keras.saving.register_keras_serializable(package="tfstyle")
class Transition(Block):
    """Between dense blocks: batch normalisation, ReLU, 1x1 convolution and 2x2 mean.

    Half the channels, half the size.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = ChannelAffine(
            activation="relu", name=self.name.replace("_pool", "_bn"), trainable=False
        )

    def build(self, input_shape):
        self.conv = layers.Conv2D(
            input_shape[-1] // 2,
            1,
            data_format="channels_last",
            use_bias=False,
            name=self.name.replace("_pool", "_conv"),
            trainable=False,
        )
        self.steps = [self.norm, self.conv]
        self.norm.build(input_shape)
        self.conv.build(input_shape)
        self.built = True

    def call(self, x, fast=False):
        # Mean and 1x1 convolution may change places; this order has a quarter of the products.
        return self.conv(
            ops.average_pool(
                self.norm(x), 2, strides=2, padding="valid", data_format="channels_last"
            )
        )

    def compute_output_shape(self, input_shape):
        sizes = [None if size is None else size // 2 for size in input_shape[1:3]]
        return (input_shape[0], *sizes, input_shape[-1] // 2)


@keras.saving.register_keras_serializable(package="tfstyle")
class FinalActivation(Block):
    """Batch normalisation and ReLU behind the last dense block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = ChannelAffine(activation="relu", name="bn", trainable=False)
        self.steps = [self.norm]

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.built = True

    def call(self, x, fast=False):
        return self.norm(x)

    def compute_output_shape(self, input_shape):
        return input_shape


class DenseNet(Encoder):
    """Common architecture of the DenseNets, batch normalisation folded where it can be.

    | tap | table 1 of the paper | channels: 121 | 169 | 201 | stride |
    | --- | --- | ---: | ---: | ---: | ---: |
    | ``conv1_relu`` | convolution | 64 | 64 | 64 | 2 |
    | ``conv2_block6_concat`` | dense block (1) | 256 | 256 | 256 | 4 |
    | ``pool2_pool`` | transition layer (1) | 128 | 128 | 128 | 8 |
    | ``conv3_block12_concat`` | dense block (2) | 512 | 512 | 512 | 8 |
    | ``pool3_pool`` | transition layer (2) | 256 | 256 | 256 | 16 |
    | ``conv4_block24_concat`` (169: 32, 201: 48) | dense block (3) | 1024 | 1280 | 1792 | 16 |
    | ``pool4_pool`` | transition layer (3) | 512 | 640 | 896 | 32 |
    | ``conv5_block16_concat`` (169, 201: 32) | dense block (4) | 1024 | 1664 | 1920 | 32 |
    | ``relu`` | its activation | 1024 | 1664 | 1920 | 32 |

    The names are those of keras.applications' layers. There is one tap a dense block, because its
    output holds the outputs of all its layers, one behind the other: those of layer i are the
    channels up to the block's input plus 32·i.
    """

    default_layer = "conv3_block12_concat"
    default_content_layers = ("conv3_block12_concat",)
    default_style_layers = ("conv1_relu", "conv2_block6_concat", "conv3_block12_concat")
    imagenet_preprocessing = "torch"

    @classmethod
    def make_blocks(cls) -> Iterator[keras.layers.Layer]:
        yield StemConvolution(name="conv1_relu")
        yield StemPooling(name="pool1")
        for tap in cls.taps_table[1:]:
            stem, _, kind = tap.layer.rpartition("_")
            if kind == "concat":
                stage, count = stem.split("_block")
                for i in range(1, int(count) + 1):
                    yield DenseLayer(name=f"{stage}_block{i}_concat")
            elif kind == "pool":
                yield Transition(name=tap.layer)
            else:
                yield FinalActivation(name=tap.layer)

    @classmethod
    def batch_norm_of(cls, layer: str) -> str | None:
        if layer.endswith("bn"):
            return layer
        if layer == "conv1_conv" or layer.endswith("_1_conv"):
            return layer.removesuffix("_conv") + "_bn"
        return None

    @classmethod
    def map_size(cls, size: int, tap: Tap) -> int:
        # The first two halvings round up, the means of the transitions down.
        return -(-size // min(tap.stride, 4)) // max(tap.stride // 4, 1)


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet121(DenseNet):
    """DenseNet121 as a frozen encoder with the taps ``conv1_relu`` to ``relu``.

    Args:
        weights: ``"imagenet"`` (downloaded by keras.applications), a path (an ``.npz`` of tfstyle
            or an ``.h5`` of keras.applications), or None for random weights.
        depth: Deepest tap to build, the third dense block (``"conv4_block24_concat"``) unless
            told; None builds all.
        preprocessing: ``"torch"`` (the default) or ``"caffe"``; overruled by the weights where
            they are known.
        name: Keras model name.

    Raises:
        ArgumentError: unknown tap or preprocessing.
        WeightsError: weights that cannot be fetched, read or matched.

    Example:
        >>> encoder = DenseNet121(weights=None)
        >>> encoder(images, taps=["pool3_pool"])   # {"pool3_pool": (B, H / 16, W / 16, 256)}

    Reference: Huang, Liu, van der Maaten and Weinberger, arXiv:1608.06993, table 1, DenseNet-121.
    """

    taps_table = _taps((6, 12, 24, 16))
    default_depth = "conv4_block24_concat"


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet169(DenseNet):
    """DenseNet169 as a frozen encoder; takes the arguments of :class:`DenseNet121`.

    Example:
        >>> encoder = DenseNet169(weights="imagenet", depth="conv3_block12_concat")

    Reference: arXiv:1608.06993, table 1, DenseNet-169.
    """

    taps_table = _taps((6, 12, 32, 32))
    default_depth = "conv4_block32_concat"


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet201(DenseNet):
    """DenseNet201 as a frozen encoder; takes the arguments of :class:`DenseNet121`.

    Example:
        >>> encoder = DenseNet201(weights="imagenet", depth="conv3_block12_concat")

    Reference: arXiv:1608.06993, table 1, DenseNet-201.
    """

    taps_table = _taps((6, 12, 48, 32))
    default_depth = "conv4_block48_concat"
