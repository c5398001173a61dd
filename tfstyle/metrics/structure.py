"""The structure term of SSIM for batches, inside a graph: for gates, metrics and `tf.data`."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfstyle.errors import ArgumentError
from tfstyle.metrics.preservation import BLANK, CLIPPED, FLAT, STRUCTURE_CONSTANT


def structure_scores(content, generated, mask=None, *, empty: float = 1.0):
    """:func:`tfstyle.metrics.structure_similarity` for batches, in the graph and up to float32.

    Made to judge, not to train: windows are counted by thresholds, which have no gradient.

    Args:
        content: float tensor (B, H, W, 1) in [0, 1], H and W at least 11, static or not.
        generated: float tensor (B, H, W, 1) in [0, 1].
        mask: bool tensor (B, H, W, 1); only windows centered inside it count.
        empty: Score of an image in which no window counts. 1 by default: there was no structure to
            lose, so a threshold lets it pass.

    Returns:
        float32 tensor (B,) in [−1, 1], at any dtype of the images; 1 where structure is kept in
        full, 0 where the generated image is blank.

    Raises:
        ArgumentError: for images that are not gray batches of one size, where shapes are static.

    Example:
        >>> kept = structure_scores(images, 0.5 * images) >= 0.9   # (B,), also inside tf.data's map
    """
    content, generated = ops.convert_to_tensor(content), ops.convert_to_tensor(generated)
    check_pairs(content, generated, 11)
    # About mid-gray, where float32 keeps the digits of a small variance.
    x = ops.cast(content, "float32") - 0.5
    y = ops.cast(generated, "float32") - 0.5
    clipped = ops.cast(ops.logical_or(x <= -0.5, x >= 0.5), "float32")
    planes = _filter(ops.concatenate([x, y, x * x, y * y, x * y, clipped], axis=-1))
    mean_x, mean_y, square_x, square_y, product, clipped = (planes[..., i] for i in range(6))
    var_x = ops.maximum(square_x - mean_x * mean_x, 0.0)
    var_y = ops.maximum(square_y - mean_y * mean_y, 0.0)
    covariance = product - mean_x * mean_y
    c = STRUCTURE_CONSTANT
    structure = (covariance + c) / (ops.sqrt(var_x * var_y) + c)
    counts = ops.logical_and(ops.sqrt(var_x) >= FLAT, clipped <= CLIPPED)
    if mask is not None:
        counts = ops.logical_and(counts, ops.cast(mask, "bool")[:, 5:-5, 5:-5, 0])
    counts = ops.cast(counts, "float32")
    count = ops.sum(counts, axis=(1, 2))

    def average(values):
        return ops.sum(values * counts, axis=(1, 2)) / ops.maximum(count, 1.0)

    gray = y[:, 5:-5, 5:-5, 0]
    spread = average(ops.square(gray - average(gray)[:, None, None]))
    mean = ops.where(spread < BLANK**2, 0.0, average(structure))
    return ops.where(count > 0, mean, ops.full_like(mean, empty))


class PairMean(keras.metrics.Mean):
    """Mean of :meth:`scores` over all pairs seen; those without a score (NaN) are left out.

    The state is a sum and a count, added up over batches and replicas; 0 while there are none.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds contents and generated images, float (B, H, W, 1) in [0, 1].

        `sample_weight` has weights (B,), or is a mask (B, H, W, 1) of the pixels to look at.
        """
        content, generated = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        mask = None
        if sample_weight is not None and len(ops.shape(sample_weight)) > 2:
            mask, sample_weight = ops.cast(sample_weight, "bool"), None
            if len(mask.shape) == 3:
                mask = mask[..., None]
        scores = ops.cast(self.scores(content, generated, mask), self.dtype)
        weights = ops.cast(ops.logical_not(ops.isnan(scores)), self.dtype)
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        super().update_state(ops.where(weights > 0, scores, ops.zeros_like(scores)), weights)

    def scores(self, content, generated, mask=None):
        """One score an image, (B,); NaN where there is nothing to measure."""
        raise TypeError(f"{type(self).__name__} must define scores().")


@keras.saving.register_keras_serializable(package="tfstyle")
class StructureSimilarity(PairMean):
    """Mean of :func:`structure_scores` over all pairs seen, as a Keras metric.

    Pairs in which no window counts are left out.

    Example:
        >>> metric = StructureSimilarity()
        >>> metric.update_state(images, images**2)
        >>> metric.update_state(images, images**2, images > 0.1)   # windows inside the body alone
    """

    def __init__(self, name: str = "structure_similarity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def scores(self, content, generated, mask=None):
        return structure_scores(content, generated, mask, empty=float("nan"))


def check_pairs(content, generated, least: int = 1, names=("content", "generated")) -> None:
    """Raises an ArgumentError for what is known not to be a pair of gray batches (B, H, W, 1).

    `least` is the smallest height and width, `names` what to call the two; shapes may be open in
    graphs.
    """
    shapes = tuple(content.shape), tuple(generated.shape)
    agree = all(len(shape) == 4 and shape[-1] == 1 for shape in shapes) and all(
        a is None or b is None or a == b for a, b in zip(*shapes)
    )
    sides = [side for shape in shapes for side in shape[1:3] if side is not None]
    if not agree or min(sides, default=least) < least:
        raise ArgumentError(
            f"{names[0]} and {names[1]}: need the same shape (B, H, W, 1) with height and width at "
            f"least {least}, received {shapes[0]} and {shapes[1]}."
        )


def _filter(planes):
    """The 11x11 Gaussian over complete windows, separably, on every channel."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).astype(np.float32)
    channels = planes.shape[-1]
    for shape in ((11, 1, 1, 1), (1, 11, 1, 1)):
        kernel = np.tile(weights.reshape(shape), (1, 1, channels, 1))
        planes = ops.depthwise_conv(planes, kernel, padding="valid")
    return planes
