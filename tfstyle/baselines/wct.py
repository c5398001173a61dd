"""Whitening and coloring: Li et al., "Universal style transfer via feature transforms", 2017."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keras import ops

from tfstyle.baselines.base import NetworkBaseline
from tfstyle.errors import ArgumentError
from tfstyle.layers.padding import extend_to_stride
from tfstyle.style_transfer import StyleTransfer

#: A model, or what ``StyleTransfer.open`` takes.
Source = StyleTransfer | str | os.PathLike
#: Eigenvalues of a covariance up to this count as 0, as in the paper's own code.
THRESHOLD = 1e-5


def whiten(features, threshold: float = THRESHOLD):
    """Takes away mean and covariance of the channels: ``E·D^(−1/2)·Eᵀ·(f − m)``, equation 2.

    E and D are the eigenvectors and eigenvalues of the covariance over the positions. Directions
    whose eigenvalue is at most `threshold` are left out: they hold no more than rounding, which
    would be blown up.

    Args:
        features: float tensor (B, H, W, C).
        threshold: Smallest eigenvalue but for which a direction counts, at least 0.

    Returns:
        float64 tensor (B, H, W, C): every sample has mean 0 and, in the directions that count,
        covariance 1.
    """
    vectors, _, values, axes = _principal(features)
    # f·E·D^(−1/2)·Eᵀ with the vectors as rows; the matrix is its own transpose.
    return _as_map(ops.matmul(vectors, _power(values, axes, -0.5, threshold)), features)


def color(whitened, style, threshold: float = THRESHOLD):
    """Gives whitened features mean and covariance of the style: ``E·D^(1/2)·Eᵀ·f + m``, equation 3.

    Args:
        whitened: float tensor (B, H, W, C) of :func:`whiten`.
        style: float tensor (B or 1, H', W', C).
        threshold: As of :func:`whiten`, for the style's eigenvalues.

    Returns:
        float64 tensor (B, H, W, C). Its covariance is the style's where the content's features
        had all C directions to give.
    """
    _, mean, values, axes = _principal(style)
    return _as_map(
        ops.matmul(_as_vectors(whitened), _power(values, axes, 0.5, threshold)) + mean, whitened
    )


class WCT(NetworkBaseline):
    """Whitening and coloring in place of AdaIN, through the decoder of a ``StyleTransfer``.

    AdaIN gives every channel the style's mean and variance; this gives the channels together the
    style's covariance, in closed form. The decoder is used as it was trained. With several models,
    from deep to shallow, the image passes through one after the other, as the paper's multi-level
    pipeline (section 3.3).

    Args:
        model: A :class:`tfstyle.StyleTransfer`, or what ``StyleTransfer.open`` takes: a preset's
            name, a folder, a ``.keras`` file. Or a list of them.
        threshold: Eigenvalues up to this count as 0.

    Raises:
        ArgumentError: no model, or a threshold that cannot be used.
        InputFileError: if a model file is missing or damaged.
        WeightsError: if there is no such preset.

    Example:
        >>> WCT("vgg16_ct_shallow").stylize(content, style, strength=0.6).shape
        (64, 64)

    Reference: Li, Fang, Yang, Wang, Lu and Yang, arXiv:1705.08086. Strength blends the transformed
    with the content's own features as in equation 4; several styles are blended as features.
    """

    method = "wct"

    def __init__(
        self,
        model: Source | Sequence[Source] = "vgg16_ct_shallow",
        threshold: float = THRESHOLD,
    ):
        models = [model] if isinstance(model, str | os.PathLike | StyleTransfer) else [*model]
        if not models:
            raise ArgumentError("model: the list of models is empty.")
        if not threshold >= 0.0:
            raise ArgumentError(f"threshold: must be at least 0, received {threshold!r}.")
        self.models = [
            one if isinstance(one, StyleTransfer) else StyleTransfer.open(one) for one in models
        ]
        self.threshold = float(threshold)

    def _plain(self, content, styles, strength):
        for model in self.models:
            shape = ops.shape(content)
            features = model.encode(extend_to_stride(content, model.stride))
            whitened = whiten(features, self.threshold)
            mixed = 0.0
            for weight, style in styles:
                encoded = model.encode(extend_to_stride(style, model.stride))
                mixed = mixed + weight * color(whitened, encoded, self.threshold)
            mixed = ops.cast(mixed, features.dtype)
            if strength is not None:
                strength = ops.cast(strength, features.dtype)
                mixed = strength * mixed + (1.0 - strength) * features
            content = ops.clip(model.decoder(mixed)[:, : shape[1], : shape[2]], 0.0, 1.0)
        return content


def _principal(features):
    """Centered vectors (B, N, C), mean (B, 1, C), eigenvalues (B, C) and eigenvectors (B, C, C)."""
    vectors = _as_vectors(features)
    mean = ops.mean(vectors, axis=1, keepdims=True)
    vectors = vectors - mean
    freedom = ops.maximum(ops.cast(ops.shape(vectors)[1], "float64") - 1.0, 1.0)
    covariance = ops.matmul(ops.transpose(vectors, (0, 2, 1)), vectors) / freedom
    return vectors, mean, *ops.eigh(covariance)


def _power(values, axes, exponent: float, threshold: float):
    """E·D^exponent·Eᵀ over the eigenvalues above the threshold."""
    counts = values > threshold
    powers = ops.where(counts, ops.power(ops.where(counts, values, 1.0), exponent), 0.0)
    return ops.matmul(axes * powers[:, None, :], ops.transpose(axes, (0, 2, 1)))


def _as_vectors(features):
    """(B, H, W, C) to float64 (B, H·W, C)."""
    shape = ops.shape(features)
    return ops.reshape(
        ops.cast(features, "float64"), (shape[0], shape[1] * shape[2], features.shape[-1])
    )


def _as_map(vectors, features):
    return ops.reshape(vectors, (*ops.shape(features)[:3], features.shape[-1]))
