"""Reading, windowing and writing of images, phantoms, and the training pipeline."""

import importlib

from tfstyle.data._canvas import LABELS
from tfstyle.data.body import body_mask
from tfstyle.data.dicom.write import write_derived_series
from tfstyle.data.labelled import (
    LabelledFiles,
    LabelledScan,
    find_labelled,
    merge_classes,
    read_labelled,
)
from tfstyle.data.nifti import match_labels, read_nifti, write_nifti
from tfstyle.data.phantom import spine_phantom
from tfstyle.data.png import read_png, write_png
from tfstyle.data.protocols import PROTOCOLS, Protocol, apply_protocol
from tfstyle.data.read import ScanFiles, list_scans, read_scan, read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import WINDOWS, Window, resolve_window, scan_to_unit

_LAZY = {
    "labelled_dataset": "tfstyle.data.labelled_slices",
    "pair_dataset": "tfstyle.data.pipeline",
}


def __getattr__(name: str):
    """Loads TensorFlow only when something needs it: reading and writing do not."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tfstyle.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "LABELS",
    "PROTOCOLS",
    "WINDOWS",
    "LabelledFiles",
    "LabelledScan",
    "Protocol",
    "Scan",
    "ScanFiles",
    "Window",
    "apply_protocol",
    "body_mask",
    "find_labelled",
    "labelled_dataset",
    "list_scans",
    "match_labels",
    "merge_classes",
    "pair_dataset",
    "read_labelled",
    "read_nifti",
    "read_png",
    "read_scan",
    "read_scans",
    "resolve_window",
    "scan_to_unit",
    "spine_phantom",
    "write_derived_series",
    "write_nifti",
    "write_png",
]
