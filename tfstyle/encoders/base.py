"""The base class that holds the rules of every encoder; a family file is only its architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfstyle.encoders.weights import load_encoder_weights, save_npz
from tfstyle.errors import ArgumentError, OutputError
from tfstyle.keras_files import KerasFile

#: Pseudo-tap: the gray-scale input itself, one channel in [0, 1], stride 1.
IMAGE_TAP = "image"

#: ImageNet statistics of the two conventions in which published weights come.
PREPROCESSING = {
    # Caffe (keras.applications' VGG and ResNet): BGR in 0..255, mean subtracted.
    "caffe": {"scale": 255.0, "mean": (103.939, 116.779, 123.68), "std": (1, 1, 1)},
    # torchvision (and keras.applications' DenseNet): RGB in [0, 1], standardised.
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


class Block(keras.layers.Layer):
    """A part of an encoder that is more than one layer, ``call(x, fast=False)``.

    Its name is that of the keras.applications layer whose output it gives. A subclass makes its
    layers in ``__init__`` and lists them in ``steps``, in order.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.steps: list[keras.layers.Layer] = []


class Encoder(KerasFile, keras.Model):
    """A frozen feature extractor E with named taps.

    The encoder owns everything about its input: it takes gray images as one channel in [0, 1],
    replicates them to three channels and applies the ImageNet normalisation of its weights, so
    that no caller can get it wrong. It is frozen by construction: ``trainable`` is False and
    stays so when the model around it is set trainable; batch normalisation is part of the
    convolutions or a fixed line for each channel, so that no mode of training can change it.

    A family (one file beside this one) gives the table ``taps_table``, its defaults and
    :meth:`make_blocks`.

    Args:
        weights: ``"imagenet"``, a path or None; see the family.
        depth: Name of the deepest tap to build; layers behind it do not exist. ``"default"`` is
            the family's ``default_depth``, None builds all.
        preprocessing: ``"caffe"`` or ``"torch"``: which normalisation the weights were
            trained with; that of keras.applications' weights unless given. Overruled by the
            weights where they are known.
        name: Keras model name.

    Raises:
        ArgumentError: unknown tap or preprocessing.
        WeightsError: weights that cannot be fetched, read or matched.
    """

    #: Ordered from shallow to deep; set by the family.
    taps_table: tuple[Tap, ...] = ()
    #: Sensible defaults of the family, used by ``StyleTransfer`` and its ``compile``.
    default_depth: str = ""
    default_layer: str = ""
    default_content_layers: tuple[str, ...] = ()
    default_style_layers: tuple[str, ...] = ()
    #: Normalisation of keras.applications' ImageNet weights.
    imagenet_preprocessing: str = "caffe"
    #: Whether each tap is one 3x3 convolution, which a decoder can answer one by one.
    plain: bool = False

    def __init__(
        self,
        weights: str | None = "imagenet",
        depth: str | None = "default",
        preprocessing: str | None = None,
        name: str | None = None,
    ):
        # A fixed name: what Keras would number tells of other models in the process.
        super().__init__(name=name or type(self).__name__.lower())
        preprocessing = preprocessing or self.imagenet_preprocessing
        if preprocessing not in PREPROCESSING:
            raise ArgumentError(
                f"preprocessing: unknown value {preprocessing!r}; use one of "
                f"{', '.join(map(repr, PREPROCESSING))}."
            )
        if depth is None:
            depth = self.taps_table[-1].name
        elif depth == "default":
            depth = self.default_depth
        self.depth = self.tap(depth).name
        self.preprocessing = preprocessing
        self.blocks = []
        last = self.tap(self.depth).layer
        for block in self.make_blocks() if last else ():
            self.blocks.append(block)
            if block.name == last:
                break
        self.build((None, None, None, 1))
        if weights is not None:
            self.preprocessing = load_encoder_weights(self, weights)

    @classmethod
    def make_blocks(cls) -> Iterator[keras.layers.Layer]:
        """Makes the layers and :class:`Block` parts one after another; written by the family."""
        raise TypeError(f"{cls.__name__} must define make_blocks().")

    @classmethod
    def batch_norm_of(cls, layer: str) -> str | None:
        """Name of keras.applications' batch normalisation that is part of the layer `layer` here.

        None where there is none.
        """
        return None

    @property
    def trainable(self) -> bool:
        """False; setting it, as Keras does from the model around, changes nothing."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        pass

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

    def weighted_layers(self, layer: str | None = None) -> Iterator[keras.layers.Layer]:
        """The layers with weights, in order, up to the tap `layer` or the deepest one."""
        last = self.tap(layer or self.depth).layer
        for block in self.blocks if last else ():
            yield from (step for step in getattr(block, "steps", (block,)) if step.weights)
            if block.name == last:
                break

    def save_npz(self, path) -> None:
        """Writes the weights as an ``.npz`` of plain arrays, which ``weights=path`` reads.

        Args:
            path: Output file, ends in ``.npz``.

        Raises:
            OutputError: if the file cannot be written or does not end in ``.npz``.

        Example:
            >>> ResNet50(weights="imagenet").save_npz("resnet50.npz")    # where there is internet
            >>> ResNet50(weights="resnet50.npz")                         # where there is none
        """
        if not str(path).endswith(".npz"):
            raise OutputError(path, "files of encoder weights end in .npz; choose such a name.")
        arrays = {
            f"{layer.name}/{variable.name}": np.asarray(variable)
            for layer in self.weighted_layers()
            for variable in layer.weights
        }
        save_npz(path, {**arrays, "preprocessing": np.array(self.preprocessing)})

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
            A dict from tap name to a tensor (B, h, w, channels), h = H / stride and w = W / stride
            where those are whole; see :meth:`map_size` for other sizes.
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
        """Feature maps of the normalised three-channel input `x`, no further than needed."""
        names = {self.tap(name).layer: name for name in taps}
        outputs = {}
        for block in self.blocks:
            x = self.step(block, x, fast)
            if block.name in names:
                outputs[names[block.name]] = x
                if len(outputs) == len(names):
                    break
        return outputs

    def step(self, block: keras.layers.Layer, x, fast: bool = False):
        """Applies one of ``blocks``."""
        return block(x, fast=fast) if isinstance(block, Block) else block(x)

    def build(self, input_shape):
        shape = (input_shape[0], None, None, 3)
        for block in self.blocks:
            if not block.built:
                block.build(shape)
            shape = block.compute_output_shape(shape)
        self.built = True

    def compute_output_shape(self, input_shape, taps: Sequence[str] | None = None):
        batch, height, width = input_shape[:3]
        shapes = {}
        for name in taps if taps is not None else (self.depth,):
            tap = self.tap(name)
            sizes = [None if n is None else self.map_size(n, tap) for n in (height, width)]
            shapes[name] = (batch, *sizes, tap.channels)
        return shapes

    def compute_output_spec(self, images, taps: Sequence[str] | None = None, fast: bool = False):
        shapes = self.compute_output_shape(images.shape, taps)
        return {
            name: keras.KerasTensor(shape, dtype=self.compute_dtype)
            for name, shape in shapes.items()
        }

    @classmethod
    def map_size(cls, size: int, tap: Tap) -> int:
        """Rows (or columns) of the map at a tap for `size` rows (or columns) of the image."""
        return size // tap.stride

    def get_config(self):
        return {"depth": self.depth, "preprocessing": self.preprocessing, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(weights=None, **config)
