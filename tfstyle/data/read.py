"""One entry for every kind of file: a DICOM file or tree of folders, NIfTI, PNG."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from tfstyle.data.dicom import (
    DicomSeries,
    damage_is_input_error,
    is_dicom,
    read_dataset,
    read_dicom,
)
from tfstyle.data.dicom.files import HEAD, begins_as_dicom
from tfstyle.data.dicom.headers import IDENTITY_TAGS, Identity, identity_of
from tfstyle.data.dicom.series import series_mark
from tfstyle.data.dicom.stacks import series_keys
from tfstyle.data.layouts import images_among, is_label_map
from tfstyle.data.nifti import nifti_name, read_nifti
from tfstyle.data.png import picture_name, read_png
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import check, limits

logger = logging.getLogger(__name__)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _is_nifti(path: str) -> bool:
    return path.lower().endswith((".nii", ".nii.gz"))


def _kind(path: str) -> str:
    """``"nifti"``, ``"png"`` or ``"dicom"`` by name and first bytes, "" for anything else.

    Raises:
        InputFileError: If the file cannot be opened.
    """
    if _is_nifti(path):
        return "nifti"
    if path.lower().endswith(".png"):
        return "png"
    if os.path.basename(path).upper() == "DICOMDIR":
        return ""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror}).") from error
    if head.startswith(_PNG_SIGNATURE):
        return "png"
    return "dicom" if begins_as_dicom(head) else ""


def _say_left_out(folder: str, files: Sequence[str]) -> None:
    files = [file for file in files if os.path.basename(file).upper() != "DICOMDIR"]
    if files:
        logger.warning(
            "Left out of %s: %d %s neither DICOM, NIfTI nor PNG (%s%s).",
            folder,
            len(files),
            "file that is" if len(files) == 1 else "files that are",
            ", ".join(os.path.relpath(file, folder) for file in files[:5]),
            ", …" if len(files) > 5 else "",
        )


def no_scans(folder: str | os.PathLike) -> InputFileError:
    """The error for a folder or file without a scan, which says what is there instead."""
    path = os.fspath(folder)
    if not os.path.isdir(path):
        try:
            read_scans(path)
        except InputFileError as error:
            return error
    files = find_files(path)
    pair = next((file for file in files if file.lower().endswith(_PAIR)), None)
    if pair is not None:
        return InputFileError(pair, _PAIR_PROBLEM)
    labels = [file for file in files if _is_nifti(file)]
    if labels:
        return InputFileError(
            path,
            f"holds no scans, but {len(labels)} NIfTI files that are label maps by their names, "
            f"such as {os.path.basename(labels[0])}. Give such a file itself to read it as a scan, "
            "or give it another name.",
        )
    return InputFileError(path, "holds no DICOM, NIfTI or PNG files.")


_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
_PAIR_PROBLEM = (
    "half of a pair of header and image (.hdr and .img, Analyze or NIfTI), which is not read. Make "
    "one .nii.gz of both, for example with nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')."
)


def find_files(folder: str | os.PathLike) -> list[str]:
    """All regular files below a folder, sorted; hidden ones left out, linked folders once.

    Args:
        folder: The folder. Symbolic links are followed, unless ``follow_links`` of
            :class:`tfstyle.limits.Limits` says otherwise; loops do no harm.

    Raises:
        InputFileError: If the folder cannot be listed, or holds more files than the limit.
    """
    folder = os.fspath(folder)
    files: list[str] = []
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise InputFileError(error.filename or folder, f"cannot be listed ({error.strerror}).")

    everywhere = bool(limits().follow_links)
    home = os.path.join(os.path.realpath(folder), "")
    for root, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(root)
        outside = not everywhere and not os.path.join(os.path.realpath(root), "").startswith(home)
        if outside or (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(root, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue
            if not everywhere and not os.path.realpath(path).startswith(home):
                logger.warning("Left out: %s is a link that leads out of %s.", path, folder)
                continue
            files.append(path)
        check(folder, "files", len(files), f"holds {len(files)} files and more")
    return sorted(files)


def read_scans(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    on_odd: str = "skip",
    units: str = "auto",
    lazy: bool = False,
) -> list[Scan | DicomSeries]:
    """Reads every scan in a file or a tree of folders.

    In a folder, DICOM files are grouped by series and sorted by position, each NIfTI and PNG file
    is a scan of its own, and what is none of these, or a DICOM object without a picture, is left
    out. Label maps are left out as well, with a warning: those that names of files or folders tell,
    as in the layouts of TotalSegmentator, nnU-Net, the Medical Segmentation Decathlon, VerSe and
    BIDS, and NIfTI volumes of labels beside a CT. So are results of tfstyle in a folder that holds
    anything else. A file that is given itself is read, whatever it is called.

    Scout images, and slices of another size or orientation than the rest of their series, are left
    out with a warning that names the file, because a series with its scout is what scanners send;
    pass ``on_odd="error"`` to be strict. Damaged files are always an error.

    Example:
        >>> for scan in read_scans("study/"):  # doctest: +SKIP
        ...     print(scan)

    Args:
        path: A DICOM, ``.nii``, ``.nii.gz`` or PNG file, or a folder.
        series: Only this series: its Series Number, its name, or its Series Instance UID, of which
            the end will do: from a dot on (``.77``, ``3.77``), or six digits and more.
        on_odd: ``"skip"`` or ``"error"`` for slices that do not fit their series.
        units: For NIfTI, ``"HU"`` or ``"US"`` to decide what the values mean, ``"auto"`` to judge
            by the values.
        lazy: Give a :class:`tfstyle.data.DicomSeries` for each DICOM series in HU with one file a
            slice: the same but that pixels are read when asked for.

    Returns:
        At least one scan, sorted by path.

    Raises:
        InputFileError: If the path does not exist, holds nothing readable, or a file is damaged.
        ArgumentError: If an option is unknown.
    """
    if on_odd not in ("skip", "error"):
        raise ArgumentError(f"on_odd must be 'skip' or 'error'. Received {on_odd!r}.")
    path = os.fspath(path)
    if not os.path.exists(path):
        raise InputFileError(path, "no such file or folder.")
    if os.path.isdir(path):
        scans = _read_folder(path, series, on_odd, units, lazy)
    elif not os.path.isfile(path):
        raise InputFileError(path, "neither a file nor a folder.")
    elif os.path.getsize(path) == 0:
        raise InputFileError(path, "the file is empty.")
    elif _kind(path) in ("nifti", "png"):
        scan = read_nifti(path, units=units) if _is_nifti(path) else read_png(path)
        scans = [scan] if series in (None, scan.name) else []
    elif path.lower().endswith(_PAIR) and not _kind(path):
        raise InputFileError(path, _PAIR_PROBLEM)
    else:
        scans = read_dicom([path], series=series, on_odd=on_odd, as_given=True, lazy=lazy)
    if series is not None and not scans:
        raise InputFileError(path, f"holds no series {series!r}.")
    return scans


def _read_folder(
    path: str, series: str | None, on_odd: str, units: str, lazy: bool
) -> list[Scan | DicomSeries]:
    dicom: list[str] = []
    scans: list[Scan | DicomSeries] = []
    volumes: list[Scan] = []
    unknown: list[str] = []
    for file in images_among(path, find_files(path)):
        kind = _kind(file)
        if kind == "nifti":
            if series is not None and nifti_name(file) != series:
                continue
            volumes.append(read_nifti(file, units=units))
        elif kind == "png":
            if series is None or picture_name(file) == series:
                scans.append(read_png(file))
        elif kind == "dicom":
            dicom.append(file)
        else:
            unknown.append(file)
    if dicom:
        found = read_dicom(dicom, series=series, on_odd=on_odd, lazy=lazy)
        if not found and not scans and not volumes and series is None:
            raise InputFileError(
                path,
                f"{len(dicom)} DICOM files, but none with slices to read (scout images and "
                "objects without pictures are left out). To read a scout, give its file.",
            )
        scans.extend(found)
    others = [*volumes, *scans]
    for volume in volumes:
        if any(is_label_map(volume, other) for other in others):
            logger.warning("Left out: %s looks like a label map.", volume.files[0])
        else:
            scans.append(volume)
    if not scans and series is None:
        raise no_scans(path)
    _say_left_out(path, unknown)
    return sorted(scans, key=lambda scan: os.path.dirname(scan.files[0]))


def _labels_something_beside(scan: Scan) -> bool:
    """Whether a NIfTI volume is a label map of another scan in its folder."""
    if scan.units != "US" or scan.pixels.dtype.kind == "f" or scan.pixels.min() < 0:
        return False
    folder = os.path.dirname(scan.files[0])
    dicom = False
    for name in sorted(os.listdir(folder or ".")):
        other = os.path.join(folder, name)
        try:
            if _is_nifti(other):
                beside = [read_nifti(other)] if other != scan.files[0] else []
            elif not dicom and is_dicom(other):  # one file tells the units of its series
                beside = read_dicom([other], lazy=True)
                dicom = bool(beside)
            else:
                continue
            if any(is_label_map(scan, one) for one in beside):
                return True
        except InputFileError:
            continue
    return False


@dataclass(frozen=True)
class ScanFiles:
    """Files that make up a scan, known before they are read.

    Attributes:
        files: The files, sorted; several for a DICOM series.
        kind: ``"dicom"``, ``"nifti"`` or ``"png"``.
        series: Series Instance UID, with more behind it where several series share it, or "".
        given: Whether the file itself was given, and not its folder.
    """

    files: tuple[str, ...]
    kind: str
    series: str = ""
    given: bool = False

    def read(self, *, lazy: bool = False) -> list[Scan | DicomSeries]:
        """Reads the files as :func:`read_scans` reads a folder.

        Args:
            lazy: See :func:`read_scans`.

        Returns:
            One scan, several where a DICOM series repeats its positions, or none where the files
            turn out to be scout images, objects without pictures, or labels of a volume beside.

        Raises:
            InputFileError: If a file is damaged.
        """
        if self.kind == "png":
            return [read_png(self.files[0])]
        if self.kind == "dicom":
            return read_dicom(self.files, lazy=lazy)
        scan = read_nifti(self.files[0])
        if not self.given and _labels_something_beside(scan):
            logger.warning("Left out: %s looks like a label map.", self.files[0])
            return []
        return [scan]


def list_scans(
    folder: str | os.PathLike, *, without: Sequence[str | os.PathLike] = ()
) -> tuple[list[ScanFiles], list[InputFileError]]:
    """Finds the scans in a tree of folders without reading their pixels.

    The scans are those of :func:`read_scans`, but a damaged file stops nothing, here or when it
    is read, and no more than one scan need be in memory.

    Args:
        folder: The folder; or one file.
        without: Folders in it to pass over.

    Returns:
        The scans, sorted by their first file, and an error for each DICOM file whose header cannot
        be read.

    Raises:
        InputFileError: If the folder does not exist or cannot be listed.
    """
    folder = os.fspath(folder)
    if not os.path.exists(folder):
        raise InputFileError(folder, "no such file or folder.")
    if not os.path.isdir(folder) and not os.path.isfile(folder):  # a pipe would be waited for
        raise InputFileError(folder, "neither a file nor a folder.")
    found: list[ScanFiles] = []
    damaged: list[InputFileError] = []
    dicom: list[tuple[str, Identity]] = []
    others: list[str] = []
    passed = [os.path.join(os.path.realpath(path), "") for path in without]
    given = not os.path.isdir(folder)
    files = [folder]
    if not given:
        files = find_files(folder)
        if passed:
            files = [f for f in files if not os.path.realpath(f).startswith(tuple(passed))]
        files = images_among(folder, files)
    for file in files:
        try:
            kind = _kind(file)
        except InputFileError as error:
            damaged.append(error)
            continue
        if kind == "nifti":
            found.append(ScanFiles((file,), "nifti", given=given))
        elif kind == "png":
            found.append(ScanFiles((file,), "png"))
        elif kind == "dicom" or file.lower().endswith((".dcm", ".dicom")):
            try:
                header = read_dataset(file, pixels=False, tags=IDENTITY_TAGS)
                with damage_is_input_error(file):  # pydicom decodes attributes late
                    dicom.append((file, identity_of(header)))
            except InputFileError as error:
                damaged.append(error)
        else:
            others.append(file)
    series: dict[tuple[str, ...], list[str]] = {}
    for key, (file, _) in zip(series_keys(dicom), dicom):
        series.setdefault(key, []).append(file)
    found.extend(
        ScanFiles(tuple(files), "dicom", series_mark(key, series)) for key, files in series.items()
    )
    if found:
        _say_left_out(folder, others)
    return sorted(found, key=lambda scan: scan.files), damaged


def read_scan(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    on_odd: str = "skip",
    units: str = "auto",
    lazy: bool = False,
) -> Scan | DicomSeries:
    """Reads the one scan that a file or folder holds.

    Args:
        path: See :func:`read_scans`.
        series: See :func:`read_scans`.
        on_odd: See :func:`read_scans`.
        units: See :func:`read_scans`.
        lazy: See :func:`read_scans`.

    Returns:
        The scan.

    Raises:
        InputFileError: As :func:`read_scans`, and if there are several scans; the message lists
            them.
    """
    scans = read_scans(path, series=series, on_odd=on_odd, units=units, lazy=lazy)
    if len(scans) > 1:
        listed = ", ".join(f"{scan.name} ({len(scan)} slices)" for scan in scans[:20])
        more = f" and {len(scans) - 20} more" if len(scans) > 20 else ""
        raise InputFileError(
            path, f"holds {len(scans)} scans, where one is needed: {listed}{more}. Name the series."
        )
    return scans[0]
