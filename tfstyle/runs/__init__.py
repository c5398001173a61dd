"""What a command does in a folder. Names are loaded when used: not all need TensorFlow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.runs.augment import AugmentedSet, augment_scans
    from tfstyle.runs.fit import Backup, fit_resumable
    from tfstyle.runs.options import TrainingRun
    from tfstyle.runs.prepare import PreparedSet, prepare_scans
    from tfstyle.runs.scans import StylizedScan
    from tfstyle.runs.segment import SegmentedScan, segment_scans
    from tfstyle.runs.stylize import stylize_scans
    from tfstyle.runs.training import TrainingResult, environment, train

_PLACES = {
    "augment": ("AugmentedSet", "augment_scans"),
    "fit": ("Backup", "fit_resumable"),
    "options": ("TrainingRun",),
    "prepare": ("PreparedSet", "prepare_scans"),
    "scans": ("StylizedScan",),
    "segment": ("SegmentedScan", "segment_scans"),
    "stylize": ("stylize_scans",),
    "training": ("TrainingResult", "environment", "train"),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AugmentedSet",
    "Backup",
    "PreparedSet",
    "SegmentedScan",
    "StylizedScan",
    "TrainingResult",
    "TrainingRun",
    "augment_scans",
    "environment",
    "fit_resumable",
    "prepare_scans",
    "segment_scans",
    "stylize_scans",
    "train",
]
