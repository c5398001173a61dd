"""NIfTI volumes, in the orientation in which DICOM shows axial slices, and label maps."""

from __future__ import annotations

import gzip
import logging
import math
import os
import re
from collections.abc import Sequence
from typing import cast

import nibabel as nib
import numpy as np

from tfstyle._private.files import safe_name, write_atomically
from tfstyle._private.images import one_of
from tfstyle.data.dicom.pixels import AIR_HU, LOWEST_HU, compact, smallest, to_hounsfield
from tfstyle.data.layouts import NIFTI
from tfstyle.data.privacy import reason_of
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.limits import check

logger = logging.getLogger(__name__)

_MARK = re.compile(rb", units (HU|US)")  # in the descriptions of files that tfstyle writes

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: The order of axes of a scan: slices upward, rows to the back, columns to the left.
_SCAN_AXES = nib.orientations.axcodes2ornt(("S", "P", "L"))
#: Fields of a header that say where its voxels lie. No others are handed on: they are free text.
_GEOMETRY = (
    *("dim_info", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def _header(path: str, *, say: bool = False) -> nib.Nifti1Header:
    """The header of NIfTI-1 or NIfTI-2; with `say`, a missing size of voxels is logged."""
    kinds = (nib.Nifti1Header, nib.Nifti2Header)
    try:
        with nib.openers.ImageOpener(path) as file:
            start = file.read(max(kind.sizeof_hdr for kind in kinds))
        size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
        kind = next((kind for kind in kinds if kind.sizeof_hdr in size), None)
        if kind is None or len(start) < kind.sizeof_hdr:
            raise ValueError("it does not begin with a NIfTI header")
        header = kind(start[: kind.sizeof_hdr])
        stated = kind(start[: kind.sizeof_hdr], check=False)  # nibabel makes 1 of 0
        sizes = stated["pixdim"][1 : 1 + min(3, int(stated["dim"][0]))]
        if header["magic"].tobytes().rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
            raise ValueError("it is not a single-file NIfTI")
        offset = float(header["vox_offset"])
        if not 0 <= offset < 2**62:
            raise ValueError(f"voxels from byte {offset:g} on")
        header.get_data_shape(), header.get_data_dtype(), header.get_best_affine()
    except FileNotFoundError:
        raise InputFileError(path, "no such file.") from None
    except Exception as error:  # nibabel raises many kinds on damaged files
        reason = reason_of(error)
        raise InputFileError(path, f"not a NIfTI file, or damaged ({reason}).") from None
    check(path, "text_bytes", int(offset), f"{int(offset)} bytes stand before the voxels")
    if say and not sizes.all() and not header["sform_code"]:
        logger.warning("%s does not say the size of its voxels (pixdim); taken as 1 mm.", path)
    return header


class NiftiPixels:
    """The voxels of a file in the order of a scan's axes: superior, posterior, left.

    ``units`` and ``window`` are what tfstyle noted in the header, or "" until the values are seen,
    and None.
    """

    by_slice = False

    def __init__(self, path: str):
        self.path, self.header = path, _header(path, say=True)
        mark = _MARK.search(self.header["descrip"].tobytes())
        self.units = mark[1].decode() if mark else ""
        low, high = float(self.header["cal_min"]), float(self.header["cal_max"])
        known = mark is not None and low < high and math.isfinite(high - low)
        self.window = Window.from_limits(low, high) if known else None
        shape, kind = tuple(map(int, self.header.get_data_shape())), self.header.get_data_dtype()
        if kind.fields is not None or kind.kind not in "iufb":
            raise InputFileError(path, f"holds {kind} values; scans have one gray value a voxel.")
        if len(shape) < 2 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
            problem = f"a {len(shape)}-D image of shape {shape}; give a 3-D volume of it."
            raise InputFileError(path, problem)
        size = os.path.getsize(path) * (1100 if path.lower().endswith(".gz") else 1)
        count = math.prod(shape)
        if count * kind.itemsize > size:  # before memory is taken
            raise InputFileError(path, f"the file is cut short: too small for {shape} voxels.")
        check(path, "scan_pixels", count, f"a volume of {' x '.join(map(str, shape))} voxels")
        own = np.array(self.header.get_best_affine(), np.float64)
        self._change = nib.orientations.ornt_transform(_axes(own, path), _SCAN_AXES)
        self._own = (*shape[:3], 1, 1)[:3]
        self.affine = _RAS_TO_LPS @ own @ nib.orientations.inv_ornt_aff(self._change, self._own)
        self.shape = tuple(self._own[i] for i in np.argsort(self._change[:, 0]))

    def voxels(self, mapped: bool = False) -> np.ndarray:
        """Voxels (slices, rows, columns); with `mapped` on the disk, unless packed or scaled."""
        try:
            with np.errstate(all="ignore"):  # what is too large for the scale becomes infinite
                proxy = nib.arrayproxy.ArrayProxy(self.path, self.header, mmap=mapped)
                voxels = np.asanyarray(proxy)
        except Exception as error:
            problem = f"the voxels are truncated or damaged ({reason_of(error)})."
            raise InputFileError(self.path, problem) from None
        voxels = nib.orientations.apply_orientation(voxels.reshape(self._own), self._change)
        if voxels.dtype.kind == "b":
            voxels = voxels.astype(np.uint8)
        return voxels if mapped else np.ascontiguousarray(voxels)

    def scaled(self, voxels: np.ndarray) -> np.ndarray:
        """Voxels as the pixels of a scan in its units, which are found out if need be."""
        if bad := int(np.sum(~np.isfinite(voxels))):
            problem = f"{bad} of {voxels.size} voxels are NaN or infinite; for CT write {AIR_HU}."
            raise InputFileError(self.path, problem)
        if not self.units:
            low, high = float(voxels.min()), float(voxels.max())
            self.units = "HU" if low <= -50 and high - low >= 200 else "US"
        if voxels.dtype == np.int16 and (self.units != "HU" or voxels.min() >= LOWEST_HU):
            return voxels
        voxels = np.ascontiguousarray(voxels)
        return to_hounsfield(voxels) if self.units == "HU" else compact(voxels)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Pixels of some slices; all are decoded, or stay on the disk until they are used."""
        pixels = self.scaled(self.voxels(mapped=True))
        return pixels if len(indices) == len(pixels) else pixels[list(indices)]


def _axes(affine: np.ndarray, path: str) -> np.ndarray:
    """The orientation of an affine, as nibabel has it."""
    if np.isfinite(affine).all() and np.linalg.cond(affine[:3, :3]) < 1e7:
        return nib.orientations.io_orientation(affine)
    raise InputFileError(path, "its affine is singular, so the orientation is unknown.")


def read_nifti(path: str | os.PathLike, *, units: str = "auto", lazy: bool = False) -> Scan:
    """Reads a 3-D NIfTI volume as axial slices.

    Slices go from inferior to superior, rows from anterior to posterior, columns from the patient's
    right to left. Files written by tfstyle say what their values mean, and some their window; of
    others a volume with values of -50 or lower that spans at least 200 counts as Hounsfield units,
    any other as of unspecified units. HU below -1500, which mark padding, become -1024.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; a single slice or trailing axes of length 1 will do.
        units: ``"HU"`` or ``"US"`` to decide what the values are, ``"auto"`` to judge by them.
        lazy: Keep no pixels until they are asked for. Then a file that is not compressed is mapped
            into memory, as far as its type allows. To judge by the values takes reading them.

    Returns:
        The scan; int16 in HU, else the smallest of int16, int32 and float32 that fits.

    Raises:
        InputFileError: If the file is missing, damaged, 4-D, color, or holds NaN.
        ArgumentError: If the units are unknown.
    """
    one_of("units", units, ("auto", "HU", "US"))
    path = os.fspath(path)
    source = NiftiPixels(path)
    source.units = source.units if units == "auto" else units
    pixels = None if lazy and source.units else source.scaled(source.voxels())
    name = re.sub(r"(\.nii)?(\.gz)?$", "", os.path.basename(path), flags=re.I)
    return Scan(
        pixels=cast("np.ndarray", source if lazy else pixels),
        spacing=tuple(np.linalg.norm(source.affine[:3, :3], axis=0)),
        units=source.units,
        name=safe_name(name, "volume"),
        affine=source.affine,
        header_window=source.window,
        files=(path,),
    )


def match_labels(
    scan: Scan,
    label_path: str | os.PathLike,
    *,
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """A label map on the grid of a scan, by the affines of both, nearest neighbor.

    Example:
        >>> labels, covered = match_labels(scan, "masks/ct.nii.gz")
        >>> masks = labels[covered]

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
        raise ArgumentError(f"scan: must have a position in space, {scan.name} has none.")
    voxels, affine = read_labels(os.fspath(label_path))
    affine[:3, 3] += offset_mm
    return resample_labels(scan, voxels, affine)


def read_labels(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of a label map, and the affine from their indices to the patient."""
    source = NiftiPixels(path)
    voxels = source.voxels()
    # A NaN does not equal its own rounding, so this catches it too.
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.rint(voxels)):
        raise InputFileError(path, "labels must be integers.")
    return smallest_labels(voxels, path), source.affine


def resample_labels(
    scan: Scan, voxels: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`match_labels` of labels at hand, by the affine from their indices to the patient."""
    from scipy import ndimage

    change = np.linalg.inv(affine) @ scan.affine  # scan index -> label index
    labels, inside = (
        ndimage.affine_transform(
            values, change[:3, :3], change[:3, 3], scan.shape, order=0, mode="grid-constant"
        )
        for values in (voxels, np.ones(voxels.shape, np.uint8))
    )
    return labels, inside.any(axis=(1, 2))


def smallest_labels(labels: np.ndarray, path: str = "labels") -> np.ndarray:
    """Whole numbers as the first of uint8, int16 and int32 that holds them."""
    kind = smallest(labels, (np.uint8, np.int16, np.int32))
    if kind is None:
        raise InputFileError(path, "holds label values beyond 32 bits.")
    return labels.astype(kind)


def write_nifti(
    unit: np.ndarray,
    scan: Scan,
    window: Window,
    path: str | os.PathLike,
    *,
    description: str = "tfstyle",
) -> None:
    """Writes gray images back as a volume in the units and at the place of a scan.

    The volume of a scan that was read from NIfTI has the order of axes, shape, affines and form
    codes of that file, so that masks of the file fit it voxel by voxel. Others are stored as
    columns, rows, slices.

    Args:
        unit: Floats (slices, rows, columns), or with a last axis of length 1, in [0, 1], of the
            size of the scan; values beyond are clipped.
        scan: The scan that the images were made of.
        window: The window through which the scan became [0, 1]. Values that it had clipped stay
            clipped.
        path: Output ``.nii`` or ``.nii.gz`` file, replaced as a whole. Its voxels are int16 for
            HU (rounded to 1 HU), else float32.
        description: Up to 68 ASCII characters for the header.

    Raises:
        ArgumentError: If the images do not match the scan, hold NaN, or the name ends otherwise.
        InputFileError: If the NIfTI file of the scan can no longer be read.
        OutputError: If the file cannot be written.
    """
    unit = check_unit(unit, scan.shape)
    values = window.to_hu(np.clip(unit, 0, 1)).astype(np.float32)
    if scan.units == "HU":
        values = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    _write(values, scan, os.fspath(path), description, scan.units)


def write_labels(
    labels: np.ndarray, scan: Scan, path: str | os.PathLike, *, description: str = "tfstyle"
) -> None:
    """Writes a label map (slices, rows, columns) with the geometry of a scan, see `write_nifti`."""
    labels = np.asarray(labels)
    if labels.shape != scan.shape or labels.dtype.kind not in "iub":
        found = f"{labels.dtype} {labels.shape}"
        raise ArgumentError(f"labels: must be whole numbers {scan.shape}, received {found}.")
    _write(smallest_labels(labels), scan, os.fspath(path), description, "US")


def _write(values: np.ndarray, scan: Scan, path: str, description: str, units: str) -> None:
    if not path.lower().endswith(NIFTI):
        raise ArgumentError(f"path: must end in .nii or .nii.gz, received {path!r}.")
    try:
        image = _image(values, scan)
    except InputFileError:
        raise
    except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError) as error:
        problem = f"the place of {scan.name} in space does not fit NIfTI ({error})."
        raise OutputError(path, problem) from error
    mark = b", units HU" if units == "HU" else b", units US"
    image.header["descrip"] = description.encode("ascii", "replace")[:68] + mark
    data = image.to_bytes()
    if path.lower().endswith(".gz"):
        data = gzip.compress(data, 6, mtime=0)
    write_atomically(path, data)


def _image(values: np.ndarray, scan: Scan) -> nib.Nifti1Image:
    """Values (slices, rows, columns) in the axes of the scan's own file, with its geometry."""
    source = scan.files[0] if scan.files else ""
    if not source.lower().endswith(NIFTI):
        return image_of(values, scan)
    before = _header(source)
    shape, own = before.get_data_shape(), np.array(before.get_best_affine(), np.float64)
    change = nib.orientations.ornt_transform(_SCAN_AXES, _axes(own, source))
    affine = _RAS_TO_LPS @ _affine_of(scan) @ nib.orientations.inv_ornt_aff(change, values.shape)
    voxels = nib.orientations.apply_orientation(values, change)
    header = type(before)()
    for field in _GEOMETRY:
        header[field] = before[field]
    header.set_data_dtype(values.dtype)
    if voxels.shape == (*shape[:3], 1, 1)[:3] and np.allclose(affine, own, atol=1e-4):
        voxels = voxels.reshape(shape)
    else:  # a part of the file, or the scan was given another grid
        code = int(before["qform_code"])
        header.set_data_shape(voxels.shape)
        header.set_qform(affine, code)
        header.set_sform(affine, int(before["sform_code"]) or (0 if code else 1))
    kind = nib.Nifti2Image if isinstance(before, nib.Nifti2Header) else nib.Nifti1Image
    return kind(np.ascontiguousarray(voxels), None, header)


def image_of(values: np.ndarray, scan: Scan) -> nib.Nifti1Image:
    """Values (slices, rows, columns) at the place of a scan, stored as columns, rows, slices."""
    affine = _RAS_TO_LPS @ _affine_of(scan)[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(values.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    return image


def _affine_of(scan: Scan) -> np.ndarray:
    return np.diag([*scan.spacing, 1.0])[[2, 1, 0, 3]] if scan.affine is None else scan.affine


def check_unit(unit: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Checks that gray images are finite and of a scan's shape; returns (slices, rows, columns)."""
    unit = np.asarray(unit, np.float64)
    if unit.ndim == 4 and unit.shape[-1] == 1:
        unit = unit[..., 0]
    if unit.shape != tuple(shape):
        raise ArgumentError(f"images: must be of the scan's shape {shape}, received {unit.shape}.")
    if not np.isfinite(unit).all():
        raise ArgumentError("images: hold NaN or infinite values.")
    return unit
