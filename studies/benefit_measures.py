"""How well a spine was found, slice by slice."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from tfstyle import metrics

#: Class that does not count.
IGNORE = 255
#: Name of each measure, and how the page shows it: factor, digits, whether more is better.
MEASURES = {
    "mean_iou": ("mean IoU, %", 100, 1, True),
    "spine_iou": ("IoU of the spine, %", 100, 1, True),
    "dice": ("Dice, %", 100, 1, True),
    "boundary_mm": ("boundary distance, mm", 1, 1, False),
    "pixel_accuracy": ("pixel accuracy, %", 100, 1, True),
}


def boundary_distance(truth: np.ndarray, found: np.ndarray, spacing_mm: float) -> float:
    """Mean distance between the boundaries of two masks, both ways.

    The average symmetric surface distance: the mean over the boundary pixels of both masks of the
    distance to the nearest boundary pixel of the other.

    Args:
        truth: bool (H, W).
        found: bool (H, W).
        spacing_mm: Pixel spacing.

    Returns:
        mm; 0 where both are empty, and the longer side of the picture where one is.
    """
    if not truth.any() or not found.any():
        return 0.0 if truth.any() == found.any() else max(truth.shape) * float(spacing_mm)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, found)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    return float(np.concatenate([away[1][edges[0]], away[0][edges[1]]]).mean())


def measure(masks: np.ndarray, found: np.ndarray, spacing_mm: float) -> dict[str, list[float]]:
    """All of :data:`MEASURES` for each slice.

    Args:
        masks: uint8 (N, H, W): 0, 1 for spine, or :data:`IGNORE`.
        found: uint8 (N, H, W): 0 or 1.
        spacing_mm: Pixel spacing.
    """
    rows: dict[str, list[float]] = {name: [] for name in MEASURES}
    for truth, own in zip(masks, found):
        iou = metrics.iou_by_class(truth, own, 2, ignore_class=IGNORE)
        dice = metrics.dice_by_class(truth, own, 2, ignore_class=IGNORE)
        accuracy = metrics.pixel_accuracy(truth, own, 2, ignore_class=IGNORE)
        inside = (own == 1) & (truth != IGNORE)
        distance = boundary_distance(truth == 1, inside, spacing_mm)
        values = (np.nanmean(iou), iou[1], dice[1], distance, accuracy)
        for name, value in zip(MEASURES, values):
            # What is neither there nor found is right.
            rows[name].append(round(float(np.nan_to_num(value, nan=1.0)), 5))
    return rows
