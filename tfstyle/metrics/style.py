"""How far two images are apart in gray-scale style: distances of their gray-level histograms."""

from __future__ import annotations

import numpy as np

from tfstyle.errors import ArgumentError


def histogram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of the gray-level distributions of two images.

    In one dimension it is the mean absolute difference of the quantile functions. Exact, for any
    numbers of pixels.

    Args:
        a: float array of any shape, gray levels in [0, 1].
        b: float array of any shape, gray levels in [0, 1].

    Returns:
        Distance in gray levels: 0 for equal histograms, at most 1.

    Raises:
        ArgumentError: if an array is empty or not finite.

    Example:
        >>> histogram_distance(np.zeros(10), np.ones(20))
        1.0

    Reference: Ramdas, Garcia and Cuturi, "On Wasserstein two-sample testing", Entropy 19:47
    (2017), section 2.3.
    """
    from scipy.stats import wasserstein_distance

    u, v = (np.asarray(x, dtype=np.float64).ravel() for x in (a, b))
    for name, values in (("a", u), ("b", v)):
        if not values.size or not np.isfinite(values).all():
            raise ArgumentError(f"{name}: must hold finite gray levels, at least one.")
    if u.size == v.size:  # much faster
        return float(np.mean(np.abs(np.sort(u) - np.sort(v))))
    return float(wasserstein_distance(u, v))


def style_distance_ratio(content: np.ndarray, style: np.ndarray, generated: np.ndarray) -> float:
    """What is left of the style distance: W(generated, style) / W(content, style).

    Args:
        content: float array in [0, 1].
        style: float array in [0, 1].
        generated: float array in [0, 1].

    Returns:
        0 when the generated image has the style's histogram, 1 when nothing was gained;
        infinite when content and style have the same histogram and generated has not.
    """
    before = histogram_distance(content, style)
    after = histogram_distance(generated, style)
    if before == 0.0:
        return 0.0 if after == 0.0 else float("inf")
    return after / before
