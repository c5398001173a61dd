"""How much of the content stayed: the structure term of SSIM, and where its edges lie."""

from __future__ import annotations

import numpy as np

from tfstyle.errors import ArgumentError

#: (K2 · L)² / 2 with K2 = 0.03 and gray levels in [0, 1]: Wang et al. 2004, equation 10.
STRUCTURE_CONSTANT = 0.03**2 / 2
#: Windows whose content has a smaller standard deviation count as flat.
FLAT = 0.02
#: A generated image of a smaller standard deviation shows nothing: half of 255 gray levels.
BLANK = 0.5 / 255
#: Windows in which more than this share of the weight is clipped content are left out.
CLIPPED = 0.1
#: Slope of an edge, in gray levels a pixel, from which on it counts.
EDGE = 0.05


def structure_similarity(
    content: np.ndarray, generated: np.ndarray, mask: np.ndarray | None = None
) -> float:
    """Mean structure term of SSIM over windows that are neither flat nor clipped.

    At every complete 11x11 Gaussian window ``s = (σ_xy + c) / (σ_x·σ_y + c)`` with
    ``c = (0.03)²/2``. It does not change under ``y = a·x + b`` with a > 0, so it ignores contrast
    and brightness, which are what style may change. A window counts where the content is neither
    flat (standard deviation under 0.02) nor clipped (more than a tenth of the weight at 0 or 1).

    Args:
        content: float array (H, W) in [0, 1], H and W at least 11.
        generated: float array (H, W) in [0, 1].
        mask: bool array (H, W); only windows centered inside it count. See
            :func:`tfstyle.data.body_mask`.

    Returns:
        Mean in [−1, 1]; 1 where structure is kept in full. 0 where the generated image varies by
        less than half of 255 gray levels over these windows: c alone would call that 1. NaN when
        no window counts.

    Raises:
        ArgumentError: for images of different or too small size.

    Example:
        >>> round(structure_similarity(content, 0.5 * content + 0.2), 2)   # contrast is ignored
        1.0

    Reference: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE TIP 13:4
    (2004), equation 10.
    """
    from scipy import ndimage

    x, y = _planes(content, generated, 11)
    inner = (slice(5, -5),) * 2

    def average(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, 1.5, radius=5)[inner]

    mean_x, mean_y = average(x), average(y)
    var_x = np.maximum(average(x * x) - mean_x**2, 0.0)
    var_y = np.maximum(average(y * y) - mean_y**2, 0.0)
    covariance = average(x * y) - mean_x * mean_y
    c = STRUCTURE_CONSTANT
    structure = (covariance + c) / (np.sqrt(var_x * var_y) + c)
    clipped = average(((x <= 0.0) | (x >= 1.0)).astype(np.float64))
    counts = (np.sqrt(var_x) >= FLAT) & (clipped <= CLIPPED)
    if mask is not None:
        counts &= np.asarray(mask, bool).squeeze()[inner]
    if not counts.any():
        return float("nan")
    return 0.0 if y[inner][counts].std() < BLANK else float(structure[counts].mean())


def edge_displacement(
    content: np.ndarray,
    generated: np.ndarray,
    spacing: float | tuple[float, float] = 1.0,
    mask: np.ndarray | None = None,
    reach: float = 3.0,
) -> float:
    """How far edges moved: mean distance along the content's edge normals.

    Edges are the ridges of the gradient magnitude of the content, smoothed with σ = 1 pixel,
    that exceed 0.05 gray levels a pixel. Along the normal of each, from −reach to reach, the
    place of the strongest slope of either image is found to a fraction of a pixel; its difference
    between the two images is the displacement.

    Args:
        content: float array (H, W) in [0, 1], H and W at least 16.
        generated: float array (H, W) in [0, 1].
        spacing: Size of a pixel in mm, or (row, column) sizes; 1 gives pixels.
        mask: bool array (H, W); only edges inside it count.
        reach: How far to look to either side, in pixels.

    Returns:
        Mean absolute displacement in the units of `spacing`; NaN where the content has no edge.
        Edges that vanish in the generated image count with what is strongest within reach.

    Raises:
        ArgumentError: for images of different or too small size.

    Example:
        >>> edge_displacement(content, 0.5 * content, spacing=0.7) < 0.1   # mm
        True
    """
    from scipy import ndimage

    def slopes(image: np.ndarray) -> list[np.ndarray]:
        return np.gradient(ndimage.gaussian_filter(image, 1.0, radius=3, mode="mirror"))

    def sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(image, [rows, columns], order=1)

    x, y = _planes(content, generated, 16)
    down, across = slopes(x)
    strength = np.hypot(down, across)
    border = int(np.ceil(reach)) + 2
    inside = np.zeros(x.shape, bool)
    inside[border:-border, border:-border] = True
    if mask is not None:
        inside &= np.asarray(mask, bool).squeeze()
    rows, columns = np.nonzero(inside & (strength > EDGE))
    normals = np.stack([down, across])[:, rows, columns] / strength[rows, columns]
    ahead, behind = (
        sample(strength, rows + sign * normals[0], columns + sign * normals[1]) for sign in (1, -1)
    )
    ridge = (strength[rows, columns] >= ahead) & (strength[rows, columns] >= behind)
    rows, columns, normals = rows[ridge], columns[ridge], normals[:, ridge]
    if not rows.size:
        return float("nan")
    offsets = np.arange(-reach, reach + 0.125, 0.25)
    lines = rows + offsets[:, None] * normals[0], columns + offsets[:, None] * normals[1]
    places = []
    for image in (strength, np.hypot(*slopes(y))):
        profile = sample(image, *lines)
        best = np.clip(profile.argmax(axis=0), 1, len(offsets) - 2)
        each = np.arange(rows.size)
        left, top, right = (profile[best + k, each] for k in (-1, 0, 1))
        bend = left - 2 * top + right
        shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
        places.append(offsets[best] + 0.25 * np.clip(shift, -1, 1))
    row, column = np.broadcast_to(np.asarray(spacing, np.float64), (2,))
    length = np.hypot(normals[0] * row, normals[1] * column)
    return float(np.mean(np.abs(places[1] - places[0]) * length))


def _planes(content, generated, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 (H, W), of one size, no side below `least`."""
    x = np.asarray(content, np.float64).squeeze()
    y = np.asarray(generated, np.float64).squeeze()
    if x.shape != y.shape or x.ndim != 2 or min(x.shape) < least:
        raise ArgumentError(
            f"content and generated: need the same shape (H, W) with both at least {least}, "
            f"received {np.shape(content)} and {np.shape(generated)}."
        )
    return x, y
