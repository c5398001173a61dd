"""The base class that holds the rules of every encoder; a family file is only its architecture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfstyle.errors import ArgumentError

#: Pseudo-tap: the gray-scale input itself, one channel in [0, 1], stride 1.
IMAGE_TAP = "image"

#: ImageNet statistics of the two conventions in which published weights come.
PREPROCESSING = {
    # Caffe (keras.applications' VGG): BGR in 0..255, mean subtracted.
    "caffe": {"scale": 255.0, "mean": (103.939, 116.779, 123.68), "std": (1, 1, 1)},
    # torchvision: RGB in [0, 1], standardised.
    "torch": {
        "scale": 1.0,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
}


@dataclass(frozen=True)
class Tap:
    """One feature tap of an encoder.

    Attributes:
        name: Name as in the papers, for example ``"relu3_1"``.
        layer: Name of the Keras layer whose output it is (``keras.applications``' name).
        channels: Channels of the feature map.
        stride: Input pixels per feature-map pixel, along both axes.
    """

    name: str
    layer: str
    channels: int
    stride: int


class Encoder(keras.Model):
    """A frozen feature extractor E with named taps.

    The encoder owns everything about its input: it takes gray images as one channel in [0, 1],
    replicates them to three channels and applies the ImageNet normalisation of its weights, so
    that no caller can get it wrong. It is frozen by construction (``trainable`` is False).

    A family (one file beside this one) gives the table ``taps_table`` and builds the layers.

    Args:
        depth: Name of the deepest tap to build; layers behind it do not exist. None builds all.
        preprocessing: ``"caffe"`` or ``"torch"``: which normalisation the weights were
            trained with. Set by the weights loader.
        name: Keras model name.

    Raises:
        ArgumentError: unknown tap or preprocessing.
    """

    #: Ordered from shallow to deep; set by the family.
    taps_table: tuple[Tap, ...] = ()
    #: Sensible defaults of the family, used by ``StyleTransfer.compile``.
    default_layer: str = ""
    default_content_layers: tuple[str, ...] = ()
    default_style_layers: tuple[str, ...] = ()

    def __init__(
        self, depth: str | None = None, preprocessing: str = "caffe", name: str | None = None
    ):
        super().__init__(name=name)
        if preprocessing not in PREPROCESSING:
            raise ArgumentError(
                f"preprocessing: unknown value {preprocessing!r}; use one of "
                f"{', '.join(map(repr, PREPROCESSING))}."
            )
        self.depth = self.tap(depth).name if depth is not None else self.taps_table[-1].name
        self.preprocessing = preprocessing
        self.trainable = False

    # -- the tap table ---------------------------------------------------------------------
    @classmethod
    def tap(cls, name: str) -> Tap:
        """Returns the entry of the tap table called `name`.

        Raises:
            ArgumentError: if the family has no such tap.
        """
        if name == IMAGE_TAP:
            return Tap(IMAGE_TAP, "", 1, 1)
        for tap in cls.taps_table:
            if tap.name == name:
                return tap
        known = ", ".join(t.name for t in cls.taps_table)
        raise ArgumentError(f"unknown layer {name!r} for {cls.__name__}; its taps are: {known}.")

    @classmethod
    def order(cls, name: str) -> int:
        """Position of a tap from shallow (0) to deep; the image itself is -1."""
        tap = cls.tap(name)
        return -1 if tap.name == IMAGE_TAP else cls.taps_table.index(tap)

    @classmethod
    def deepest(cls, names: Iterable[str]) -> str:
        """The deepest of several taps."""
        return max(names, key=cls.order)

    @property
    def available_taps(self) -> tuple[str, ...]:
        """Names of the taps that this (possibly pruned) encoder can compute."""
        last = self.order(self.depth)
        return tuple(t.name for t in self.taps_table[: last + 1])

    # -- call ------------------------------------------------------------------------------
    def preprocess(self, images):
        """Gray [0, 1] images, (B, H, W, 1), to the three normalised channels, (B, H, W, 3)."""
        rule = PREPROCESSING[self.preprocessing]
        mean = ops.cast(np.asarray(rule["mean"], np.float32), images.dtype)
        std = ops.cast(np.asarray(rule["std"], np.float32), images.dtype)
        # Gray has equal channels, so the order of the colours plays no part in replication.
        return (images * rule["scale"] - mean) / std

    def call(self, images, taps: Sequence[str] | None = None, fast: bool = False):
        """Computes feature maps.

        Args:
            images: float tensor (B, H, W, 1) in [0, 1].
            taps: Names of the taps wanted; default: the deepest one alone.
            fast: Use the forms of :mod:`tfstyle.layers.convolution`, equal but for rounding.

        Returns:
            A dict from tap name to a tensor (B, ceil-free H // stride, W // stride, channels).
        """
        wanted = tuple(taps) if taps is not None else (self.depth,)
        for name in wanted:
            if self.order(name) > self.order(self.depth):
                raise ArgumentError(
                    f"layer {name!r} lies behind {self.depth!r}, where this encoder was cut; "
                    f"build it with depth={name!r}."
                )
        outputs = {IMAGE_TAP: images} if IMAGE_TAP in wanted else {}
        rest = [name for name in wanted if name != IMAGE_TAP]
        if rest:
            outputs.update(self.features(self.preprocess(images), rest, fast))
        return outputs

    def features(self, x, taps: Sequence[str], fast: bool = False):
        """Feature maps of the normalised three-channel input `x`; written by the family."""
        raise TypeError(f"{type(self).__name__} must define features().")

    def compute_output_shape(self, input_shape, taps: Sequence[str] | None = None):
        batch, height, width = input_shape[:3]
        shapes = {}
        for name in taps if taps is not None else (self.depth,):
            tap = self.tap(name)
            shapes[name] = (
                batch,
                None if height is None else height // tap.stride,
                None if width is None else width // tap.stride,
                tap.channels,
            )
        return shapes

    def get_config(self):
        return {"depth": self.depth, "preprocessing": self.preprocessing, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(weights=None, **config)
