"""Scans with their masks and domains: :func:`find_labelled` lists them, each reads itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from tfstyle.data.dicom import is_dicom
from tfstyle.data.dicom.segmentation import SEG_CLASSES
from tfstyle.data.domains import UNKNOWN, domain_source, tag_of
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import PICTURES, is_label_name, key_of
from tfstyle.data.masks import add_pictures, check_classes, mask_on, merge_classes
from tfstyle.data.nifti import smallest_labels
from tfstyle.data.privacy import mark_of
from tfstyle.data.read import read_scan
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
        domain: Name of the domain, for example the manufacturer.
        subject: Whom the scan is of; scans of one subject belong on one side of a split.
    """

    scan: Scan
    mask: np.ndarray
    covered: np.ndarray
    domain: str = UNKNOWN
    subject: str = ""

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
        image: A NIfTI, PNG or DICOM file, or the folder of a DICOM series.
        masks: Mask files.
        subject: See :class:`LabelledScan`, as for domain.
        domain: Its domain.
        series: What :func:`read_scan` takes for the series, where the folder holds several.
        values: Label of each mask file, where a file holds one structure; empty where files hold
            labels themselves.
    """

    image: str
    masks: tuple[str, ...]
    subject: str
    domain: str
    series: str | None = None
    values: tuple[int, ...] = ()

    def read(self, classes: Mapping[int, Iterable[int]] | str | None = None) -> LabelledScan:
        """Reads the scan, and the mask onto its grid.

        NIfTI and DICOM SEG masks are matched by their affines, as :func:`match_labels` does, also
        where their size is that of the scan; PNG masks by their size, slice by slice.

        Args:
            classes: What labels become: ``{new: old ones}``, the rest becoming background;
                ``"foreground"`` for 1 wherever there is a label; None to keep them.

        Raises:
            InputFileError: A file cannot be read, or a mask does not lie on the scan.
            ArgumentError: Wrong classes.
        """
        check_classes(classes)
        scan = read_scan(self.image, series=self.series)
        mask = np.zeros(scan.shape, np.int32)
        covered = np.zeros(len(scan), bool)
        pictures = [path for path in self.masks if path.lower().endswith(".png")]
        for path, value in zip_longest(self.masks, self.values):
            if path in pictures:
                continue
            labels, inside = mask_on(scan, path)
            if not inside.any():
                raise InputFileError(path, f"lies nowhere on the scan {self.image}.")
            mask = np.where(labels != 0, labels if value is None else value, mask)
            covered |= inside
        if pictures:
            add_pictures(scan, self.image, pictures, mask, covered)
        return LabelledScan(
            scan, smallest_labels(merge_classes(mask, classes)), covered, self.domain, self.subject
        )


def find_labelled(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    domain_from: str | Callable[[LabelledFiles], str] = "folder",
    subject_from: str | Callable[[LabelledFiles], str] | None = None,
    structures: Mapping[str, int] | None = None,
) -> list[LabelledFiles]:
    """Lists the scans of a data set that have masks, with their domains.

    A mask (NIfTI, PNG, DICOM SEG) belongs to the image or series of the same place and name in the
    two folders, where endings and words like ``_seg``, ``_mask``, ``_ct`` do not count (VerSe,
    CTSpine1K, nnU-Net); for a series also one PNG a slice, named as the slice's file.

    Args:
        images: Folder of the images.
        masks: Folder of the masks. Defaults to that of the images.
        domain_from: Where the domain comes from: ``"folder"`` (the first folder below `images`),
            ``"tag:Manufacturer"`` (any DICOM keyword; for NIfTI the same key of the JSON file
            beside it, as in BIDS), or a function of the record. Tags that describe technique or
            equipment (``tfstyle.data.privacy.TECHNICAL``) give their values; all others, which
            may name patients or places, numbers: ``InstitutionName-1``, ….
        subject_from: The same for the subject. Defaults to its name or path in the data set.
        structures: For TotalSegmentator's data set, ``s0000/ct.nii.gz`` with
            ``s0000/segmentations/STRUCTURE.nii.gz``: labels by the structures' names or patterns
            of them, such as ``{"vertebrae_*": 1, "sacrum": 2}``. Defaults to masks with labels.

    Returns:
        At least one record, sorted by image. Images without mask are left out with a note in the
        log; domains that cannot be found out are ``"unknown"``, with a warning.

    Raises:
        InputFileError: A folder is missing, or nothing was found.
        ArgumentError: A source of domains that is none of the above.

    Example:
        >>> records = find_labelled("images/", "masks/")
        >>> first = records[0].read(classes="foreground")
        >>> first.mask.shape == first.scan.shape
        True
    """
    root = Path(images)
    mask_root = root if masks is None else Path(masks)
    for folder in (root, mask_root):
        if not folder.is_dir():
            raise InputFileError(folder, "is not a folder.")
    domain_of = domain_source(domain_from, "domain_from")
    subject_of = subject_from and domain_source(subject_from, "subject_from")
    found = list(_pairs(root, mask_root) if structures is None else _by_structure(root, structures))
    if not found:
        raise InputFileError(root, "holds no scan with a mask of its name; give both folders.")
    found.sort(key=lambda record: (record.image, record.series or ""))
    if subject_of:
        found = [replace(record, subject=subject_of(record)) for record in found]
    return [replace(record, domain=domain_of(record)) for record in found]


def read_labelled(
    image: str | os.PathLike,
    mask: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    classes: Mapping[int, Iterable[int]] | str | None = None,
    series: str | None = None,
) -> LabelledScan:
    """Reads one scan with its mask on its grid; for folders see :func:`find_labelled`.

    Args:
        image: A NIfTI, PNG or DICOM file, or the folder of a DICOM series.
        mask: A NIfTI, PNG or DICOM SEG file, or several.
        classes: See :meth:`LabelledFiles.read`, whose errors are raised.
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
    image = os.fspath(image)
    name = key_of(os.path.basename(os.path.abspath(image)))
    return LabelledFiles(image, paths, name, UNKNOWN, series=series).read(classes)


def _below(root: Path, path: str | Path) -> str:
    """The first folder between the root and a file, or the root's own name."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else root.resolve().name


def _pairs(root: Path, mask_root: Path) -> Iterator[LabelledFiles]:
    masks: dict[str, list[str]] = {}
    for file in find_files(mask_root):
        if _is_mask(file, alone=mask_root != root):
            where = Path(file).relative_to(mask_root)
            masks.setdefault(str(where.parent / key_of(where.name)), []).append(file)
    if not masks:
        return
    taken = {file for files in masks.values() for file in files}
    series: dict[tuple[str, str], list[str]] = {}
    for file in find_files(root):
        if file in taken:
            continue
        where = Path(file).relative_to(root)
        key = str(where.parent / key_of(where.name))
        if file.lower().endswith(PICTURES):
            if key in masks:
                yield LabelledFiles(file, tuple(masks[key]), key, _below(root, file))
            else:
                logger.info("Left out: %s has no mask.", file)
        elif is_dicom(file) and tag_of(file, "SOPClassUID") not in SEG_CLASSES:
            uid = tag_of(file, "SeriesInstanceUID")
            series.setdefault((str(where.parent), uid), []).append(file)
    folders = [folder for folder, _ in series]
    for (folder, uid), files in series.items():
        keys = [str(Path(folder) / key_of(os.path.basename(file))) for file in files]
        several, one = folders.count(folder) > 1, len(files) == 1
        chosen = sorted({file for key in keys for file in masks.get(key, ())})
        if not chosen and not several:
            inside = [f for key, fs in masks.items() if str(Path(key).parent) == folder for f in fs]
            volumes = [f for f in inside if not f.lower().endswith(".png") and folder != "."]
            chosen = masks.get(folder, volumes)
        path = files[0] if one else str(root / folder)
        if not chosen:
            logger.info("Left out: %s has no mask.", path)
            continue
        name = keys[0] if one or folder == "." else folder
        number = mark_of(uid) if several and not one else None
        yield LabelledFiles(path, tuple(chosen), name, _below(root, files[0]), series=number)


def _by_structure(root: Path, structures: Mapping[str, int]) -> Iterator[LabelledFiles]:
    """The records of TotalSegmentator's data set: a folder of masks, one a structure, a scan."""
    for image in sorted([*root.glob("ct.nii*"), *root.glob("*/ct.nii*")]):
        values: dict[str, int] = {}
        for pattern, label in structures.items():
            for path in sorted((image.parent / "segmentations").glob(f"{pattern}.nii*")):
                values.setdefault(str(path), label)
        if not values:
            logger.info("Left out: %s has no mask of %s.", image, ", ".join(structures))
            continue
        name, place = image.parent.resolve().name, _below(root, image.parent)
        yield LabelledFiles(str(image), (*values,), name, place, values=tuple(values.values()))


def _is_mask(file: str, alone: bool) -> bool:
    """Whether a file may be a mask; beside images only by its name or kind."""
    lower = file.lower()
    if lower.endswith(PICTURES):
        return alone or is_label_name(file)
    return is_dicom(file) and tag_of(file, "SOPClassUID") in SEG_CLASSES
