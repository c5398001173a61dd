"""DICOM segmentations as label volumes."""

from __future__ import annotations

import math
import os

import numpy as np

from tfstyle.data.dicom.files import check_size, read_dataset
from tfstyle.data.privacy import reason_of, values_unsaid
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import check

#: Segmentation Storage and Label Map Segmentation Storage.
SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def read_dicom_seg(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads a DICOM segmentation with highdicom: segment numbers as labels.

    Args:
        path: A file of one of :data:`SEG_CLASSES`. Fractional segments count from one half on.

    Returns:
        uint16 labels of three axes, and the affine to patient coordinates as ``Scan.affine``.

    Raises:
        InputFileError: The file is damaged or is not a segmentation, its segments overlap, or its
            frames are not a regular stack.
        ArgumentError: highdicom is not installed.
    """
    try:
        from highdicom.seg import Segmentation
    except ImportError:
        raise ArgumentError(
            "highdicom is needed to read DICOM SEG: pip install 'tfstyle[dicom-seg]'."
        ) from None
    path = os.fspath(path)
    dataset = read_dataset(path, pixels=True)
    try:
        check_size(path, dataset)
        with values_unsaid():
            segmentation = Segmentation.from_dataset(dataset, copy=False)
            geometry = segmentation.get_volume_geometry()
            if geometry is None:
                raise ValueError("its frames are not a regular stack")
            # Frames far apart span many slices, however few they are.
            count = math.prod(geometry.spatial_shape)
            check(path, "scan_pixels", count, f"spans {geometry.spatial_shape} voxels")
            volume = segmentation.get_volume(combine_segments=True, dtype=np.uint16)
        affine = np.asarray(volume.affine, np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("its affine is singular")
    except InputFileError:
        raise
    except Exception as error:  # highdicom raises many kinds
        reason = reason_of(error)
        raise InputFileError(path, f"cannot be read as a DICOM segmentation ({reason}).") from None
    return np.asarray(volume.array), affine
