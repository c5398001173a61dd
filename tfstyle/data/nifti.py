"""Reading NIfTI volumes, in the orientation in which DICOM shows axial slices, and label maps."""

from __future__ import annotations

import logging
import os

import nibabel as nib
import numpy as np

from tfstyle.data.dicom import AIR_HU, compact
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError

logger = logging.getLogger(__name__)

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (slices, rows, columns) reoriented to superior, posterior, left, and LPS affine."""
    if not os.path.exists(path):
        raise InputFileError(path, "no such file.")
    try:
        image = nib.load(path)
        shape = image.shape
        kind = image.get_data_dtype()
    except Exception as error:  # nibabel raises many kinds on damaged files
        reason = " ".join(str(error).split())
        raise InputFileError(path, f"not a NIfTI file, or damaged ({reason}).") from error
    if kind.fields is not None or kind.kind not in "iufb":
        raise InputFileError(path, f"holds {kind} values; scans have one gray value a voxel.")
    if len(shape) > 3 and any(n != 1 for n in shape[3:]):
        raise InputFileError(
            path,
            f"a {len(shape)}-D image of shape {tuple(shape)}; give a 3-D volume, for example one "
            "time point of it.",
        )
    if 0 in shape or len(shape) < 2:
        raise InputFileError(path, f"an image of shape {tuple(shape)}; give a 3-D volume.")
    try:
        voxels = np.asanyarray(image.dataobj)
    except Exception as error:
        raise InputFileError(path, f"the voxels are truncated or damaged ({error}).") from error
    voxels = voxels.reshape(tuple(shape[:3]) + (1,) * (3 - len(shape)))
    affine = np.array(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputFileError(path, "its affine is singular, so the orientation is unknown.")
    now = nib.orientations.io_orientation(affine)
    wanted = nib.orientations.axcodes2ornt(("S", "P", "L"))
    change = nib.orientations.ornt_transform(now, wanted)
    affine = affine @ nib.orientations.inv_ornt_aff(change, voxels.shape)
    voxels = nib.orientations.apply_orientation(voxels, change)
    return np.ascontiguousarray(voxels), _RAS_TO_LPS @ affine


def nifti_name(path: str | os.PathLike) -> str:
    """The file name without ``.nii`` and ``.gz``."""
    name = os.path.basename(os.fspath(path))
    for ending in (".gz", ".nii"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return name or "volume"


def read_nifti(path: str | os.PathLike, *, units: str = "auto") -> Scan:
    """Reads a 3-D NIfTI volume as axial slices.

    Voxels are put in the order in which DICOM shows axial slices: slices from inferior to superior,
    rows from anterior to posterior, columns from the patient's right to left. NIfTI does not say
    what its values mean: a volume with values of -50 or lower that spans at least 200 counts as
    Hounsfield units, any other as unspecified. HU below -1024 become -1024.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; a single slice or trailing axes of length 1 will do.
        units: ``"HU"`` or ``"US"`` to decide what the values are, ``"auto"`` to judge by them.

    Returns:
        The scan; int16 in HU, else the smallest of int16, int32 and float32 that fits.

    Raises:
        InputFileError: If the file is missing, damaged, 4-D, colour, or holds NaN.
        ArgumentError: If the units are unknown.
    """
    if units not in ("auto", "HU", "US"):
        raise ArgumentError(f"units must be 'auto', 'HU' or 'US'. Received {units!r}.")
    path = os.fspath(path)
    voxels, affine = _load(path)
    if voxels.dtype.kind == "f":
        bad = voxels.size - int(np.isfinite(voxels).sum())
        if bad:
            raise InputFileError(
                path,
                f"{bad} of {voxels.size} voxels are NaN or infinite. Replace them, for CT by "
                f"{AIR_HU}.",
            )
    if voxels.dtype.kind == "b":
        voxels = voxels.astype(np.uint8)
    low, high = float(voxels.min()), float(voxels.max())
    if units == "auto":
        units = "HU" if low <= -50 and high - low >= 200 else "US"
    if units == "HU":
        if voxels.dtype.kind == "f":
            voxels = np.rint(voxels)
        pixels = np.clip(voxels, AIR_HU, np.iinfo(np.int16).max).astype(np.int16)
    else:
        pixels = compact(voxels)
    return Scan(
        pixels=pixels,
        spacing=tuple(np.linalg.norm(affine[:3, :3], axis=0)),
        units=units,
        name=nifti_name(path),
        affine=affine,
        files=(path,),
    )


def match_labels(
    scan: Scan,
    label_path: str | os.PathLike,
    *,
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """A label map on the grid of a scan, by the affines of both, nearest neighbour.

    Example:
        >>> labels, covered = match_labels(scan, "labels.nii.gz")  # doctest: +SKIP
        >>> masks = labels[covered]  # doctest: +SKIP

    Args:
        scan: A scan with an affine.
        label_path: A NIfTI file of integer labels, of any size, orientation and spacing.
        offset_mm: Moves the labels to the left, posterior and superior, for label maps whose
            origin is known to be wrong.

    Returns:
        Labels (slices, rows, columns), uint8 or else int16 or int32, 0 outside the label map; and
        a bool array (slices,) that is True where the label map covers the slice.

    Raises:
        ArgumentError: If the scan has no affine.
        InputFileError: If the file cannot be read or its values are not integers.
    """
    if scan.affine is None:
        raise ArgumentError(f"{scan.name} has no position in space, so labels cannot be matched.")
    path = os.fspath(label_path)
    voxels, affine = _load(path)
    if voxels.dtype.kind == "f":
        if not np.isfinite(voxels).all() or not np.array_equal(voxels, np.rint(voxels)):
            raise InputFileError(path, "labels must be integers.")
    voxels = _label_type(voxels, path)
    affine = affine.copy()
    affine[:3, 3] += offset_mm
    change = np.linalg.inv(affine) @ scan.affine  # scan index -> label index
    labels = np.zeros(scan.pixels.shape, voxels.dtype)
    covered = np.zeros(len(scan), bool)
    limits = np.array(voxels.shape)[:, None, None]
    rows, columns = scan.pixels.shape[1:]
    plane = change[:3, 1, None, None] * np.arange(rows)[:, None]
    plane = plane + change[:3, 2, None, None] * np.arange(columns)
    for number in range(len(scan)):
        origin = change[:3, 3] + change[:3, 0] * number
        index = np.floor(plane + origin[:, None, None] + 0.5).astype(np.int64)
        inside = ((index >= 0) & (index < limits)).all(axis=0)
        covered[number] = inside.any()
        labels[number][inside] = voxels[tuple(index[:, inside])]
    return labels, covered


def _label_type(voxels: np.ndarray, path: str) -> np.ndarray:
    low, high = voxels.min(), voxels.max()
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return voxels.astype(kind)
    raise InputFileError(path, f"label values {low} to {high} are beyond 32 bits.")
