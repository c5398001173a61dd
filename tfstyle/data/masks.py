"""Masks of several formats on the grid of a scan."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfstyle.data.dicom.segmentation import read_dicom_seg
from tfstyle.data.layouts import NIFTI, key_of
from tfstyle.data.nifti import read_labels, resample_labels
from tfstyle.data.png import read_png
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError

logger = logging.getLogger(__name__)


def check_classes(classes: Mapping[int, Iterable[int]] | str | None) -> None:
    """Raises an ArgumentError for what :func:`merge_classes` cannot use."""
    mapping = classes if isinstance(classes, Mapping) else {}
    good = mapping and all(isinstance(k, (int, np.integer)) and 0 < k <= 255 for k in mapping)
    if not (good or classes is None or (isinstance(classes, str) and classes == "foreground")):
        raise ArgumentError(
            'classes: must be None, "foreground" or a mapping from new labels (1 to 255) to old '
            f"ones, received {classes!r}."
        )


def merge_classes(
    mask: np.ndarray, classes: Mapping[int, Iterable[int]] | str | None
) -> np.ndarray:
    """Gives labels, whole numbers of any shape, new numbers, see :meth:`LabelledFiles.read`.

    Example:
        >>> merge_classes(np.array([0, 20, 21, 7]), {1: (20, 21)})
        array([0, 1, 1, 0], dtype=uint8)
    """
    check_classes(classes)
    if classes is None:
        return mask
    if isinstance(classes, str):
        return (mask != 0).astype(np.uint8)
    merged = np.zeros(mask.shape, np.uint8)
    for new, old in classes.items():
        wanted = [int(value) for value in ([old] if isinstance(old, (int, np.integer)) else old)]
        merged[np.isin(mask, wanted)] = new
    return merged


def mask_on(scan: Scan, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a NIfTI or DICOM SEG file on the scan's grid, and the slices that it covers."""
    if scan.affine is None:
        raise InputFileError(path, f"{scan.name} has no position in space; use PNG masks.")
    if path.lower().endswith(NIFTI):
        labels, affine = read_labels(path)
    else:
        labels, affine = read_dicom_seg(path)
    if labels.shape == scan.shape and not np.allclose(affine, scan.affine, atol=1e-3):
        what = "and another affine; it is laid on the scan by its affine"
        logger.warning("%s has the size of %s %s.", path, scan.name, what)
    return resample_labels(scan, labels, affine)


def add_pictures(
    scan: Scan, image: str, pictures: Sequence[str], mask: np.ndarray, covered: np.ndarray
) -> None:
    """Lays PNG masks on the slices whose files have their names."""
    by_name = {key_of(os.path.basename(path)): path for path in pictures}
    names = [key_of(os.path.basename(file)) for file in scan.files]
    if len(pictures) == 1 and len(scan) == 1:
        slices = [(0, pictures[0])]
    else:
        slices = [(i, by_name[name]) for i, name in enumerate(names) if name in by_name]
        if len(names) != len(scan) or len(slices) != len(pictures):
            problem = f"{len(pictures)} PNG masks do not fit {len(scan)} slices of {image} by name."
            raise InputFileError(pictures[0], problem)
    for number, path in slices:
        labels = read_png(path).pixels[0]
        if labels.shape != mask.shape[1:]:
            (h, w), (rows, columns) = labels.shape, mask.shape[1:]
            raise InputFileError(path, f"has {h} x {w} pixels, the slice {rows} x {columns}.")
        # Pictures of two levels are drawn black and white.
        white = np.isin(labels, (0, 255)).all()
        mask[number] = labels > 0 if white else labels
        covered[number] = True
