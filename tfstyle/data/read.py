"""One entry for every kind of file: a DICOM file or tree of folders, NIfTI, PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from tfstyle.data.dicom.files import NoPictureError, is_dicom
from tfstyle.data.dicom.headers import IDENTITY_TAGS, frames_of, identity_of
from tfstyle.data.dicom.series import (
    load_all,
    read_dicom,
    say_without_picture,
    scans_of,
    series_keys,
    series_mark,
)
from tfstyle.data.folders import find_files, look_into, say_others
from tfstyle.data.layouts import NIFTI
from tfstyle.data.nifti import nifti_name, read_nifti
from tfstyle.data.png import is_png, picture_name, read_png
from tfstyle.data.scan import Scan
from tfstyle.errors import InputFileError

_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
_PAIR_PROBLEM = (
    "half of a pair of header and image (.hdr and .img, Analyze or NIfTI), which is not read. Make "
    "one .nii.gz of both, for example with nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')."
)


def no_scans(folder: str | os.PathLike) -> InputFileError:
    """The error for a folder or file without a scan, which says what is there instead."""
    path = os.fspath(folder)
    try:
        files = find_files(path) if os.path.isdir(path) else [s.files[0] for s in read_scans(path)]
    except InputFileError as error:
        return error
    pair = next((file for file in files if file.lower().endswith(_PAIR)), None)
    if pair is not None:
        return InputFileError(pair, _PAIR_PROBLEM)
    index = next((file for file in files if os.path.basename(file).lower() == "dicomdir"), None)
    if index is not None:
        return InputFileError(
            index,
            "a DICOMDIR, the index of DICOM files, and none of its files is beside or below it. "
            "Copy the whole medium, with the folders that it lists.",
        )
    return InputFileError(path, "holds no DICOM, NIfTI or PNG files.")


def read_scans(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    units: str = "auto",
    lazy: bool = False,
) -> list[Scan]:
    """Reads every scan in a file or a tree of folders.

    In a folder, DICOM files are grouped by series and sorted by position; each NIfTI and PNG file
    is a scan of its own. Left out with a warning are label maps, by the names of files or folders
    in the layouts of TotalSegmentator, nnU-Net, the Medical Segmentation Decathlon, VerSe and BIDS;
    results of tfstyle in a folder that holds anything else; scout images, and slices of another
    size or orientation than the rest of their series. A file that is given itself is read under any
    name. Damaged files are an error.

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
        lazy: Leave the pixels until they are asked for, see :class:`tfstyle.data.Scan`; damage of
            pixels shows then.

    Returns:
        At least one scan, sorted by path.

    Raises:
        InputFileError: If the path does not exist, holds nothing readable, or a file is damaged.
        ArgumentError: If the units are unknown.
    """
    path = os.fspath(path)
    _check_exists(path)
    if os.path.isdir(path):
        scans = _read_folder(path, series, units, lazy)
    elif os.path.getsize(path) == 0:
        raise InputFileError(path, "the file is empty.")
    elif (nifti := path.lower().endswith(NIFTI)) or path.lower().endswith(".png") or is_png(path):
        scan = read_nifti(path, units=units, lazy=lazy) if nifti else read_png(path, lazy)
        scans = [scan] if series in (None, scan.name) else []
    elif path.lower().endswith(_PAIR) and not is_dicom(path):
        raise InputFileError(path, _PAIR_PROBLEM)
    else:
        scans = read_dicom([path], series=series, as_given=True, lazy=lazy)
    if series is not None and not scans:
        raise InputFileError(path, f"holds no series {series!r}.")
    return scans


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise InputFileError(path, "no such file or folder.")
    if not os.path.isdir(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputFileError(path, "neither a file nor a folder.")


def _read_folder(path: str, series: str | None, units: str, lazy: bool) -> list[Scan]:
    def describe(file: str, dataset: Dataset) -> object:
        try:
            return frames_of(file, dataset)
        except NoPictureError as error:
            return error

    found = look_into(path, find_files(path), describe, None, strict=True)
    said = [said for _, _, said in found.scans if said is not None]
    frames = [one for one in said if isinstance(one, list)]
    say_without_picture([e for e in said if isinstance(e, NoPictureError)], beside=bool(frames))
    series_found = scans_of(frames, series=series)
    scans = series_found if lazy else load_all(series_found)
    scans += [read_png(p, lazy) for p in found.of("png") if series in (None, picture_name(p))]
    scans += [
        read_nifti(file, units=units, lazy=lazy)
        for file in found.of("nifti")
        if series in (None, nifti_name(file))
    ]
    if not scans and series is None:
        if said:
            what = "scout images and objects without pictures are left out; or give a scout's file"
            raise InputFileError(path, f"holds DICOM files, none with slices to read ({what}).")
        raise no_scans(path)
    say_others(path, found.others)
    return sorted(scans, key=lambda scan: os.path.dirname(scan.files[0]))


@dataclass(frozen=True)
class ScanFiles:
    """Files that make up a scan, known before they are read.

    Attributes:
        files: The files, sorted; several for a DICOM series.
        kind: ``"dicom"``, ``"nifti"`` or ``"png"``.
        series: Series Instance UID, with more behind it where several series share it, or "".
    """

    files: tuple[str, ...]
    kind: str
    series: str = ""

    @property
    def place(self) -> str:
        """The file, or the folder of several."""
        if len(self.files) == 1:
            return self.files[0]
        return os.path.commonpath([os.path.dirname(file) for file in self.files])

    def read(self, *, lazy: bool = False) -> list[Scan]:
        """Reads the files as :func:`read_scans` reads a folder, whose errors it raises.

        Gives one scan, several where a DICOM series repeats its positions, or none where the files
        turn out to be scout images or objects without pictures.
        """
        if self.kind == "png":
            return [read_png(self.files[0], lazy)]
        if self.kind == "dicom":
            return read_dicom(self.files, lazy=lazy)
        return [read_nifti(self.files[0], lazy=lazy)]


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
        InputFileError: If the folder does not exist or cannot be listed.
    """
    folder = os.fspath(folder)
    _check_exists(folder)
    files = find_files(folder) if os.path.isdir(folder) else [folder]
    if without:
        passed = {os.path.realpath(path) for path in without}
        inside = tuple(os.path.join(path, "") for path in passed if os.path.isdir(path))
        real = {file: os.path.realpath(file) for file in files}
        files = [f for f in files if real[f] not in passed and not real[f].startswith(inside)]
    found = look_into(folder, files, lambda _, header: identity_of(header), IDENTITY_TAGS, False)
    scans = [ScanFiles((file,), "nifti") for file in found.of("nifti")]
    scans += [ScanFiles((file,), "png") for file in found.of("png")]
    dicom = [(file, identity) for kind, file, identity in found.scans if kind == "dicom"]
    series: dict[tuple[str, ...], list[str]] = {}
    for key, (file, _) in zip(series_keys(dicom), dicom):
        series.setdefault(key, []).append(file)
    scans += [
        ScanFiles(tuple(files), "dicom", series_mark(key, series)) for key, files in series.items()
    ]
    if scans:
        say_others(folder, found.others)
    return sorted(scans, key=lambda scan: scan.files), found.damaged


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
        more = f" and {len(scans) - 20} more" if len(scans) > 20 else ""
        what = f"holds {len(scans)} scans, where one is needed: {listed}{more}. Name the series."
        raise InputFileError(path, what)
    return scans[0]
