"""Measures of style transfer: how much of the style arrived, how much of the content stayed.

Functions take arrays or tensors; the classes are the same as ``keras.metrics.Metric``, with sums
and counts as state, so that batches and replicas add up. Their ``update_state(content, generated)``
takes Keras's ``y_true`` and ``y_pred``.
"""

from __future__ import annotations

import importlib

#: Where each name lives. Modules are imported on first use: some need Keras, some NumPy alone.
_PLACES = {
    "inception": (
        "DomainClassifier",
        "conditional_inception_score",
        "inception_score",
    ),
    "perceptual": ("LPIPS", "PerceptualDistance", "lpips"),
    "preservation": ("edge_displacement", "structure_similarity"),
    "segmentation": (
        "Dice",
        "MeanIoU",
        "PixelAccuracy",
        "confusion_matrix",
        "dice",
        "dice_by_class",
        "iou_by_class",
        "mean_iou",
        "pixel_accuracy",
    ),
    "structure": ("StructureSimilarity", "structure_scores"),
    "style": ("histogram_distance", "style_distance_ratio"),
    "tone": (
        "LEAST_PIXELS",
        "TISSUES",
        "TISSUE_LIMITS",
        "ToneError",
        "tone_error",
        "tone_errors",
    ),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"tfstyle.metrics.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'tfstyle.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


__all__ = sorted(_MODULE_OF)
