"""What the tone transfer takes from an image: gray levels, their ranks, and a feature of each."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfstyle.errors import ArgumentError
from tfstyle.tone.frame import frame

#: Pixels of an image that are compared with those of another.
TOKENS = 256
#: Gray levels against which a pixel's rank is counted.
QUANTILES = 48
#: Sizes of the features' network are multiples of it.
STRIDE = 16
#: Every second pixel along both axes can become a token.
STEP = 2
#: Power of two that no number of candidates reaches twice; working sizes of up to 256.
LARGEST_GRID = 1 << 14
#: Gray levels are seen in steps of 1 / LEVELS, finer than those of any scan. Without them equal
#: tissue would be sorted by its rounding errors, and another machine or runtime would take other
#: pixels as tokens.
LEVELS = 1 << 16
#: How far gray levels at the ends of the scale count as clipped.
CLIPPED = 0.002
#: Tokens lie as densely along the gray scale as the square root of the histogram; this much is
#: added to the distance of gray levels under the root, so that equal ones share some tokens.
EVENNESS = 1e-4


def spread_tokens(gray, count: int, jitter=None):
    """Places (B, count) of tokens in rising gray levels (B, P), rare ones above their share.

    Where pixels have density ρ, tokens have about √ρ. `jitter` (count,) moves them by at most half
    their distance.
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
    return ops.minimum(count_below(weight, target[None]), total - 1)


def count_below(rising, values, or_equal: bool = False):
    """How many entries of rising rows (B, P) lie below each value (B or 1, N), by bisection."""
    batch, total = ops.shape(rising)[0], ops.shape(rising)[1]
    # One gather from all rows laid end to end.
    flat, start = ops.reshape(rising, (-1,)), ops.arange(batch, dtype="int32")[:, None] * total
    found = ops.zeros_like(values, dtype="int32") + ops.zeros_like(start)
    step = LARGEST_GRID
    if isinstance(total, int):
        while step > total:
            step //= 2
    while step:
        further = found + step
        last = ops.take(flat, ops.minimum(further, total) - 1 + start)
        low = last <= values if or_equal else last < values
        found = ops.where(ops.logical_and(further <= total, low), further, found)
        step //= 2
    return found


def box_blur(x, step: int):
    """Means of 5x5 pixels, fewer at the border, at every `step`-th pixel: (B, H, W, 1)."""
    padded = ops.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    box = np.ones((5, 5, 1, 1), np.float32)
    sums = ops.conv(padded, box, strides=step, padding="valid", data_format="channels_last")
    counts = []
    for size in (ops.shape(x)[1], ops.shape(x)[2]):
        place = ops.arange(size, dtype="int32")[::step]
        count = ops.minimum(place + 2, size - 1) - ops.maximum(place - 2, 0) + 1
        counts.append(ops.cast(count, "float32"))
    return sums / (counts[0][:, None, None] * counts[1][None, :, None])


def merge_tokens(tokens):
    """Tokens (S, M, F) of several slices as those of one image (1, M, F), the code of a scan."""
    slices, count, width = ops.shape(tokens)[0], tokens.shape[1], tokens.shape[2]
    rank = tokens[..., 1]
    # Each token stands for the pixels from halfway to its neighbors.
    middle = 0.5 * (rank[:, 1:] + rank[:, :-1])
    ends = ops.zeros_like(rank[:, :1])
    share = ops.concatenate([middle, ends + 1.0], 1) - ops.concatenate([ends, middle], 1)
    everything = ops.reshape(tokens, (1, -1, width))
    share = ops.reshape(share, (1, -1)) / ops.cast(slices, "float32")
    order = ops.argsort(everything[..., 0], axis=1)
    share = ops.take_along_axis(share, order, axis=1)
    rank = ops.cumsum(share, axis=1) - 0.5 * share
    # The tokens of each slice are spread already: evenly by their number.
    places = (ops.arange(count, dtype="float32") + 0.5) * ops.cast(slices, "float32")
    places = ops.cast(places, "int32")
    chosen = ops.take(order, places, axis=1)
    merged = ops.take_along_axis(everything, chosen[..., None], axis=1)
    rank = ops.take(rank, places, axis=1)[..., None]
    return ops.concatenate([merged[..., :1], rank, merged[..., 2:]], axis=-1)


class GroupNorm(layers.Layer):
    """Group normalization in few operations: ``keras.layers.GroupNormalization`` in eight groups.

    Small images pay more for the number of operations than for their size.
    """

    def build(self, input_shape):
        self.gamma, self.beta = (
            self.add_weight(shape=(input_shape[-1],), initializer=start, name=name)
            for name, start in (("gamma", "ones"), ("beta", "zeros"))
        )
        self.built = True

    def call(self, x):
        groups = (8, x.shape[-1] // 8)
        wide = ops.cast(x, "float32")
        mean, square = (
            ops.mean(ops.reshape(ops.mean(v, axis=(1, 2)), (-1, *groups)), axis=2, keepdims=True)
            for v in (wide, ops.square(wide))
        )
        spread = ops.rsqrt(ops.relu(square - ops.square(mean)) + 1e-3)
        gamma, beta = (ops.reshape(ops.cast(v, "float32"), groups) for v in (self.gamma, self.beta))
        scale = spread * gamma
        shift = beta - mean * scale
        scale, shift = (ops.reshape(v, (-1, 1, 1, x.shape[-1])) for v in (scale, shift))
        return ops.cast(wide * scale + shift, self.compute_dtype)


@keras.saving.register_keras_serializable(package="tfstyle")
class ToneEncoder(keras.layers.Layer):
    """Describes an image by ``TOKENS`` of its pixels: gray level, rank, a feature of unit length.

    A small convolutional network sees the gray image, the rank of each pixel among all, and where
    the gray scale is clipped, and adds what it sees at strides of 4 to 16 and in the whole image.
    Features of tokens come from there and from the pixel's own surroundings.

    Args:
        channels: Of the maps at strides 2, 4, 8 and 16, multiples of 8.
        width: Channels of the map in which strides 4 to 16 are added up, a multiple of 8.
        features: Length D of the feature vectors.
        working_size: Side of the square that the network sees, a multiple of 16: the image without
            the air around what it shows; see :func:`tfstyle.tone.frame.frame`.
        dropout: Share of the channels at stride 16 that training leaves out.
        **kwargs: Of ``keras.layers.Layer``.

    Call arguments:
        images: float tensor (B, H, W, 1) in [0, 1], any size.
        training: Whether tokens are drawn with jitter and channels left out.

    Returns:
        float32 tensor (B, TOKENS, 2 + D): gray levels, never falling, the share of the image's
            pixels that lie below each, and features.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64, 96),
        width: int = 48,
        features: int = 32,
        working_size: int = 96,
        dropout: float = 0.2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = tuple(channels)
        self.width, self.features = int(width), int(features)
        self.working_size, self.dropout = int(working_size), float(dropout)
        if self.working_size < STRIDE or self.working_size % STRIDE:
            raise ArgumentError(
                f"working_size: must be a multiple of {STRIDE}, received {working_size!r}."
            )
        self.convolutions, self.norms = [], []
        for number, count in enumerate(self.channels):
            for i in range(1 if number == 0 else 2):
                name = f"stride{2 << number}_{i}"
                self.convolutions.append(self._convolution(count, name, 1 if i else 2))
                self.norms.append(GroupNorm(name=f"{name}_norm"))
        self.drop = layers.SpatialDropout2D(self.dropout, data_format="channels_last", name="drop")
        self.whole = layers.Dense(self.width, name="whole")
        self.lateral = [
            layers.Dense(self.width, name=f"lateral_{i}") for i in range(len(self.channels) - 1)
        ]
        self.mix, self.mix_norm = self._convolution(self.width, "mix"), GroupNorm(name="mix_norm")
        self.head = [
            layers.Dense(96, activation="relu", name="head_0"),
            layers.Dense(64, activation="relu", name="head_1"),
            layers.Dense(self.features, dtype="float32", name="head_2"),
        ]
        self.noise = keras.random.SeedGenerator()

    @staticmethod
    def _convolution(channels: int, name: str, stride: int = 1):
        return layers.Conv2D(
            channels,
            3,
            strides=stride,
            padding="same",
            data_format="channels_last",
            use_bias=False,
            name=name,
        )

    def build(self, input_shape):
        before = 4
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build((None, None, None, before))
            before = convolution.filters
            norm.build((None, None, None, before))
        self.whole.build((None, 2 * before))
        for layer, count in zip(self.lateral, self.channels[1:]):
            layer.build((None, None, None, count))
        self.mix.build((None, None, None, self.width))
        self.mix_norm.build((None, None, None, self.width))
        before = self.width + self.channels[0] + 4 + 1
        for layer in self.head:
            layer.build((None, before))
            before = layer.units
        self.built = True

    def call(self, images, training=False):
        x = ops.floor(frame(images, self.working_size) * LEVELS + 0.5) / LEVELS
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
        parts = [
            _gather(context, near),
            _gather(fine, place),
            _gather(planes[:, ::STEP, ::STEP], place),
            _gather(box_blur(x, STEP), place),
        ]
        feature = ops.concatenate([ops.cast(part, "float32") for part in parts], axis=-1)
        feature = ops.reshape(feature, (-1, feature.shape[-1]))
        for layer in self.head:
            feature = layer(feature)
        feature = ops.reshape(ops.cast(feature, "float32"), (-1, TOKENS, self.features))
        feature = feature * ops.rsqrt(ops.sum(ops.square(feature), axis=-1, keepdims=True) + 1e-6)
        gray = ops.take_along_axis(gray, chosen, axis=1)
        rank = (ops.cast(chosen, "float32") + 0.5) / ops.cast(ops.shape(flat)[1], "float32")
        return ops.concatenate([gray[..., None], rank[..., None], feature], axis=-1)

    @staticmethod
    def _planes(x, gray):
        """The image, ranks in [0, 1], and where it is clipped: (B, H, W, 4)."""
        total = ops.shape(gray)[1]
        places = (ops.arange(QUANTILES, dtype="float32") + 0.5) / QUANTILES
        places = ops.cast(places * ops.cast(total, "float32"), "int32")
        quantiles, flat = ops.take(gray, places, axis=1), ops.reshape(x, (ops.shape(x)[0], -1))
        rank = count_below(quantiles, flat) + count_below(quantiles, flat, or_equal=True)
        rank = ops.reshape(ops.cast(rank, "float32") / (2 * QUANTILES), ops.shape(x))
        low, high = ops.cast(x < CLIPPED, "float32"), ops.cast(x > 1 - CLIPPED, "float32")
        return ops.concatenate([x, rank, low, high], axis=-1)

    def _maps(self, planes, training):
        maps, h = [], 2.0 * planes - 1.0
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            h = ops.relu(norm(convolution(h)))
            if number % 2 == 0:  # the last convolution at its stride
                maps.append(h)
        top = self.drop(maps[-1], training=training)
        whole = ops.concatenate([ops.mean(top, axis=(1, 2)), ops.max(top, axis=(1, 2))], axis=-1)
        added = self.lateral[-1](top) + self.whole(whole)[:, None, None]
        for lateral, below in zip(self.lateral[-2::-1], maps[-2:0:-1]):
            added = ops.relu(ops.repeat(ops.repeat(added, 2, axis=1), 2, axis=2) + lateral(below))
        return maps[0], ops.relu(self.mix_norm(self.mix(added)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], TOKENS, 2 + self.features)

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
