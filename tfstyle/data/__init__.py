"""Reading, windowing and writing of images, phantoms, and the training pipeline."""

from tfstyle.data.dicom_write import write_derived_series
from tfstyle.data.nifti import match_labels, read_nifti, write_nifti
from tfstyle.data.phantom import (
    LABELS,
    PROTOCOLS,
    Phantom,
    Protocol,
    apply_protocol,
    spine_phantom,
)
from tfstyle.data.pipeline import pair_dataset, slice_images
from tfstyle.data.png import read_png, write_png
from tfstyle.data.read import ScanFiles, list_scans, read_scan, read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import WINDOWS, Window, resolve_window, scan_to_unit

__all__ = [
    "LABELS",
    "PROTOCOLS",
    "WINDOWS",
    "Phantom",
    "Protocol",
    "Scan",
    "ScanFiles",
    "Window",
    "apply_protocol",
    "list_scans",
    "match_labels",
    "pair_dataset",
    "read_nifti",
    "read_png",
    "read_scan",
    "read_scans",
    "resolve_window",
    "scan_to_unit",
    "slice_images",
    "spine_phantom",
    "write_derived_series",
    "write_nifti",
    "write_png",
]
