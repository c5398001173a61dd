"""DICOM segmentations from and to label volumes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
from pydicom.uid import generate_uid

from tfstyle._private.files import temporary_beside
from tfstyle.data.dicom import tables
from tfstyle.data.dicom.files import check_size, read_dataset, sop_class_of
from tfstyle.data.layouts import MARK
from tfstyle.data.privacy import reason_of, values_unsaid
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError, require_packages, writing
from tfstyle.limits import check

#: Segmentation Storage and Label Map Segmentation Storage.
SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
#: What a segmentation takes over from its images, empty where they lack it.
_CARRIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
#: What headers of masks say, see :mod:`tfstyle.data.layouts`.
DESCRIPTION = f"Segmented {MARK}"


_NEEDED = {"highdicom": "highdicom"}, "dicom-seg", "DICOM SEG"


def read_dicom_seg(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Segment numbers as labels, uint16 of three axes, and the affine of these to the patient.

    Fractional segments count from one half on. Raises an InputFileError for what is damaged or is
    not a segmentation, whose segments overlap, or whose frames are not a regular stack.
    """
    require_packages(*_NEEDED)
    import highdicom as hd

    path = os.fspath(path)
    dataset = read_dataset(path, pixels=True)
    check_size(path, dataset)
    try:
        with values_unsaid():
            segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
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


def write_dicom_seg(
    labels: np.ndarray,
    scan: Scan,
    path: str | os.PathLike,
    *,
    names: Mapping[int, str] | None = None,
    model: str = "tfstyle",
    version: str = "",
) -> None:
    """Writes labels as a DICOM segmentation, a new series of the scan that they were made of.

    Args:
        labels: uint8 (slices, rows, columns) of the scan's size, 0 for background.
        scan: The scan, read from DICOM: single frames, or one multi-frame file.
        path: Output file, replaced as a whole.
        names: Names of labels from 1 on; others are called by their number.
        model: Name of the model, for the algorithm identification.
        version: Version of the software.

    Raises an ArgumentError if the labels do not fit a scan of DICOM, an InputFileError if a file
    lacks what a segmentation must refer to, and OutputError and MissingPackageError.
    """
    if not scan.frames:
        raise ArgumentError(f"scan: must be read from DICOM, received {scan.name}.")
    labels = np.asarray(labels)
    if labels.shape != scan.shape or labels.dtype != np.uint8:
        found = f"{labels.dtype} {labels.shape}"
        raise ArgumentError(f"labels: must be uint8 {scan.shape}, received {found}.")
    require_packages(*_NEEDED)
    import highdicom as hd
    from pydicom.sr.codedict import codes

    files = list(dict.fromkeys(frame.path for frame in scan.frames))
    headers = [read_dataset(file, pixels=False) for file in files]
    own = {frame.path: frame for frame in scan.frames}
    for file, header in zip(files, headers):
        for keyword in _CARRIED:
            header.setdefault(keyword, "")
        # Some exporters leave them to the file's meta information, or out.
        plain = tables.CT if own[file].Modality == "CT" else tables.SECONDARY_CAPTURE
        header.SOPClassUID = sop_class_of(header) or plain
        header.SOPInstanceUID = own[file].SOPInstanceUID or generate_uid()
    if len(files) == 1 and scan.frames[0].NumberOfFrames > 1:
        whole = np.zeros((scan.frames[0].NumberOfFrames, *labels.shape[1:]), np.uint8)
        whole[[frame.index for frame in scan.frames]] = labels
        labels = whole
    names = names or {}
    algorithm = hd.AlgorithmIdentificationSequence(
        model, codes.DCM.ArtificialIntelligence, version or "0"
    )
    structure, segments = codes.SCT.AnatomicalStructure, []
    for number in range(1, max(1, *names, int(labels.max())) + 1):
        name = names.get(number, f"label {number}")
        kind = codes.SCT.Spine if name == "spine" else structure
        segments.append(
            hd.seg.SegmentDescription(number, name, structure, kind, "AUTOMATIC", algorithm)
        )
    try:
        with values_unsaid():
            written = hd.seg.Segmentation(
                headers,
                labels,
                "BINARY",
                segments,
                generate_uid(),
                scan.frames[0].SeriesNumber + 2000,
                generate_uid(),
                1,
                manufacturer="tfstyle",
                manufacturer_model_name=model,
                software_versions=version or "0",
                device_serial_number="0",
                series_description=DESCRIPTION,
                content_description=DESCRIPTION,
            )
    except Exception as error:  # highdicom raises many kinds
        problem = f"a DICOM segmentation cannot be derived from it ({reason_of(error)})."
        raise InputFileError(files[0], problem) from None
    with writing(path), temporary_beside(path) as temporary:
        written.save_as(temporary)
        os.replace(temporary, path)
