"""What the tone transfer takes from an image: gray levels in rising order, each with a feature."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfstyle.layers.padding import extend_to_stride
from tfstyle.layers.resize import reduce_size

#: Pixels of an image that are compared with those of another.
TOKENS = 256
#: Gray levels against which a pixel's rank is counted.
QUANTILES = 48
#: Sizes of the features' network are multiples of it.
STRIDE = 16
#: Every second pixel along both axes can become a token.
STEP = 2
#: Power of two that no number of candidates reaches twice.
LARGEST_GRID = 1 << 15
#: How far gray levels at the ends of the scale count as clipped.
CLIPPED = 0.002
#: Tokens lie as densely along the gray scale as the square root of the histogram; this much is
#: added to the distance of gray levels under the root, so that equal ones share some tokens.
EVENNESS = 1e-4


def spread_tokens(gray, count: int, jitter=None):
    """Chooses tokens from sorted gray levels, rare ones more often than their share.

    Args:
        gray: float tensor (B, P), rising along the second axis.
        count: Number of tokens, M.
        jitter: float tensor (M,) of at most half a token's distance, or None.

    Returns:
        int32 tensor (B, M) of places in `gray`, never falling: where P pixels have density ρ, the
        tokens have about the density √ρ.
    """
    total = ops.shape(gray)[1]
    reach = ops.maximum(total // 64, 1)
    places = ops.arange(total)
    above = ops.take(gray, ops.minimum(places + reach, total - 1), axis=1)
    below = ops.take(gray, ops.maximum(places - reach, 0), axis=1)
    weight = ops.cumsum(ops.sqrt(above - below + EVENNESS), axis=1)
    weight = weight / weight[:, -1:]
    target = ops.convert_to_tensor((np.arange(count, dtype=np.float32) + 0.5) / count)
    if jitter is not None:
        target = target + jitter / count
    # How many weights lie below each target, by bisection.
    chosen = ops.zeros((ops.shape(gray)[0], count), "int32")
    step = LARGEST_GRID
    while step:
        further = chosen + step
        last = ops.take_along_axis(weight, ops.minimum(further, total) - 1, axis=1)
        chosen = ops.where((further <= total) & (last < target), further, chosen)
        step //= 2
    return ops.minimum(chosen, total - 1)


def merge_tokens(tokens):
    """The tokens of several slices as those of one image, for one code of a scan.

    Args:
        tokens: float tensor (S, M, F) of S slices.

    Returns:
        float tensor (1, M, F).
    """
    count, width = tokens.shape[1], tokens.shape[2]
    everything = ops.reshape(tokens, (1, -1, width))
    order = ops.argsort(everything[..., 0], axis=1)
    gray = ops.take_along_axis(everything[..., 0], order, axis=1)
    # The tokens of each slice are spread already: evenly by their number.
    total = ops.shape(gray)[1]
    places = (ops.arange(count, dtype="float32") + 0.5) * ops.cast(total, "float32") / count
    chosen = ops.take(order, ops.cast(places, "int32"), axis=1)
    return ops.take_along_axis(everything, chosen[..., None], axis=1)


@keras.saving.register_keras_serializable(package="tfstyle")
class ToneEncoder(keras.layers.Layer):
    """Describes an image by ``TOKENS`` of its pixels: gray level, and a feature of unit length.

    A small convolutional network sees the gray image, the rank of each pixel among all, and where
    the gray scale is clipped, and adds what it sees at strides of 4 to 16 and in the whole image.
    Features of tokens come from there and from the pixel's own surroundings.

    Args:
        channels: Of the maps at strides 2, 4, 8 and 16, multiples of 8.
        width: Channels of the map in which strides 4 to 16 are added up, a multiple of 8.
        features: Length D of the feature vectors.
        working_size: Longest side of the image that the network sees; larger ones are reduced by
            area averaging.
        dropout: Share of the channels at stride 16 that training leaves out.
        **kwargs: Of ``keras.layers.Layer``.

    Call arguments:
        images: float tensor (B, H, W, 1) in [0, 1], any size.
        training: Whether tokens are drawn with jitter and channels left out.

    Returns:
        float32 tensor (B, TOKENS, 1 + D): gray levels, never falling, and features.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64, 96),
        width: int = 48,
        features: int = 32,
        working_size: int = 96,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = tuple(channels)
        self.width, self.features = int(width), int(features)
        self.working_size, self.dropout = int(working_size), float(dropout)
        first, *others = self.channels
        self.stages = [[self._convolution(first, 2), self._norm()]]
        for count in others:
            self.stages.append(
                [
                    self._convolution(count, 2),
                    self._norm(),
                    self._convolution(count),
                    self._norm(),
                ]
            )
        self.drop = layers.SpatialDropout2D(self.dropout)
        self.whole = layers.Dense(self.width)
        self.lateral = [layers.Dense(self.width) for _ in others]
        self.mix, self.mix_norm = self._convolution(self.width), self._norm()
        self.head = [
            layers.Dense(96, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(self.features, dtype="float32"),
        ]
        self.noise = keras.random.SeedGenerator()

    @staticmethod
    def _convolution(channels: int, stride: int = 1):
        return layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)

    @staticmethod
    def _norm():
        return layers.GroupNormalization(groups=8)

    def build(self, input_shape):
        before = 4
        for stage, count in zip(self.stages, self.channels):
            for layer in stage:
                layer.build((None, None, None, before))
                before = count
        self.whole.build((None, 2 * before))
        for layer, count in zip(self.lateral, self.channels[1:]):
            layer.build((None, None, None, count))
        self.mix.build((None, None, None, self.width))
        self.mix_norm.build((None, None, None, self.width))
        before = self.width + self.channels[0] + 4 + 1
        for layer in self.head:
            layer.build((None, None, before))
            before = layer.units
        self.built = True

    def call(self, images, training=False):
        x = reduce_size(ops.cast(images, "float32"), self.working_size)
        x = extend_to_stride(x, STRIDE)
        batch = ops.shape(x)[0]
        pixels = x[:, ::STEP, ::STEP, 0]
        columns = ops.shape(pixels)[2]
        flat = ops.reshape(pixels, (batch, -1))
        order = ops.argsort(flat, axis=1)
        gray = ops.take_along_axis(flat, order, axis=1)
        planes = self._planes(x, gray)
        fine, context = self._maps(planes, training)

        jitter = None
        if training:
            jitter = keras.random.uniform((TOKENS,), -0.45, 0.45, seed=self.noise)
        chosen = spread_tokens(gray, TOKENS, jitter)
        place = ops.take_along_axis(order, chosen, axis=1)
        row, column = place // columns, place % columns
        near = (row // 2) * ops.shape(context)[2] + column // 2
        blurred = ops.average_pool(x, 5, strides=1, padding="same")
        parts = [
            _gather(context, near),
            _gather(fine, place),
            _gather(planes[:, ::STEP, ::STEP], place),
            _gather(blurred[:, ::STEP, ::STEP], place),
        ]
        feature = ops.concatenate([ops.cast(part, "float32") for part in parts], axis=-1)
        for layer in self.head:
            feature = layer(feature)
        feature = ops.cast(feature, "float32")
        feature = feature * ops.rsqrt(ops.sum(ops.square(feature), axis=-1, keepdims=True) + 1e-6)
        gray = ops.take_along_axis(gray, chosen, axis=1)
        return ops.concatenate([gray[..., None], feature], axis=-1)

    @staticmethod
    def _planes(x, gray):
        """The image, ranks in [0, 1], and where it is clipped: (B, H, W, 4)."""
        total = ops.shape(gray)[1]
        places = (ops.arange(QUANTILES, dtype="float32") + 0.5) / QUANTILES
        places = ops.cast(places * ops.cast(total, "float32"), "int32")
        quantiles = ops.take(gray, places, axis=1)[:, None, None]
        rank = ops.cast(x > quantiles, "float32") + ops.cast(x >= quantiles, "float32")
        rank = 0.5 * ops.mean(rank, axis=-1, keepdims=True)
        low, high = ops.cast(x < CLIPPED, "float32"), ops.cast(x > 1 - CLIPPED, "float32")
        return ops.concatenate([x, rank, low, high], axis=-1)

    def _maps(self, planes, training):
        maps, h = [], 2.0 * planes - 1.0
        for stage in self.stages:
            for convolution, norm in zip(stage[::2], stage[1::2]):
                h = ops.relu(norm(convolution(h)))
            maps.append(h)
        top = self.drop(maps[-1], training=training)
        whole = ops.concatenate([ops.mean(top, axis=(1, 2)), ops.max(top, axis=(1, 2))], axis=-1)
        added = self.lateral[-1](top) + self.whole(whole)[:, None, None]
        for lateral, below in zip(self.lateral[-2::-1], maps[-2:0:-1]):
            added = ops.relu(ops.repeat(ops.repeat(added, 2, axis=1), 2, axis=2) + lateral(below))
        return maps[0], ops.relu(self.mix_norm(self.mix(added)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], TOKENS, 1 + self.features)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": list(self.channels),
            "width": self.width,
            "features": self.features,
            "working_size": self.working_size,
            "dropout": self.dropout,
        }


def _gather(maps, places):
    """Vectors (B, M, C) of maps (B, H, W, C) at places (B, M), rows times width plus columns."""
    shape = ops.shape(maps)
    flat = ops.reshape(maps, (-1, maps.shape[-1]))
    offset = ops.cast(ops.arange(shape[0]), "int32") * ops.cast(shape[1] * shape[2], "int32")
    return ops.take(flat, ops.cast(places, "int32") + offset[:, None], axis=0)
