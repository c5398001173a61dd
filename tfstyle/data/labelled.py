"""Scans with their masks: :func:`find_labelled` lists them, each reads itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from tfstyle.data.dicom import damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.dicom.files import sop_class_of
from tfstyle.data.dicom.segmentation import SEG_CLASSES, read_dicom_seg
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import NIFTI, PICTURES, is_label_name, key_of
from tfstyle.data.nifti import read_labels, resample_labels, smallest_labels
from tfstyle.data.png import read_png
from tfstyle.data.read import ScanFiles, read_scan, sound_scans, the_one
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan with its mask, immutable.

    Attributes:
        scan: The scan.
        mask: Read-only uint8 (or int16, int32) labels (slices, rows, columns) on the grid of the
            scan; 0 is background and what the mask's file does not cover.
        covered: Read-only bool (slices,): slices that the mask's file covers. Train on these alone.
    """

    scan: Scan
    mask: np.ndarray
    covered: np.ndarray

    def __post_init__(self) -> None:
        if self.mask.shape != self.scan.shape or self.mask.dtype.kind not in "iu":
            raise ArgumentError(
                f"mask: must be whole numbers of the scan's shape {self.scan.shape}, "
                f"received {self.mask.dtype} {self.mask.shape}."
            )
        if self.covered.shape != (len(self.scan),):
            raise ArgumentError(f"covered: must be one a slice, received {self.covered.shape}.")
        for name in ("mask", "covered"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    pixels = property(lambda self: self.scan.pixels, doc="Those of the scan.")
    spacing = property(lambda self: self.scan.spacing, doc="That of the scan, in mm.")


@dataclass(frozen=True)
class LabelledFiles:
    """Where a scan and its mask lie; :meth:`read` gives both.

    Attributes:
        files: The files of the scan.
        masks: Mask files.
    """

    files: ScanFiles
    masks: tuple[str, ...]

    @property
    def image(self) -> str:
        """The scan's file, or the folder of its series."""
        return self.files.place

    def read(self) -> LabelledScan:
        """Reads the scan, and the mask onto its grid.

        NIfTI and DICOM SEG masks are matched by their affines, as :func:`match_labels` does, also
        where their size is that of the scan; PNG masks by their size, slice by slice. Raises an
        InputFileError if a file cannot be read, or a mask does not lie on the scan.
        """
        return _labelled(the_one(self.files.read(), self.image), self.image, self.masks)


def find_labelled(
    images: str | os.PathLike, masks: str | os.PathLike | None = None
) -> list[LabelledFiles]:
    """Lists the scans of a data set that have masks.

    A mask (NIfTI, PNG, DICOM SEG) belongs to the image or series of the same place and name in the
    two folders, where endings and words like ``_seg``, ``_mask``, ``_ct`` do not count (VerSe,
    CTSpine1K, nnU-Net); for a series also one PNG a slice, named as the slice's file.

    Args:
        images: Folder of the images.
        masks: Folder of the masks. Defaults to that of the images.

    Returns:
        At least one record, sorted by image. Images without mask are left out with a note in the
        log.

    Raises:
        InputFileError: A folder is missing, a DICOM file is damaged, or nothing was found.

    Example:
        >>> records = find_labelled("images/", "masks/")
        >>> first = records[0].read()
        >>> first.mask.shape == first.scan.shape
        True
    """
    root = Path(images)
    mask_root = root if masks is None else Path(masks)
    for folder in (root, mask_root):
        if not folder.is_dir():
            raise InputFileError(folder, "is not a folder.")
    by_key: dict[str, list[str]] = {}
    for file in find_files(mask_root):
        if _is_mask(file, alone=mask_root != root):
            by_key.setdefault(_key(file, mask_root), []).append(file)
    taken = [file for files in by_key.values() for file in files]
    # The parts of a series in several folders have masks, and names of slices, of their own.
    parts = [
        replace(scan, files=tuple(files), name="")
        for scan in sound_scans(root, without=taken)
        for _, files in groupby(scan.files, os.path.dirname)
    ]
    folders = [os.path.dirname(part.files[0]) for part in parts if part.kind == "dicom"]
    found = []
    for scan in sorted(parts, key=lambda part: part.files):
        if scan.kind == "dicom" and _is_segmentation(scan.files[0]):
            continue
        alone = folders.count(os.path.dirname(scan.files[0])) == 1
        if own := _masks_of(scan, root, by_key, alone):
            found.append(LabelledFiles(scan, own))
        else:
            logger.info("Left out: %s has no mask.", scan.place)
    if not found:
        raise InputFileError(root, "holds no scan with a mask of its name; give both folders.")
    return found


def read_labelled(
    image: str | os.PathLike,
    mask: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    series: str | None = None,
) -> LabelledScan:
    """Reads one scan with its mask on its grid; for folders see :func:`find_labelled`.

    Args:
        image: A NIfTI, PNG or DICOM file, or the folder of a DICOM series.
        mask: A NIfTI, PNG or DICOM SEG file, or several; see :meth:`LabelledFiles.read`.
        series: See :func:`read_scan`, where the folder holds several.

    Example:
        >>> labelled = read_labelled("ct/", "masks/ct.nii.gz")     # or a DICOM SEG
        >>> labelled.pixels.shape == labelled.mask.shape, len(labelled.spacing)
        (True, 3)
    """
    masks = [mask] if isinstance(mask, (str, os.PathLike)) else mask
    paths = tuple(os.fspath(path) for path in masks)
    if not paths:
        raise ArgumentError("mask: must be at least one file, received none.")
    if folder := next((path for path in paths if os.path.isdir(path)), None):
        raise InputFileError(folder, "is a folder; name the mask's file, or use find_labelled.")
    return _labelled(read_scan(image, series=series), os.fspath(image), paths)


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
    """Gives labels, whole numbers of any shape, new numbers.

    `classes` says what labels become: ``{new: old ones}``, the rest becoming background;
    ``"foreground"`` for 1 wherever there is a label; None to keep them. Else it raises an
    ArgumentError.

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


def _labelled(scan: Scan, image: str, masks: Sequence[str]) -> LabelledScan:
    mask = np.zeros(scan.shape, np.int32)
    covered = np.zeros(len(scan), bool)
    pictures = [path for path in masks if path.lower().endswith(".png")]
    for path in [path for path in masks if path not in pictures]:
        labels, inside = mask_on(scan, path)
        if not inside.any():
            raise InputFileError(path, f"lies nowhere on the scan {image}.")
        mask = np.where(labels != 0, labels, mask)
        covered |= inside
    if pictures:
        _add_pictures(scan, image, pictures, mask, covered)
    return LabelledScan(scan, smallest_labels(mask), covered)


def mask_on(scan: Scan, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a NIfTI or DICOM SEG file on the scan's grid, and the slices that it covers."""
    if scan.affine is None:
        raise InputFileError(path, f"{scan.name} has no position in space; use PNG masks.")
    read = read_labels if path.lower().endswith(NIFTI) else read_dicom_seg
    labels, affine = read(path)
    if labels.shape == scan.shape and not np.allclose(affine, scan.affine, atol=1e-3):
        what = "and another affine; it is laid on the scan by its affine"
        logger.warning("%s has the size of %s %s.", path, scan.name, what)
    return resample_labels(scan, labels, affine)


def _add_pictures(
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


def _masks_of(
    scan: ScanFiles, root: Path, masks: Mapping[str, list[str]], alone: bool
) -> tuple[str, ...]:
    """The masks of a scan by name; `alone` is a series that has its folder to itself."""
    keys = [_key(file, root) for file in scan.files]
    named = sorted({mask for key in keys for mask in masks.get(key, ())})
    folder = os.path.dirname(keys[0])
    if named or scan.kind != "dicom" or not alone or not folder:
        return tuple(named)
    inside = [
        mask
        for key, files in masks.items()
        for mask in files
        if os.path.dirname(key) == folder and not mask.lower().endswith(".png")
    ]
    return tuple(masks.get(folder, inside))


def _key(file: str, root: Path) -> str:
    """What the path of an image in its folder and that of its mask have in common."""
    place, name = os.path.split(os.path.relpath(file, root))
    return os.path.join(place, key_of(name))


def _is_mask(file: str, alone: bool) -> bool:
    """Whether a file may be a mask; beside images only by its name or kind."""
    if file.lower().endswith(PICTURES):
        return alone or is_label_name(file)
    return is_dicom(file) and _is_segmentation(file)


def _is_segmentation(file: str) -> bool:
    dataset = read_dataset(file, pixels=False, tags=["SOPClassUID"])
    with damage_is_input_error(file):
        return sop_class_of(dataset) in SEG_CLASSES
