"""One entry for every kind of file: a DICOM file or tree of folders, NIfTI, PNG."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tfstyle.data.dicom.files import NotDicomError
from tfstyle.data.dicom.series import load_all, read_dicom, series_keys, series_name
from tfstyle.data.folders import find_files, look_into
from tfstyle.data.nifti import read_nifti
from tfstyle.data.png import read_png
from tfstyle.data.privacy import mark_of
from tfstyle.data.scan import Scan
from tfstyle.errors import InputFileError

logger = logging.getLogger(__name__)


def read_scans(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    units: str = "auto",
    lazy: bool = False,
) -> list[Scan]:
    """Reads every scan in a file or a tree of folders.

    In a folder, DICOM files are grouped by series and sorted by position; each NIfTI and PNG file
    is a scan of its own. Left out with a warning are label maps, by the names of files or folders;
    results of tfstyle in a folder that holds anything else; scout images, and slices that do not
    fit their series. A file that is given itself is read under any name. Damage is an error.

    Example:
        >>> for scan in read_scans("ct/"):
        ...     print(scan)
        Scan('ct', 2 x 128 x 128 pixels, 2 x 0.6615 x 0.6615 mm, -896..1167 HU)

    Args:
        path: A DICOM, ``.nii``, ``.nii.gz`` or PNG file, or a folder.
        series: Only this series: its Series Number, its name, or its Series Instance UID. The name
            of one of several scans of a series (``ct_phase2``) gives this one.
        units: For NIfTI, ``"HU"`` or ``"US"`` to decide what the values mean, ``"auto"`` to judge
            by the values.
        lazy: Leave the pixels until they are asked for, see :class:`tfstyle.data.Scan`.

    Returns:
        At least one scan, sorted by path.

    Raises:
        InputFileError: If the path does not exist, holds nothing readable, or a file is damaged.
        ArgumentError: If the units are unknown.
    """
    found, by_name = sound_scans(path), series is not None
    scans = [s for files in found for s in files.read(units=units, lazy=lazy or by_name)]
    if not scans:
        raise no_scans(path)
    if series is None:
        return scans
    if not (chosen := named(scans, series)):
        raise InputFileError(path, f"holds no series {series!r}.")
    return chosen if lazy else load_all(chosen)


def named(scans: Sequence[Scan], series: str) -> list[Scan]:
    """The scans of a series, by its name, Series Number or UID; or the one scan of a name."""

    def names_of(scan: Scan) -> set[str]:
        frames = scan.frames[:1] if series else ()
        known = {name for f in frames for name in (f.identity[0], str(f.SeriesNumber))}
        return known | {scan.name.removesuffix(f"_{scan.stack}")}

    meant = [scan for scan in scans if series in names_of(scan)]
    return meant or [scan for scan in scans if scan.name == series]


def no_scans(path: str | os.PathLike) -> InputFileError:
    """The error for a folder or file without a scan."""
    problem = "holds no DICOM, NIfTI or PNG files with scans; scouts are read by their file alone."
    return InputFileError(path, problem)


@dataclass(frozen=True)
class ScanFiles:
    """Files that make up a scan, known before they are read.

    Attributes:
        files: The files, sorted; several for a DICOM series.
        kind: ``"dicom"``, ``"nifti"`` or ``"png"``.
        series: Series Instance UID, with more behind it where several series share it, or "".
        name: Of the scans of a DICOM series; "" for that of its file or folder.
        given: Whether the file was named itself: scouts are read then, and it must hold a picture.
    """

    files: tuple[str, ...]
    kind: str
    series: str = ""
    name: str = ""
    given: bool = False

    @property
    def place(self) -> str:
        """The file, or the folder of several."""
        if len(self.files) == 1:
            return self.files[0]
        return os.path.commonpath([os.path.dirname(file) for file in self.files])

    def read(self, *, units: str = "auto", lazy: bool = False) -> list[Scan]:
        """Reads the files as :func:`read_scans` does: one scan, or several of a DICOM series.

        There are none where the files turn out to be scout images or objects without pictures.
        """
        if self.kind == "png":
            return [read_png(self.files[0], lazy)]
        if self.kind == "dicom":
            return read_dicom(self.files, name=self.name, as_given=self.given, lazy=lazy)
        return [read_nifti(self.files[0], units=units, lazy=lazy)]


def list_scans(
    folder: str | os.PathLike, *, without: Sequence[str | os.PathLike] = ()
) -> tuple[list[ScanFiles], list[InputFileError]]:
    """Finds the scans of :func:`read_scans` in a tree of folders without reading their pixels.

    A damaged file stops nothing, here or when it is read.

    Args:
        folder: The folder; or one file.
        without: Files and folders in it to pass over.

    Returns:
        The scans, sorted by their first file, and an error for each DICOM file whose header cannot
        be read.

    Raises:
        InputFileError: If the folder does not exist or cannot be listed, or the file is empty.
    """
    folder = os.fspath(folder)
    given = os.path.isfile(folder)
    if not os.path.exists(folder):
        raise InputFileError(folder, "no such file or folder.")
    if not given and not os.path.isdir(folder):  # a pipe would be waited for
        raise InputFileError(folder, "neither a file nor a folder.")
    if given and os.path.getsize(folder) == 0:
        raise InputFileError(folder, "the file is empty.")
    files = [folder] if given else find_files(folder)
    if without:
        passed = {os.path.realpath(path) for path in without}
        inside = tuple(os.path.join(path, "") for path in passed if os.path.isdir(path))
        real = {file: os.path.realpath(file) for file in files}
        files = [f for f in files if real[f] not in passed and not real[f].startswith(inside)]
    found, damaged = look_into(folder, files)
    scans = [ScanFiles((file,), kind) for kind, file, identity in found if identity is None]
    dicom = [(file, identity) for _, file, identity in found if identity is not None]
    series: dict[tuple[str, ...], list[str]] = {}
    for key, (file, _) in zip(series_keys(dicom), dicom):
        series.setdefault(key, []).append(file)
    uids = Counter(key[:2] for key in series)
    names = Counter(map(series_name, series.values()))
    for key, members in series.items():
        uid, name = key[0], series_name(members)
        if uid and uids[key[:2]] > 1:
            logger.warning(
                "One Series Instance UID stands for %d series of different patients, studies or "
                "frames of reference; the one that begins with %s is read as a scan of its own.",
                *(uids[key[:2]], members[0]),
            )
            uid = "/".join(key)
        if names[name] > 1:
            name = f"{name}-{mark_of(uid or members[0])}"
        scans.append(ScanFiles(tuple(members), "dicom", uid, name, given))
    return sorted(scans, key=lambda scan: scan.files), damaged


def sound_scans(
    folder: str | os.PathLike, *, without: Sequence[str | os.PathLike] = ()
) -> list[ScanFiles]:
    """:func:`list_scans` for those who want all: a damaged DICOM file is an InputFileError."""
    scans, damaged = list_scans(folder, without=without)
    for error in damaged:
        if not isinstance(error, NotDicomError) or os.path.isfile(folder):
            raise error
        logger.warning("Left out: %s", error)
    return scans


def read_scan(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    units: str = "auto",
    lazy: bool = False,
) -> Scan:
    """Reads the one scan that a file or folder holds.

    The arguments are those of :func:`read_scans`.

    Raises:
        InputFileError: As :func:`read_scans`, and if there are several scans; the message lists
            them.
    """
    return the_one(read_scans(path, series=series, units=units, lazy=lazy), path)


def the_one(scans: Sequence[Scan], path: str | os.PathLike) -> Scan:
    """The scan that a path holds; an InputFileError that lists them if there are several."""
    if not scans:
        raise no_scans(path)
    if len(scans) > 1:
        listed = ", ".join(f"{scan.name} ({len(scan)} slices)" for scan in scans[:20])
        what = f"holds {len(scans)} scans, where one is needed: {listed}"
        raise InputFileError(path, f"{what}{', …' * (len(scans) > 20)}. Name the series.")
    return scans[0]
