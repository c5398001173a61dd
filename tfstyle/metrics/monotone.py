"""Whether the gray scale kept its order: how much of the generated image rises with the content."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfstyle.errors import ArgumentError
from tfstyle.metrics.means import PairMean
from tfstyle.metrics.structure import check_pairs

#: Side of a cell in pixels; neighbors overlap by half.
CELL = 32
#: Gray levels of a curve, spread over the range that the content has in the cell.
LEVELS = 32
#: Standard deviation of the generated image inside its cells, in gray levels, below which there is
#: nothing to explain.
STILL = 1e-4


def monotonicity_scores(content, generated, mask=None, *, cell: int = CELL, empty: float = 1.0):
    """Share of the generated image's contrast that is a rising function of the content, per image.

    The image is covered by square cells that overlap by half, because style may differ from place
    to place and one curve for the image would call that a loss. In every cell c the nondecreasing
    function f_c of the content's gray level that fits the generated image best is found (isotonic
    regression, over 32 levels between the content's extremes in the cell), and

        score = 1 − Σ_c Σ_p (g_p − f_c(x_p))² / Σ_c Σ_p (g_p − mean_c g)²

    It is 1 when each place has its own rising tone curve, of any shape; near 0 where tissues
    changed their order (dark became bright); and between, by as much as the generated image has
    structure, noise or blur that the content's gray levels do not explain. It counts contrast as
    seen, so that strong edges weigh most and flat cells little.

    Isotonic regression in closed form: with M(i, j) the mean of g over the levels i to j,
    ``f_k = max_{i ≤ k} min_{j ≥ k} M(i, j)``.

    Args:
        content: float tensor (B, H, W, 1) in [0, 1].
        generated: float tensor (B, H, W, 1) in [0, 1].
        mask: bool tensor (B, H, W, 1); only pixels inside it count, for example those of tissue.
            Without one the border between body and air outweighs what lies inside.
        cell: Side of a cell in pixels, even, at least 8.
        empty: Score of an image whose generated version is flat in every cell; 1 by default.

    Returns:
        float32 tensor (B,) in [0, 1].

    Raises:
        ArgumentError: images that are not gray batches of one size, or a bad cell.

    Example:
        >>> bool(monotonicity_scores(images, 1.0 - images)[0] < 0.2)
        True

    Reference: Barlow, Bartholomew, Bremner and Brunk, "Statistical inference under order
    restrictions" (1972), theorem 1.4 (the max-min formula).
    """
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 8 or cell % 2:
        raise ArgumentError(f"cell: must be an even whole number of at least 8, received {cell!r}.")
    content, generated = ops.convert_to_tensor(content), ops.convert_to_tensor(generated)
    check_pairs(content, generated)
    x = ops.cast(content, "float32")
    y = ops.cast(generated, "float32")
    weight = ops.ones_like(x) if mask is None else ops.cast(mask, "float32")
    x, y, weight = (_cells(images, cell) for images in (x, y, weight))  # (B, cells, pixels)
    inside = weight > 0
    low = ops.min(ops.where(inside, x, 2.0), axis=-1, keepdims=True)
    high = ops.max(ops.where(inside, x, -1.0), axis=-1, keepdims=True)
    step = ops.maximum(high - low, 1e-6) / LEVELS
    level = ops.clip(ops.floor((x - low) / step), 0, LEVELS - 1)
    # About the cell's mean, so that float32 keeps the digits of small contrasts.
    size = ops.maximum(ops.sum(weight, axis=-1, keepdims=True), 1.0)
    y = (y - ops.sum(weight * y, axis=-1, keepdims=True) / size) * weight
    total = ops.sum(y * y, axis=-1)
    counts, sums = [], []
    for k in range(LEVELS):
        there = weight * ops.cast(level == k, "float32")
        counts.append(ops.sum(there, axis=-1))
        sums.append(ops.sum(there * y, axis=-1))
    counts, sums = ops.stack(counts, axis=-1), ops.stack(sums, axis=-1)
    curve = _isotonic(counts, sums)
    # Σ (g − f)² = Σ g² − Σ_k f_k·(2·Σ_k g − n_k·f_k)
    explained = ops.sum(curve * (2.0 * sums - counts * curve), axis=-1)
    total, explained = ops.sum(total, axis=-1), ops.sum(explained, axis=-1)
    pixels = ops.sum(weight, axis=(1, 2))
    score = ops.clip(explained / ops.maximum(total, 1e-12), 0.0, 1.0)
    return ops.where(total > STILL**2 * pixels, score, ops.full_like(score, empty))


def monotonicity(
    content: npt.ArrayLike,
    generated: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    cell: int = CELL,
) -> float:
    """:func:`monotonicity_scores` of one pair of images.

    Args:
        content: float array (H, W) in [0, 1].
        generated: float array (H, W) in [0, 1].
        mask: bool array (H, W); see :func:`tfstyle.data.body_mask`.
        cell: Side of a cell in pixels.

    Returns:
        A number in [0, 1]; NaN when the generated image is flat in every cell.

    Raises:
        ArgumentError: see :func:`monotonicity_scores`.

    Example:
        >>> monotonicity(content, content**2) > 0.95   # any rising curve will do
        True
    """
    images: list[np.ndarray | None] = []
    for value, kind in ((content, "float32"), (generated, "float32"), (mask, "bool")):
        if value is not None:
            array = np.asarray(value, kind).squeeze()
            if array.ndim != 2:
                raise ArgumentError(
                    f"content, generated and mask: need arrays (H, W), received shape "
                    f"{np.shape(value)}."
                )
            value = array[None, ..., None]
        images.append(value)
    return float(monotonicity_scores(*images, cell=cell, empty=float("nan"))[0])


@keras.saving.register_keras_serializable(package="tfstyle")
class Monotonicity(PairMean):
    """Mean of :func:`monotonicity_scores` over all pairs seen, as a Keras metric.

    Pairs whose generated image is flat are left out.

    Args:
        cell: Side of a cell in pixels.
        name: Defaults to ``"monotonicity"``.
        dtype: Of the sum.

    Example:
        >>> metric = Monotonicity()
        >>> metric.update_state(images, images**2)
    """

    def __init__(self, cell: int = CELL, name: str = "monotonicity", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.cell = cell

    def scores(self, content, generated, mask=None):
        return monotonicity_scores(content, generated, mask, cell=self.cell, empty=float("nan"))

    def get_config(self):
        return {**super().get_config(), "cell": self.cell}


def _isotonic(counts, sums):
    """Nondecreasing curve (..., K) nearest to the means sums/counts, weighted by counts."""
    n = ops.concatenate([ops.zeros_like(counts[..., :1]), ops.cumsum(counts, axis=-1)], axis=-1)
    s = ops.concatenate([ops.zeros_like(sums[..., :1]), ops.cumsum(sums, axis=-1)], axis=-1)
    # mean[..., i, j] of levels i to j; intervals without pixels lie on no level that counts.
    between = n[..., None, 1:] - n[..., :-1, None]
    mean = (s[..., None, 1:] - s[..., :-1, None]) / ops.maximum(between, 1.0)
    there = between > 0
    order = np.arange(LEVELS)
    rises = order[None, :] >= order[:, None]  # i ≤ j
    mean = ops.where(ops.logical_and(there, rises), mean, np.float32(np.inf))
    # min over j ≥ k for every i: running minima from the right.
    least = -_running_max(-ops.flip(mean, axis=-1))
    least = ops.flip(least, axis=-1)  # [i, k]
    least = ops.where(rises, least, np.float32(-np.inf))  # i ≤ k
    curve = ops.max(least, axis=-2)
    return ops.where(counts > 0, curve, 0.0)


def _running_max(values):
    """Running maxima along the last axis, by doubling: log2 K steps."""
    step = 1
    while step < LEVELS:
        before = ops.full_like(values[..., :step], -np.inf)
        shifted = ops.concatenate([before, values[..., :-step]], axis=-1)
        values = ops.maximum(values, shifted)
        step *= 2
    return values


def _cells(images, cell: int):
    """(B, H, W, 1) to (B, cells, cell²): cells at every half side, zeros beyond the border.

    Images are padded by half a cell and up to the next multiple of it, so that every pixel lies
    in four cells.
    """
    half = cell // 2
    shape = ops.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    bottom, right = -height % half, -width % half
    padded = ops.pad(images, ((0, 0), (half, half + bottom), (half, half + right), (0, 0)))
    rows, columns = (height + bottom) // half + 2, (width + right) // half + 2
    tiles = ops.reshape(padded, (batch, rows, half, columns, half))
    tiles = ops.transpose(tiles, (0, 1, 3, 2, 4))
    # Four neighboring half cells make a cell.
    quarters = [tiles[:, i : rows - 1 + i, j : columns - 1 + j] for i in (0, 1) for j in (0, 1)]
    stacked = ops.stack(quarters, axis=3)
    return ops.reshape(stacked, (batch, (rows - 1) * (columns - 1), cell * cell))
