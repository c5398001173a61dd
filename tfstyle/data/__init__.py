"""Reading, windowing and writing of images, phantoms, and the training pipeline."""

from tfstyle.data.nifti import match_labels
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
from tfstyle.data.read import read_scan, read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import WINDOWS, Window, resolve_window, scan_to_unit
