"""The U-Net: Ronneberger, Fischer and Brox, MICCAI 2015."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from tfstyle._private.images import as_batch, checked_whole, gray_tensor, one_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.errors import ArgumentError
from tfstyle.layers.padding import extend_to_stride
from tfstyle.metrics.segmentation import Dice, MeanIoU, PixelAccuracy
from tfstyle.presets import PresetModel
from tfstyle.segmentation.loss import SegmentationLoss

NORMALIZATIONS = (None, "batch", "group")
OUTPUTS = ("logits", "probabilities")


class _Block(layers.Layer):
    """Two 3x3 convolutions with ReLU, normalized where wanted."""

    def __init__(self, channels: int, normalization: str | None, groups: int, name: str):
        super().__init__(name=name)
        self.channels = channels
        self.convolutions = [
            layers.Conv2D(
                channels,
                3,
                padding="same",
                data_format="channels_last",
                use_bias=normalization is None,
                kernel_initializer="he_normal",
                name=f"conv{i}",
            )
            for i in (1, 2)
        ]
        if normalization == "batch":
            # 0.99 would need hundreds of steps before the averages mean anything.
            self.norms = [layers.BatchNormalization(momentum=0.9, name=f"norm{i}") for i in (1, 2)]
        elif normalization == "group":
            self.norms = [layers.GroupNormalization(groups, name=f"norm{i}") for i in (1, 2)]
        else:
            self.norms = [None, None]

    def build(self, input_shape):
        shape = tuple(input_shape)
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build(shape)
            shape = (*shape[:-1], self.channels)
            if norm is not None:
                norm.build(shape)
        self.built = True

    def call(self, x, training=None):
        for convolution, norm in zip(self.convolutions, self.norms):
            x = convolution(x)
            if norm is not None:
                x = norm(x, training=training)
            x = ops.relu(x)
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)


@keras.saving.register_keras_serializable(package="tfstyle")
class UNet(PresetModel, KerasFile, keras.Model):
    """U-Net for gray images of any size: a contracting and an expanding path, joined by levels.

    On every level two 3x3 convolutions with ReLU; 2x2 max pooling on the way down, a 2x2
    transposed convolution on the way up, and the map of the same level beside it. Unlike the
    paper's, convolutions keep the size (same padding), so the mask is as large as the image; images
    whose sides are not multiples of 2^depth are extended by reflection below and to the right, and
    the result is cropped back.

    Args:
        classes: Number of classes, background included, at least 2.
        depth: Number of poolings; the paper's is 4. Sides are extended to multiples of 2^depth.
        width: Channels of the first level, doubled on every level below; the paper's is 64.
        normalization: None as in the paper, ``"batch"`` or ``"group"``, between convolution and
            ReLU. Batch normalization trains fastest; group normalization does not depend on the
            batch, for batches of few images.
        groups: Groups of the group normalization; must divide `width`.
        dropout: Rate in [0, 1) of the dropout at the end of the contracting path.
        output: What calling the model gives: ``"logits"``, or ``"probabilities"`` (softmax).
        name: Keras model name.

    Call arguments:
        inputs: float tensor (B, H, W, 1) in [0, 1], H and W at least 1.

    Returns:
        float32 tensor (B, H, W, classes): logits, or probabilities that sum to 1.

    Raises:
        ArgumentError: an argument that cannot be used.

    Example:
        >>> unet = UNet(classes=2, depth=1, width=4, normalization="batch")
        >>> unet.compile_default(class_weights=[0.5, 1])
        >>> history = unet.fit(images, images[..., 0] > 0.5, verbose=0)   # masks (B, H, W)
        >>> unet.segment(content).shape
        (64, 64)

    Reference: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image
    segmentation", arXiv:1505.04597, figure 1.
    """

    def __init__(
        self,
        classes: int = 2,
        depth: int = 4,
        width: int = 64,
        normalization: str | None = None,
        groups: int = 8,
        dropout: float = 0.5,
        output: str = "logits",
        name: str | None = None,
    ):
        super().__init__(name=name or "unet")
        classes = checked_whole("classes", classes, 2)
        depth, width = checked_whole("depth", depth, 1), checked_whole("width", width, 1)
        groups = checked_whole("groups", groups, 1)
        one_of("normalization", normalization, NORMALIZATIONS)
        one_of("output", output, OUTPUTS)
        if normalization == "group" and width % groups:
            raise ArgumentError(f"groups: {groups} does not divide the width {width}.")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout: must lie in [0, 1), received {dropout!r}.")
        self.classes, self.depth, self.width = classes, depth, width
        self.normalization, self.groups = normalization, groups
        self.dropout, self.output_kind = float(dropout), output
        channels = [width * 2**level for level in range(depth + 1)]
        self.down = [self._block(c, f"down{i}") for i, c in enumerate(channels)]
        self.pools = [
            layers.MaxPooling2D(2, data_format="channels_last", name=f"pool{i}")
            for i in range(depth)
        ]
        self.drops = [layers.Dropout(self.dropout, name=f"dropout{i}") for i in range(2)]
        self.ups = [
            layers.Conv2DTranspose(
                c,
                2,
                2,
                data_format="channels_last",
                kernel_initializer="he_normal",
                name=f"up{i}_transpose",
            )
            for i, c in enumerate(channels[:-1])
        ]
        self.up = [self._block(c, f"up{i}") for i, c in enumerate(channels[:-1])]
        # float32 under any policy: the loss needs its digits.
        self.head = layers.Conv2D(
            classes, 1, data_format="channels_last", dtype="float32", name="head"
        )
        self.build((None, None, None, 1))

    @property
    def stride(self) -> int:
        """Image sizes that are multiples of it need no padding."""
        return 2**self.depth

    def _block(self, channels: int, name: str) -> _Block:
        return _Block(channels, self.normalization, self.groups, name=name)

    def build(self, input_shape):
        if self.built:
            return
        channels = 1
        for block in self.down:
            block.build((None, None, None, channels))
            channels = block.channels
        for transpose, block in zip(self.ups[::-1], self.up[::-1]):
            transpose.build((None, None, None, channels))
            channels = block.channels
            block.build((None, None, None, 2 * channels))
        self.head.build((None, None, None, channels))
        self.built = True

    def call(self, inputs, training=None):
        shape = ops.shape(inputs)
        x = extend_to_stride(gray_tensor(inputs, "inputs"), self.stride)
        kept = []
        for level in range(self.depth + 1):
            x = self.contract(level, x, training)
            if level < self.depth:
                kept.append(x)
                x = self.pools[level](x)
        for level in reversed(range(self.depth)):
            x = ops.concatenate([kept[level], self.ups[level](x)], axis=-1)
            x = self.up[level](x, training=training)
        x = self.head(x)[:, : shape[1], : shape[2]]
        return x if self.output_kind == "logits" else ops.softmax(x, axis=-1)

    def contract(self, level: int, x, training=None):
        """What a level of the contracting path, from 0 on, makes of its input; with dropout."""
        x = self.down[level](x, training=training)
        if level >= self.depth - 1:  # the last two levels, as in the authors' network
            x = self.drops[level - self.depth + 1](x, training=training)
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], self.classes)

    # -- training --------------------------------------------------------------------------
    def compile_default(
        self,
        learning_rate: float = 1e-3,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        dice: float = 0.0,
        ignore_class: int | None = None,
        target_classes: Sequence[int] | None = None,
        **options,
    ) -> None:
        """Compiles with Adam, :class:`SegmentationLoss`, pixel accuracy, mean IoU and Dice.

        It is ``compile(Adam(learning_rate), SegmentationLoss(...), metrics=[...])``; call
        ``compile`` for anything else.

        Args:
            learning_rate: Adam's.
            class_weights: See :class:`SegmentationLoss`.
            dice: Weight of the Dice term of the loss.
            ignore_class: True class without loss and without count.
            target_classes: Classes that IoU and Dice are averaged over. Defaults to all.
            **options: Further arguments of ``compile``, for example ``jit_compile``.
        """
        self.compile(
            optimizer=keras.optimizers.Adam(learning_rate),
            loss=SegmentationLoss(class_weights, dice, self.output_kind == "logits", ignore_class),
            metrics=[
                PixelAccuracy(self.classes, ignore_class),
                MeanIoU(self.classes, target_classes, ignore_class),
                Dice(self.classes, target_classes, ignore_class),
            ],
            **options,
        )

    # -- inference -------------------------------------------------------------------------
    def probabilities(self, images):
        """Softmax probabilities for any :attr:`output_kind`; traceable with unknown sizes.

        Args:
            images: float tensor (B, H, W, 1) in [0, 1].

        Returns:
            float32 tensor (B, H, W, classes).
        """
        scores = self(images, training=False)
        return ops.softmax(scores, axis=-1) if self.output_kind == "logits" else scores

    def segment(self, image: npt.ArrayLike, batch_size: int = 8) -> np.ndarray:
        """The most probable class of every pixel.

        Args:
            image: numeric array (H, W), (H, W, 1) or (B, H, W, 1), gray levels in [0, 1].
            batch_size: Images at a time.

        Returns:
            uint8 array (int32 for more than 256 classes) of the image's shape.

        Raises:
            ArgumentError: wrong shape, not finite, or gray levels outside [0, 1].
        """
        images, shape = as_batch(image, "image")
        kind = np.uint8 if self.classes <= 256 else np.int32
        scores = self.traced("scores", lambda x: self(x, training=False), self.images_spec)
        masks = [
            ops.convert_to_numpy(ops.argmax(scores(images[i : i + batch_size]), axis=-1))
            for i in range(0, len(images), batch_size)
        ]
        return np.concatenate(masks).astype(kind).reshape(shape)

    # -- presets ---------------------------------------------------------------------------
    def preset_settings(self):
        return {key: value for key, value in self.get_config().items() if key != "name"}

    @classmethod
    def from_preset_settings(cls, settings):
        return cls(**{key: value for key, value in settings.items() if key != "class"})

    def preset_variables(self):
        return {
            f"{part.name}/{variable.path.rsplit(f'{part.name}/', 1)[1]}": variable
            for part in (*self.down, *self.ups, *self.up, self.head)
            for variable in part.weights
        }

    def get_config(self):
        return {
            "classes": self.classes,
            "depth": self.depth,
            "width": self.width,
            "normalization": self.normalization,
            "groups": self.groups,
            "dropout": self.dropout,
            "output": self.output_kind,
            "name": self.name,
        }
