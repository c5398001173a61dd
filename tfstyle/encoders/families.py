"""The families of encoders: a table of taps each, and which of them are good defaults."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfstyle.encoders.base import Encoder, Tap


class VGG(Encoder):
    """VGG: 3x3 convolutions with ReLU and 2x2 max pooling.

    The tap ``reluB_I`` is the activated output of ``blockB_convI``.
    """

    default_depth = "relu5_1"
    default_layer = "relu4_1"
    default_content_layers = ("relu4_1",)
    default_style_layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    plain = True


def _vgg(convolutions: Sequence[int]) -> tuple[Tap, ...]:
    return tuple(
        Tap(f"relu{b}_{i}", f"block{b}_conv{i}", channels, 2 ** (b - 1))
        for b, (count, channels) in enumerate(zip(convolutions, (64, 128, 256, 512, 512)), 1)
        for i in range(1, count + 1)
    )


@keras.saving.register_keras_serializable(package="tfstyle")
class VGG16(VGG):
    """VGG16 as a frozen encoder with the taps ``relu1_1`` to ``relu5_3``.

    Takes the arguments of :class:`Encoder`; built to ``"relu5_1"`` by default. It alone has the
    weights ``"lpips"``.

    Example:
        >>> encoder = tfstyle.encoders.VGG16(weights=None, depth="relu3_1")
        >>> encoder(content[None, ..., None])["relu3_1"].shape   # (B, H / 4, W / 4, 256)
        TensorShape([1, 16, 16, 256])

    Reference: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
    recognition", arXiv:1409.1556, table 1, configuration D.
    """

    taps_table = _vgg((2, 2, 3, 3, 3))


@keras.saving.register_keras_serializable(package="tfstyle")
class VGG19(VGG):
    """VGG19 as a frozen encoder with the taps ``relu1_1`` to ``relu5_4``.

    Takes the arguments of :class:`Encoder`; built to ``"relu5_1"`` by default.

    Reference: Simonyan and Zisserman, arXiv:1409.1556, table 1, configuration E.
    """

    taps_table = _vgg((2, 2, 4, 4, 4))


class ResNet(Encoder):
    """ResNet, version 1, its blocks' stride in the first 1x1 convolution.

    Taps are the outputs behind the ReLU of the stages in table 1: ``conv1_relu`` of stride 2, and
    of each block of stage s ``conv{s}_block{i}_out`` of stride 2^s, as in keras.applications.
    """

    default_layer = "conv3_block4_out"
    default_content_layers = ("conv3_block4_out",)
    default_style_layers = ("conv1_relu", "conv2_block3_out", "conv3_block4_out")


def _resnet(blocks: Sequence[int]) -> tuple[Tap, ...]:
    return (
        Tap("conv1_relu", "conv1_relu", 64, 2),
        *(
            Tap(name := f"conv{stage}_block{i}_out", name, 2 ** (stage + 6), 2**stage)
            for stage, count in enumerate(blocks, 2)
            for i in range(1, count + 1)
        ),
    )


@keras.saving.register_keras_serializable(package="tfstyle")
class ResNet50(ResNet):
    """ResNet50 as a frozen encoder with the taps ``conv1_relu`` to ``conv5_block3_out``.

    Takes the arguments of :class:`Encoder`; built to ``"conv4_block6_out"`` by default.

    Example:
        >>> encoder = tfstyle.encoders.ResNet50(weights=None, depth="conv2_block1_out")
        >>> encoder(content[None, ..., None])["conv2_block1_out"].shape   # (B, H / 4, W / 4, 256)
        TensorShape([1, 16, 16, 256])

    Reference: He, Zhang, Ren and Sun, "Deep residual learning for image recognition",
    arXiv:1512.03385, table 1, 50-layer.
    """

    taps_table = _resnet((3, 4, 6, 3))
    default_depth = "conv4_block6_out"


@keras.saving.register_keras_serializable(package="tfstyle")
class ResNet101(ResNet):
    """ResNet101 as a frozen encoder with the taps ``conv1_relu`` to ``conv5_block3_out``.

    Takes the arguments of :class:`Encoder`; built to ``"conv4_block23_out"`` by default.

    Reference: He, Zhang, Ren and Sun, arXiv:1512.03385, table 1, 101-layer.
    """

    taps_table = _resnet((3, 4, 23, 3))
    default_depth = "conv4_block23_out"


class DenseNet(Encoder):
    """DenseNet with 32 channels a layer.

    Taps, with the names of keras.applications: ``conv1_relu`` of stride 2; of each dense block s
    its output ``conv{s}_block{n}_concat`` of stride 2^s, and of the transition behind it
    ``pool{s}_pool``; and ``relu``, the activation of the last. There is one tap a dense block,
    because its output holds the outputs of all its layers, one behind the other: those of layer i
    are the channels up to the block's input plus 32·i.
    """

    default_layer = "conv3_block12_concat"
    default_content_layers = ("conv3_block12_concat",)
    default_style_layers = ("conv1_relu", "conv2_block6_concat", "conv3_block12_concat")
    imagenet_preprocessing = "torch"


def _densenet(counts: Sequence[int]) -> tuple[Tap, ...]:
    taps, channels = [Tap("conv1_relu", "conv1_relu", 64, 2)], 64
    for stage, count in enumerate(counts, 2):
        channels += 32 * count
        name = f"conv{stage}_block{count}_concat"
        taps.append(Tap(name, name, channels, 2**stage))
        if stage < 5:
            channels //= 2
            taps.append(Tap(f"pool{stage}_pool", f"pool{stage}_pool", channels, 2 ** (stage + 1)))
    return (*taps, Tap("relu", "relu", channels, 32))


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet121(DenseNet):
    """DenseNet121 as a frozen encoder with the taps ``conv1_relu`` to ``relu``.

    Takes the arguments of :class:`Encoder`; built to the third dense block by default.

    Reference: Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional
    networks", arXiv:1608.06993, table 1, DenseNet-121.
    """

    taps_table = _densenet((6, 12, 24, 16))
    default_depth = "conv4_block24_concat"


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet169(DenseNet):
    """DenseNet169 as a frozen encoder; as :class:`DenseNet121`.

    Reference: arXiv:1608.06993, table 1, DenseNet-169.
    """

    taps_table = _densenet((6, 12, 32, 32))
    default_depth = "conv4_block32_concat"


@keras.saving.register_keras_serializable(package="tfstyle")
class DenseNet201(DenseNet):
    """DenseNet201 as a frozen encoder; as :class:`DenseNet121`.

    Reference: arXiv:1608.06993, table 1, DenseNet-201.
    """

    taps_table = _densenet((6, 12, 48, 32))
    default_depth = "conv4_block48_concat"


#: Encoders by the name that the command line and presets use.
ENCODERS: dict[str, type[Encoder]] = {
    family.__name__.lower(): family
    for family in (VGG16, VGG19, ResNet50, ResNet101, DenseNet121, DenseNet169, DenseNet201)
}
