"""Inception scores of generated images: Huang, Liu, Belongie and Kautz, ECCV 2018 (MUNIT)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from tfstyle._private.images import checked_whole, gray_tensor
from tfstyle._private.keras_files import KerasFile
from tfstyle.encoders.weights import build_application, load_application
from tfstyle.errors import ArgumentError

#: Smallest input of Inception-V3 without its top, in pixels.
LEAST = 75


def inception_score(probabilities: npt.ArrayLike) -> float:
    """Inception score: how clear and how varied generated images are, all contents together.

        IS = E_x1 E_x1→2 [ KL( p(y2 | x1→2) ‖ p(y2) ) ]
        p(y2) = E_x1 E_x1→2 [ p(y2 | x1→2) ]

    with x1 a content image, x1→2 an image generated from it, and y2 its domain as a classifier
    sees it. High where every image is clearly of one domain and all domains occur.

    Args:
        probabilities: float array (..., classes), p(y2 | x1→2) of every generated image.

    Returns:
        A number from 0 to log(classes), as in the tables of MUNIT; Salimans et al. give its exp.

    Raises:
        ArgumentError: no image, or rows that are not probabilities.

    Example:
        >>> tfstyle.metrics.inception_score([[1, 0], [0, 1]])   # log 2
        0.6931471805599453

    References: Huang et al., "Multimodal unsupervised image-to-image translation",
    arXiv:1804.04732, section 5.2; Salimans et al., "Improved techniques for training GANs",
    NIPS 2016, section 4.
    """
    p = _probabilities(probabilities)
    return _divergence(p.reshape(1, -1, p.shape[-1]))


def conditional_inception_score(probabilities: npt.ArrayLike) -> float:
    """Conditional inception score: how clear and varied the images of one content are.

        CIS = E_x1 E_x1→2 [ KL( p(y2 | x1→2) ‖ p(y2 | x1) ) ]
        p(y2 | x1) = E_x1→2 [ p(y2 | x1→2) ]

    As :func:`inception_score`, but the marginal is that of the images generated from one content
    x1. A model that gives a content always the same style has a CIS of 0 for any IS.

    Args:
        probabilities: float array (contents, styles, classes), p(y2 | x1→2) of the image that each
            content became under each style; at least two styles.

    Returns:
        A number from 0 to log(classes).

    Raises:
        ArgumentError: a wrong shape, a single style, or rows that are not probabilities.

    Example:
        >>> tfstyle.metrics.conditional_inception_score([[[1, 0], [1, 0]], [[0, 1], [0, 1]]])
        0.0
    """
    p = _probabilities(probabilities)
    if p.ndim != 3 or p.shape[1] < 2:
        raise ArgumentError(
            "probabilities: need shape (contents, styles, classes) with at least 2 styles, "
            f"received {p.shape}."
        )
    return _divergence(p)


def _probabilities(values: npt.ArrayLike) -> np.ndarray:
    p = np.asarray(values, np.float64)
    if p.ndim < 2 or p.size == 0:
        raise ArgumentError(f"probabilities: need shape (..., classes), received {p.shape}.")
    if not (p >= 0).all() or not np.allclose(p.sum(axis=-1), 1.0, atol=1e-3):
        raise ArgumentError(
            "probabilities: rows must be at least 0 and sum to 1; apply a softmax to logits."
        )
    return p / p.sum(axis=-1, keepdims=True)


def _divergence(p: np.ndarray) -> float:
    """Mean KL divergence of p (groups, images, classes) from the mean of its group."""
    marginal = p.mean(axis=1, keepdims=True)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p / np.maximum(marginal, 1e-300), 1.0)), 0.0)
    return float(max(terms.sum(axis=-1).mean(), 0.0))


@keras.saving.register_keras_serializable(package="tfstyle")
class DomainClassifier(KerasFile, keras.Model):
    """Inception-V3 that tells the domains (protocols, scanners) of gray images apart.

    It owns its preprocessing: images of any size are resized to a square, replicated to three
    channels and scaled to [−1, 1].

    Args:
        domains: Names of the domains; a label is an index of this list.
        size: Side in pixels to which images are resized: 299 as in the paper, down to 75 for small
            images and quick experiments.
        weights: ``"imagenet"`` (downloaded by keras.applications), the path of an ``.h5`` file of
            its weights without top, or None for random weights. With weights to start from, the
            statistics of the batch normalization stay as they are, which small sets need. From
            random weights it takes some hundred steps until those statistics, and with them the
            predictions, mean anything.
        dropout: Rate before the last layer.
        name: Keras model name.
        pretrained: Whether to keep those statistics. The default is said above.

    Call arguments:
        inputs: float tensor (B, H, W, 1) in [0, 1], any size.

    Returns:
        float32 tensor (B, domains): probabilities.

    Raises:
        ArgumentError: fewer than two domains, repeated names, or a size below 75.
        WeightsError: weights that cannot be had.

    Example:
        >>> classifier = tfstyle.metrics.DomainClassifier(["bone", "lung"], size=75, weights=None)
        >>> classifier.compile("adam", "sparse_categorical_crossentropy")
        >>> history = classifier.fit(images, labels, epochs=5)   # doctest: +SKIP
        >>> classifier.predict(images, verbose=0).shape   # (B, 2)
        (1, 2)

    References: Szegedy et al., "Rethinking the inception architecture for computer vision", CVPR
    2016; fine-tuned on the domains as in Huang et al., arXiv:1804.04732, section 5.2.
    """

    def __init__(
        self,
        domains: Sequence[str],
        size: int = 299,
        weights: str | Path | None = "imagenet",
        dropout: float = 0.2,
        name: str | None = None,
        pretrained: bool | None = None,
    ):
        super().__init__(name=name or "domain_classifier")
        self.domains = [str(d) for d in domains]
        if len(self.domains) < 2 or len(set(self.domains)) != len(self.domains):
            raise ArgumentError(
                f"domains: need at least two different names, received {self.domains}."
            )
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout: must lie in [0, 1), received {dropout!r}.")
        self.size = checked_whole("size", size, LEAST)
        self.dropout = float(dropout)
        self.pretrained = bool(weights is not None if pretrained is None else pretrained)
        self.inception = _inception(self.size, weights)
        if not self.pretrained:
            for layer in self.inception.layers:
                if isinstance(layer, layers.BatchNormalization):
                    layer.momentum = 0.9  # the averages have to follow weights that start anywhere
        self.supports_jit = False  # XLA has no resizing with antialiasing
        self.drop = layers.Dropout(self.dropout, name="drop")
        self.head = layers.Dense(
            len(self.domains), activation="softmax", dtype="float32", name="head"
        )
        self.build((None, None, None, 1))

    def build(self, input_shape):
        if not self.built:
            self.head.build((None, self.inception.output_shape[-1]))
            self.built = True

    def call(self, inputs, training=None):
        x = gray_tensor(inputs, "inputs")
        if x.shape[1:3] != (self.size, self.size):
            x = ops.image.resize(
                x, (self.size, self.size), antialias=True, data_format="channels_last"
            )
        x = ops.repeat(2.0 * x - 1.0, 3, axis=-1)
        x = self.inception(x, training=training and not self.pretrained)
        return self.head(self.drop(x, training=training))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.domains))

    def get_config(self):
        return {
            "domains": self.domains,
            "size": self.size,
            "dropout": self.dropout,
            "pretrained": self.pretrained,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(weights=None, **config)


def _inception(size: int, weights: str | Path | None) -> keras.Model:
    """keras.applications' Inception-V3 without top, averaged over its positions."""
    options = {"input_shape": (size, size, 3), "pooling": "avg"}
    if weights is None:
        return build_application("InceptionV3", **options)
    return load_application("InceptionV3", str(weights), **options)
