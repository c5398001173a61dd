"""Scans with their masks and domains: folder layouts of public data sets, and folders of one's own.

Finding is apart from reading, because a data set seldom fits in memory: :func:`find_labelled`
lists what there is, a record at a time reads itself.
"""

from __future__ import annotations

import csv
import fnmatch
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfstyle._private.files import read_json, read_limited
from tfstyle.data.dicom import check_size, damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.layouts import is_label_name, key_of
from tfstyle.data.nifti import match_labels, resample_labels
from tfstyle.data.png import read_png
from tfstyle.data.privacy import TECHNICAL, mark_of, reason_of, values_unsaid
from tfstyle.data.read import find_files, read_scan
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import check

logger = logging.getLogger(__name__)

LAYOUTS = ("auto", "folders", "verse", "ctspine1k", "totalsegmentator")

UNKNOWN = "unknown"
"""Domain of a scan whose tag or table cell is empty."""

#: Structures of TotalSegmentator v2 that belong to the spine, by their number in its label maps:
#: the sacrum, and the vertebrae from S1 upward to C1.
TOTALSEGMENTATOR_SPINE = {
    "sacrum": 25,
    **{
        f"vertebrae_{name}": number
        for number, name in enumerate(
            (
                "S1",
                *(f"L{i}" for i in range(5, 0, -1)),
                *(f"T{i}" for i in range(12, 0, -1)),
                *(f"C{i}" for i in range(7, 0, -1)),
            ),
            26,
        )
    },
}

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_ID_COLUMNS = (
    "subject",
    "subject_id",
    "participant_id",
    "image_id",
    "patient_id",
    "case_id",
    "id",
    "case",
    "image",
    "name",
    "filename",
    "file",
)


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
        if self.mask.shape != self.scan.pixels.shape or self.mask.dtype.kind not in "iu":
            raise ArgumentError(
                f"mask: must be whole numbers of the scan's shape {self.scan.pixels.shape}, "
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

        NIfTI and DICOM SEG masks are matched by their affines, nearest neighbour, whatever their
        size, spacing and orientation; PNG masks by their size, slice by slice.

        Args:
            classes: What labels become: ``{new: old ones}``, the rest becoming background;
                ``"foreground"`` for 1 wherever there is a label; None to keep them.

        Raises:
            InputFileError: A file cannot be read, or a mask does not lie on the scan.
            ArgumentError: Wrong classes.
        """
        check_classes(classes)
        scan = read_scan(self.image, series=self.series)
        mask = np.zeros(scan.pixels.shape, np.int32)
        covered = np.zeros(len(scan), bool)
        pictures = [path for path in self.masks if path.lower().endswith(".png")]
        for number, path in enumerate(self.masks):
            if path in pictures:
                continue
            labels, inside = _mask_on(scan, path)
            if not inside.any():
                raise InputFileError(path, f"lies nowhere on the scan {self.image}.")
            if self.values:
                labels = np.where(labels > 0, self.values[number], 0)
            mask = np.where(labels != 0, labels, mask)
            covered |= inside
        if pictures:
            _add_pictures(scan, self.image, pictures, mask, covered)
        return LabelledScan(
            scan=scan,
            mask=_smallest(merge_classes(mask, classes)),
            covered=covered,
            domain=self.domain,
            subject=self.subject,
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
    - ``"folders"``: two folders, or one for both. A mask belongs to the image of the same name,
      where endings and words like ``_seg``, ``_mask``, ``_label``, ``_ct`` do not count: NIfTI, PNG
      or DICOM SEG for an image of NIfTI, PNG, a DICOM file or the folder of a DICOM series; for a
      series also one PNG a slice, named as the slice's file.

    Args:
        images: The data set's folder, or that of the images.
        masks: The folder of the masks, for ``"folders"``; the images' own unless given.
        layout: One of the above; ``"auto"`` takes the first that finds anything, ``"folders"``
            alone where `masks` is given.
        domain_from: Where the domain comes from: ``"folder"`` (the first folder below `images`; for
            CTSpine1K the source), ``"tag:Manufacturer"`` (any DICOM keyword; for NIfTI the same
            key of the JSON file beside it, as in BIDS) or ``"csv:FILE:COLUMN"`` (the row that names
            the subject or the file; a relative FILE may lie in `images`). Tags that describe
            technique or equipment (``tfstyle.data.privacy.TECHNICAL``) give their values; all
            others, which may name patients or places, numbers: ``InstitutionName-1``, ….
        subject_from: The same for the subject; its name or path in the data set unless given.
        structures: For ``"totalsegmentator"``, which structures: names or patterns. Others than the
            spine's are numbered from 1 in the order given, and then the spine's are too.

    Returns:
        At least one record, sorted by image. Images without mask are left out with a note in the
        log; domains that cannot be found out are ``"unknown"``, with a warning.

    Raises:
        InputFileError: A folder or table is missing, or nothing was found.
        ArgumentError: An unknown layout, or a source of domains that is none of the above.

    Example:
        >>> records = find_labelled("dataset-verse19training")            # doctest: +SKIP
        >>> first = records[0].read(classes="foreground")                 # doctest: +SKIP

    References: Sekuboyina et al., "VerSe", Medical Image Analysis 73 (2021); Deng et al.,
    "CTSpine1K", arXiv:2105.14711; Wasserthal et al., "TotalSegmentator", Radiology: AI 5:5 (2023).
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout: must be one of {LAYOUTS}, received {layout!r}.")
    root = Path(images)
    for folder in (root, *([Path(masks)] if masks is not None else [])):
        if not folder.is_dir():
            raise InputFileError(folder, "is not a folder.")
    domain_of = _source(domain_from, root, "domain_from")
    subject_of = None if subject_from is None else _source(subject_from, root, "subject_from")
    finders = {
        "totalsegmentator": lambda: _find_totalsegmentator(root, structures),
        "verse": lambda: _find_verse(root),
        "ctspine1k": lambda: _find_ctspine1k(root),
        "folders": lambda: _find_folders(root, Path(masks) if masks is not None else root),
    }
    names = [layout]
    if layout == "auto":
        names = ["folders"] if masks is not None else list(finders)
    found: list[_Found] = []
    for name in names:
        found = list(finders[name]())
        if found:
            logger.info("%s: %d scans with masks, layout %s.", root, len(found), name)
            break
    if not found:
        wanted = "any layout" if layout == "auto" else f"the layout {layout!r}"
        raise InputFileError(root, f"holds no scan with a mask in {wanted}.")
    records = []
    for item in sorted(found, key=lambda item: (item.image, item.series or "")):
        subject = subject_of(item) if subject_of else item.subject
        records.append(
            LabelledFiles(
                image=item.image,
                masks=tuple(item.masks),
                subject=subject,
                domain=domain_of(item),
                values=tuple(item.values),
                series=item.series,
            )
        )
    return records


def read_labelled(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    classes: Mapping[int, Iterable[int]] | str | None = None,
    **options,
) -> list[LabelledScan]:
    """Reads all scans of :func:`find_labelled` at once; for data that fit in memory.

    Args:
        images: See :func:`find_labelled`.
        masks: See :func:`find_labelled`.
        classes: See :meth:`LabelledFiles.read`.
        **options: ``layout``, ``domain_from``, ``subject_from`` and ``structures`` of
            :func:`find_labelled`.

    Returns:
        The scans, sorted by image.

    Raises:
        InputFileError: See :func:`find_labelled` and :meth:`LabelledFiles.read`.
        ArgumentError: See both.

    Example:
        >>> scans = read_labelled("ct/", "masks/", domain_from="tag:Manufacturer",
        ...                       classes={1: range(20, 26)})               # doctest: +SKIP
    """
    check_classes(classes)
    return [record.read(classes) for record in find_labelled(images, masks, **options)]


# ---------------------------------------------------------------------------------------------
# Labels


def check_classes(classes: Mapping[int, Iterable[int]] | str | None) -> None:
    """Refuses what :func:`merge_classes` cannot use.

    Raises:
        ArgumentError: naming what was wrong.
    """
    if classes is None or (isinstance(classes, str) and classes == "foreground"):
        return
    good = (
        isinstance(classes, Mapping)
        and classes
        and all(isinstance(key, (int, np.integer)) and 0 < key <= 255 for key in classes)
    )
    if not good:
        raise ArgumentError(
            'classes: must be None, "foreground" or a mapping from new labels (1 to 255) to old '
            f"ones, received {classes!r}."
        )


def merge_classes(
    mask: np.ndarray, classes: Mapping[int, Iterable[int]] | str | None
) -> np.ndarray:
    """Gives labels new numbers.

    Args:
        mask: Whole numbers of any shape.
        classes: See :meth:`LabelledFiles.read`.

    Returns:
        An array of the same shape.

    Raises:
        ArgumentError: Wrong classes.

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


def _smallest(mask: np.ndarray) -> np.ndarray:
    low, high = int(mask.min()), int(mask.max())
    for kind in (np.uint8, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return mask.astype(kind)
    return mask.astype(np.int32)


def _mask_on(scan: Scan, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a NIfTI or DICOM SEG file on the scan's grid, and the slices that it covers."""
    if scan.affine is None:
        raise InputFileError(
            path, f"cannot be laid on {scan.name}, which has no position in space; use PNG masks."
        )
    if path.lower().endswith((".nii", ".nii.gz")):
        return match_labels(scan, path)
    return resample_labels(scan, *read_dicom_seg(path))


def read_dicom_seg(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads a DICOM segmentation with highdicom: segment numbers as labels.

    Args:
        path: A file of the Segmentation or Label Map Segmentation storage class. Fractional
            segments count from one half on.

    Returns:
        uint16 labels of three axes, and the affine to patient coordinates as ``Scan.affine``.

    Raises:
        InputFileError: The file is damaged or no segmentation, its segments overlap, or its frames
            are no regular stack.
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
                raise ValueError("its frames are no regular stack")
            # Frames far apart span many slices, whatever their number.
            count = math.prod(geometry.spatial_shape)
            check(path, "scan_pixels", count, f"spans {geometry.spatial_shape} voxels")
            volume = segmentation.get_volume(combine_segments=True, dtype=np.uint16)
        affine = volume.affine
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("its affine is singular")
    except InputFileError:
        raise
    except Exception as error:  # highdicom raises many kinds
        reason = reason_of(error)
        raise InputFileError(path, f"cannot be read as a DICOM segmentation ({reason}).") from None
    return np.asarray(volume.array), np.asarray(volume.affine, np.float64)


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
            raise InputFileError(
                pictures[0],
                f"{len(pictures)} PNG masks do not fit the {len(scan)} slices of {image} by name.",
            )
    for number, path in slices:
        labels = read_png(path).pixels[0]
        if labels.shape != mask.shape[1:]:
            raise InputFileError(
                path,
                f"has {labels.shape[0]} x {labels.shape[1]} pixels, the slice "
                f"{mask.shape[1]} x {mask.shape[2]}.",
            )
        # Pictures of two levels are drawn black and white.
        white = np.isin(labels, (0, 255)).all()
        mask[number] = labels > 0 if white else labels
        covered[number] = True


# ---------------------------------------------------------------------------------------------
# Layouts


@dataclass
class _Found:
    """A scan with masks, before its domain is known."""

    image: str
    masks: list[str]
    subject: str
    folder: str
    values: list[int] = field(default_factory=list)
    series: str | None = None

    @property
    def first_file(self) -> str:
        """A file of the image, to read tags from."""
        if not os.path.isdir(self.image):
            return self.image
        for file in find_files(self.image):
            if is_dicom(file) and (
                self.series is None or self.series == mark_of(_tag(file, "SeriesInstanceUID"))
            ):
                return file
        return self.image


def _below(root: Path, path: str | Path) -> str:
    """The first folder between the root and a file, or the root's own name."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else root.resolve().name


def _find_verse(root: Path) -> Iterator[_Found]:
    files = [f for f in find_files(root) if f.endswith((".nii.gz", ".nii"))]
    for file in files:
        path = Path(file)
        if "_seg-vert_msk.nii" in path.name:
            name = path.name.replace("_seg-vert_msk", "_ct")
            places = [path.parent]
            for i, part in enumerate(path.parts):
                if part == "derivatives":
                    places.append(Path(*path.parts[:i], "rawdata", *path.parts[i + 1 : -1]))
        elif re.fullmatch(r"(verse|gl)\d+.*_seg\.nii(\.gz)?", path.name):
            name, places = path.name.replace("_seg.nii", ".nii"), [path.parent]
        else:
            continue
        image = next((place / name for place in places if (place / name).is_file()), None)
        if image is None:
            logger.warning("Left out: %s has no image %s.", file, name)
            continue
        folder = _below(root, image)
        subject = re.match(r"(sub-)?[A-Za-z]+\d+", name)
        yield _Found(
            image=str(image),
            masks=[file],
            subject=subject.group() if subject else key_of(name),
            folder=root.resolve().name if folder in ("rawdata", "derivatives") else folder,
        )


def _find_ctspine1k(root: Path) -> Iterator[_Found]:
    for top in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        for volumes, labels in (("volumes", "labels"), ("data", "label")):
            if not ((top / volumes).is_dir() and (top / labels).is_dir()):
                continue
            for file in find_files(top / labels):
                ending = re.search(r"_seg(\.nii(\.gz)?)$", file)
                if not ending:
                    continue
                where = Path(file).relative_to(top / labels)
                name = where.name[: -len(ending.group())]
                image = top / volumes / where.parent / (name + ending.group(1))
                if not image.is_file():
                    logger.warning("Left out: %s has no image %s.", file, image)
                    continue
                folder = where.parts[0] if len(where.parts) > 1 else top.resolve().name
                yield _Found(str(image), [file], subject=name, folder=folder)


def _find_totalsegmentator(root: Path, structures: Sequence[str]) -> Iterator[_Found]:
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
        yield _Found(str(image), masks, image.parent.name, _below(root, image.parent), values)


def _find_folders(root: Path, mask_root: Path) -> Iterator[_Found]:
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
        if file.lower().endswith((".nii", ".nii.gz", ".png")):
            if key in masks:
                yield _Found(file, masks[key], key, _below(root, file))
            else:
                logger.info("Left out: %s has no mask.", file)
        elif is_dicom(file) and _tag(file, "SOPClassUID") not in _SEG_CLASSES:
            uid = _tag(file, "SeriesInstanceUID")
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
        yield _Found(path, chosen, name, place, series=number)


def _is_mask(file: str, alone: bool) -> bool:
    """Whether a file may be a mask; beside images only by its name or kind."""
    lower = file.lower()
    if lower.endswith((".nii", ".nii.gz", ".png")):
        return alone or is_label_name(file)
    return is_dicom(file) and _tag(file, "SOPClassUID") in _SEG_CLASSES


# ---------------------------------------------------------------------------------------------
# Domains


def _tag(file: str, keyword: str) -> str:
    """A value of a DICOM header as text, "" where there is none."""
    dataset = read_dataset(file, pixels=False, tags=[keyword])
    with damage_is_input_error(file):
        value = dataset.get(keyword)
        if value is None and keyword == "SOPClassUID":
            value = getattr(dataset.file_meta, "MediaStorageSOPClassUID", None)
        return "" if value is None else str(value).strip()


def _source(spec: str, root: Path, argument: str):
    """The function from a scan found to its domain or subject that a specification means."""
    kind, _, rest = str(spec).partition(":")
    if spec == "folder":
        return lambda item: item.folder
    if kind == "tag" and rest:
        from pydicom.datadict import tag_for_keyword

        if tag_for_keyword(rest) is None:
            raise ArgumentError(f"{argument}: {rest!r} is no DICOM keyword, see PS3.6.")
        value_of = _Pseudonyms(rest)
        return lambda item: _known(value_of(item), item, spec)
    if kind == "csv" and ":" in rest:
        file, _, column = rest.rpartition(":")
        table = _table(file, column, root)
        return lambda item: _known(_look_up(table, item), item, spec)
    raise ArgumentError(
        f"{argument}: must be 'folder', 'tag:KEYWORD' or 'csv:FILE:COLUMN', received {spec!r}."
    )


def _known(value: str, item: _Found, spec: str) -> str:
    if not value:
        logger.warning("%s: nothing found by %s; counted as %s.", item.image, spec, UNKNOWN)
    return value or UNKNOWN


class _Pseudonyms:
    """Values of a tag; those that may say who the patient is are numbered and not told.

    Args:
        keyword: A DICOM keyword.
    """

    def __init__(self, keyword: str):
        self.keyword = keyword
        self._numbers: dict[str, int] = {}

    def __call__(self, item: _Found) -> str:
        """The value for a scan, or ``KEYWORD-1``, ``KEYWORD-2``, … in the order of scans."""
        value = _tag_or_sidecar(item.first_file, self.keyword)
        if not value or self.keyword in TECHNICAL:
            return value
        return f"{self.keyword}-{self._numbers.setdefault(value, len(self._numbers) + 1)}"


def _tag_or_sidecar(file: str, keyword: str) -> str:
    if is_dicom(file):
        return _tag(file, keyword)
    sidecar = Path(re.sub(r"\.(nii(\.gz)?|png)$", "", file) + ".json")
    if not sidecar.is_file():
        return ""
    try:
        values = read_json(sidecar)
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(sidecar, f"cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputFileError(sidecar, f"is not JSON ({reason_of(error)}).") from None
    return str(values.get(keyword, "")).strip() if isinstance(values, dict) else ""


def _table(file: str, column: str, root: Path) -> dict[str, str]:
    """Identifier to value, of a table with a header in which commas, semicolons or tabs divide."""
    path = next((p for p in (Path(file), root / file) if p.is_file()), None)
    if path is None:
        raise InputFileError(file, "no such table.")
    try:
        text = read_limited(path).decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror}).") from error
    except (ValueError, csv.Error) as error:
        raise InputFileError(path, f"is no table of UTF-8 text ({error}).") from error
    names = list(rows[0]) if rows else []
    if column not in names:
        raise InputFileError(
            path, f"has no column {column!r}; its columns are {', '.join(map(str, names))}."
        )
    lower = {str(name).strip().lower(): name for name in names}
    identifier = next((lower[name] for name in _ID_COLUMNS if name in lower), names[0])
    return {
        key_of(str(row[identifier]).strip()): str(row[column] or "").strip()
        for row in rows
        if row[identifier]
    }


def _look_up(table: Mapping[str, str], item: _Found) -> str:
    name = os.path.basename(item.image)
    candidates = (
        item.subject,
        os.path.basename(item.subject),
        item.subject.removeprefix("sub-"),
        key_of(name),
        name,
    )
    return next((table[c] for c in candidates if c in table), "")
