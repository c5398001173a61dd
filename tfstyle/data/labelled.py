"""Scans with their masks and domains: folder layouts of public data sets, and folders of one's own.

Finding is apart from reading, because a data set seldom fits in memory: :func:`find_labelled`
lists what there is, a record at a time reads itself.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfstyle.data.dicom import is_dicom
from tfstyle.data.dicom.segmentation import SEG_CLASSES
from tfstyle.data.domains import UNKNOWN, domain_source, tag_of
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import NIFTI, PICTURES, is_label_name, key_of
from tfstyle.data.masks import add_pictures, check_classes, mask_on, merge_classes
from tfstyle.data.nifti import smallest_labels
from tfstyle.data.privacy import mark_of
from tfstyle.data.read import read_scan
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError

logger = logging.getLogger(__name__)

LAYOUTS = ("auto", "folders", "verse", "ctspine1k", "totalsegmentator")

#: Structures of TotalSegmentator v2 that belong to the spine, by their number in its label maps:
#: the sacrum, and the vertebrae from S1 upward to C1.
_VERTEBRAE = [f"{part}{i}" for part, count in (("L", 5), ("T", 12), ("C", 7))
              for i in range(count, 0, -1)]  # fmt: skip
TOTALSEGMENTATOR_SPINE = {
    "sacrum": 25,
    **{f"vertebrae_{name}": number for number, name in enumerate(["S1", *_VERTEBRAE], 26)},
}


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
            raise ArgumentError(
                f"covered: must have shape ({len(self.scan)},), received {self.covered.shape}."
            )
        for name in ("mask", "covered"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    @property
    def pixels(self) -> np.ndarray:
        """Those of the scan, (slices, rows, columns)."""
        return self.scan.pixels

    @property
    def spacing(self) -> tuple[float, float, float]:
        """That of the scan, mm between slices, rows and columns."""
        return self.scan.spacing

    def labelled_slices(self) -> tuple[Scan, np.ndarray]:
        """The part of the scan that the mask covers, from the first such slice to the last.

        Returns:
            The scan and the mask of those slices.

        Raises:
            ArgumentError: If no slice is covered.
        """
        where = np.flatnonzero(self.covered)
        if not len(where):
            raise ArgumentError(f"{self.scan.name}: its mask covers none of its slices.")
        part = slice(int(where[0]), int(where[-1]) + 1)
        return self.scan[part], self.mask[part]


@dataclass(frozen=True)
class LabelledFiles:
    """Where a scan and its mask lie; :meth:`read` gives both.

    Attributes:
        image: A NIfTI, PNG or DICOM file, or the folder of a DICOM series.
        masks: Mask files.
        subject: See :class:`LabelledScan`.
        domain: See :class:`LabelledScan`.
        values: Label of each mask file, where a file holds one structure as 0 and 1; empty where
            files hold labels themselves.
        series: What :func:`read_scan` takes for the series, where the folder holds several.
    """

    image: str
    masks: tuple[str, ...]
    subject: str
    domain: str
    values: tuple[int, ...] = ()
    series: str | None = None

    def read(self, classes: Mapping[int, Iterable[int]] | str | None = None) -> LabelledScan:
        """Reads the scan, and the mask onto its grid.

        NIfTI and DICOM SEG masks are matched by their affines, nearest neighbor, in any size,
        spacing and orientation; PNG masks by their size, slice by slice.

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
        for number, path in enumerate(self.masks):
            if path in pictures:
                continue
            labels, inside = mask_on(scan, path)
            if not inside.any():
                raise InputFileError(path, f"lies nowhere on the scan {self.image}.")
            if self.values:
                labels = np.where(labels > 0, self.values[number], 0)
            mask = np.where(labels != 0, labels, mask)
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
    layout: str = "auto",
    domain_from: str = "folder",
    subject_from: str | None = None,
    structures: Sequence[str] = ("sacrum", "vertebrae_*"),
) -> list[LabelledFiles]:
    """Lists the scans of a data set that have masks, with their domains.

    Layouts:

    - ``"verse"``: ``…/rawdata/sub-X/sub-X_…_ct.nii.gz`` with
      ``…/derivatives/sub-X/sub-X_…_seg-vert_msk.nii.gz``, one or several of the archives in a
      folder; or the challenge's ``verse004.nii.gz`` with ``verse004_seg.nii.gz``.
    - ``"ctspine1k"``: ``volumes/SOURCE/X.nii.gz`` with ``labels/SOURCE/X_seg.nii.gz``, also named
      ``data`` and ``label``.
    - ``"totalsegmentator"``: ``s0000/ct.nii.gz`` with ``s0000/segmentations/STRUCTURE.nii.gz``;
      the spine's structures have the numbers of TotalSegmentator v2 (25 to 50).
    - ``"folders"``: two folders, or one for both. A mask (NIfTI, PNG, DICOM SEG) belongs to the
      image or series of the same name, where endings and words like ``_seg``, ``_mask``, ``_ct`` do
      not count; for a series also one PNG a slice, named as the slice's file.

    Args:
        images: The data set's folder, or that of the images.
        masks: The folder of the masks, for ``"folders"``. Defaults to that of the images.
        layout: One of the above; ``"auto"`` takes the first that finds anything, ``"folders"``
            alone where `masks` is given.
        domain_from: Where the domain comes from: ``"folder"`` (the first folder below `images`; for
            CTSpine1K the source), ``"tag:Manufacturer"`` (any DICOM keyword; for NIfTI the same
            key of the JSON file beside it, as in BIDS) or ``"csv:FILE:COLUMN"`` (the row that names
            the subject or the file; a relative FILE may lie in `images`). Tags that describe
            technique or equipment (``tfstyle.data.privacy.TECHNICAL``) give their values; all
            others, which may name patients or places, numbers: ``InstitutionName-1``, ….
        subject_from: The same for the subject. Defaults to its name or path in the data set.
        structures: For ``"totalsegmentator"``, which structures: names or patterns. Others than the
            spine's are numbered from 1 in the order given, and then the spine's are too.

    Returns:
        At least one record, sorted by image. Images without mask are left out with a note in the
        log; domains that cannot be found out are ``"unknown"``, with a warning.

    Raises:
        InputFileError: A folder or table is missing, or nothing was found.
        ArgumentError: An unknown layout, or a source of domains that is none of the above.

    Example:
        >>> records = find_labelled("images/", "masks/")
        >>> first = records[0].read(classes="foreground")
        >>> first.mask.shape == first.scan.shape
        True
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout: must be one of {LAYOUTS}, received {layout!r}.")
    root = Path(images)
    mask_root = root if masks is None else Path(masks)
    for folder in (root, mask_root):
        if not folder.is_dir():
            raise InputFileError(folder, "is not a folder.")
    domain_of = domain_source(domain_from, root, "domain_from")
    subject_of = subject_from and domain_source(subject_from, root, "subject_from")
    finders = {
        "totalsegmentator": lambda: _find_totalsegmentator(root, structures),
        "verse": lambda: _find_verse(root),
        "ctspine1k": lambda: _find_ctspine1k(root),
        "folders": lambda: _find_folders(root, mask_root),
    }
    names = [layout]
    if layout == "auto":
        names = ["folders"] if masks is not None else list(finders)
    found: list[LabelledFiles] = []
    for name in names:
        found = list(finders[name]())
        if found:
            logger.info("%s: %d scans with masks, layout %s.", root, len(found), name)
            break
    if not found:
        wanted = "any layout" if layout == "auto" else f"the layout {layout!r}"
        raise InputFileError(root, f"holds no scan with a mask in {wanted}.")
    return [
        replace(
            record,
            subject=subject_of(record) if subject_of else record.subject,
            domain=domain_of(record),
        )
        for record in sorted(found, key=lambda record: (record.image, record.series or ""))
    ]


def read_labelled(
    image: str | os.PathLike,
    mask: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    classes: Mapping[int, Iterable[int]] | str | None = None,
    series: str | None = None,
) -> LabelledScan:
    """Reads one scan with its mask; for folders of scans see :func:`find_labelled`.

    Args:
        image: A NIfTI, PNG or DICOM file, or the folder of a DICOM series.
        mask: A NIfTI, PNG or DICOM SEG file, or several.
        classes: See :meth:`LabelledFiles.read`, whose errors are raised.
        series: See :func:`read_scan`, where the folder holds several.

    Returns:
        The scan and the mask on its grid.

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


# Layouts: each gives records whose domain is a folder.


def _find_verse(root: Path) -> Iterator[LabelledFiles]:
    """``rawdata`` beside ``derivatives``, or all in one folder."""
    for image, mask, parts, at in _pairs(root, ("rawdata",), ("derivatives",)):
        # In one folder by the names of the data set alone; others are left to "folders".
        if at is None and not re.search(r"_seg-vert_msk\.|^(verse|gl)\d+.*_seg\.", mask.name):
            continue
        subject = re.match(r"(sub-)?[A-Za-z]+\d+", image.name)
        folder = parts[0] if len(parts) > 1 and at != 0 else root.resolve().name
        name = subject.group() if subject else key_of(image.name)
        yield LabelledFiles(str(image), (str(mask),), name, folder)


def _find_ctspine1k(root: Path) -> Iterator[LabelledFiles]:
    """``volumes/SOURCE`` beside ``labels/SOURCE``."""
    for image, mask, parts, at in _pairs(root, ("volumes", "data"), ("labels", "label")):
        if at is not None:
            above = root.joinpath(*parts[:at]).resolve().name
            folder = parts[at + 1] if len(parts) > at + 2 else above
            yield LabelledFiles(str(image), (str(mask),), key_of(image.name), folder)


def _pairs(
    root: Path, image_folders: tuple[str, ...], mask_folders: tuple[str, ...]
) -> Iterator[tuple[Path, Path, tuple[str, ...], int | None]]:
    """NIfTI images with masks whose paths differ in the name of one folder, and in words.

    Yields:
        Image, mask, the image's path below the root in parts, and where among them the folder is.
    """
    images: dict[tuple, tuple] = {}
    masks: dict[tuple, tuple] = {}
    for file in find_files(root):
        path = Path(file)
        if not file.lower().endswith(NIFTI):
            continue
        parts = path.relative_to(root).parts
        names = (*image_folders, *mask_folders)
        at = next((i for i, part in enumerate(parts[:-1]) if part in names), None)
        label = is_label_name(path)
        if at is None or label == (parts[at] in mask_folders):
            around = parts[:-1] if at is None else (*parts[:at], None, *parts[at + 1 : -1])
            found = masks if label else images
            found.setdefault((around, key_of(path.name)), (path, parts, at))
    for key, (mask, _, at) in masks.items():
        if key in images:
            image, parts, at = images[key]
            yield image, mask, parts, at
        elif at is not None:
            logger.warning("Left out: %s has no image.", mask)


def _find_totalsegmentator(root: Path, structures: Sequence[str]) -> Iterator[LabelledFiles]:
    structures = [structures] if isinstance(structures, str) else list(structures)
    own_numbers = all(p == "sacrum" or p.startswith("vertebrae_") for p in structures)
    if not structures:
        raise ArgumentError("structures: is empty; name at least one.")
    for image in sorted(root.glob("*/ct.nii*")) + sorted(root.glob("ct.nii*")):
        folder = image.parent / "segmentations"
        if not folder.is_dir():
            continue
        masks, values = [], []
        for number, pattern in enumerate(structures, 1):
            for file in sorted(folder.glob("*.nii*")):
                name = re.sub(r"\.nii(\.gz)?$", "", file.name)
                if fnmatch.fnmatchcase(name, pattern) and str(file) not in masks:
                    masks.append(str(file))
                    values.append(TOTALSEGMENTATOR_SPINE.get(name, 0) if own_numbers else number)
        if not masks:
            logger.warning("Left out: %s has none of %s.", folder, ", ".join(structures))
            continue
        place = _below(root, image.parent)
        yield LabelledFiles(str(image), tuple(masks), image.parent.name, place, tuple(values))


def _below(root: Path, path: str | Path) -> str:
    """The first folder between the root and a file, or the root's own name."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else root.resolve().name


def _find_folders(root: Path, mask_root: Path) -> Iterator[LabelledFiles]:
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
        one_each = [masks.get(str(Path(folder) / key_of(os.path.basename(f)))) for f in files]
        inside = [f for key, fs in masks.items() if str(Path(key).parent) == folder for f in fs]
        volumes = [file for file in inside if not file.lower().endswith(".png")]
        several = folders.count(folder) > 1
        path = files[0] if len(files) == 1 else str(root / folder)
        number = mark_of(uid) if several and len(files) > 1 else None
        name = folder if folder != "." else key_of(os.path.basename(files[0]))
        place = _below(root, files[0])
        if any(one_each):
            chosen = sorted({file for group in one_each if group for file in group})
        elif folder in masks and not several:
            chosen = masks[folder]
        elif volumes and not several and folder != ".":
            chosen = volumes
        else:
            logger.info("Left out: %s has no mask.", path)
            continue
        if len(files) == 1:
            name = str(Path(folder) / key_of(os.path.basename(files[0])))
        yield LabelledFiles(path, tuple(chosen), name, place, series=number)


def _is_mask(file: str, alone: bool) -> bool:
    """Whether a file may be a mask; beside images only by its name or kind."""
    lower = file.lower()
    if lower.endswith(PICTURES):
        return alone or is_label_name(file)
    return is_dicom(file) and tag_of(file, "SOPClassUID") in SEG_CLASSES
