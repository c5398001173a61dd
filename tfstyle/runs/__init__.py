"""What a command does in a folder.

Each module is a run of one kind; :class:`~tfstyle.runs.folder.RunFolder` serves all of them. Each
name is loaded when it is first used: not all need TensorFlow.
"""

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
    "AugmentedSet": "augment",
    "Backup": "fit",
    "PreparedSet": "prepare",
    "SegmentedScan": "segment",
    "StylizedScan": "scans",
    "TrainingResult": "training",
    "TrainingRun": "options",
    "augment_scans": "augment",
    "environment": "training",
    "fit_resumable": "fit",
    "prepare_scans": "prepare",
    "segment_scans": "segment",
    "stylize_scans": "stylize",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


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
