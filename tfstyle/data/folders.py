"""What a folder holds: its files by their kind, without label maps and results of tfstyle."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence

from tfstyle.data.dicom.files import NotDicomError, damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.dicom.headers import IDENTITY_TAGS, Identity, identity_of, is_own
from tfstyle.data.layouts import NIFTI, PICTURES, is_label_path, is_result
from tfstyle.errors import InputFileError
from tfstyle.limits import check, limits

logger = logging.getLogger(__name__)


def find_files(folder: str | os.PathLike) -> list[str]:
    """All regular files below a folder, sorted; hidden ones left out, linked folders once."""
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


def look_into(
    folder: str, files: Sequence[str]
) -> tuple[list[tuple[str, str, Identity | None]], list[InputFileError]]:
    """Kind (dicom, nifti, png), path and identity (of DICOM) of what may be a scan; and damage.

    Label maps, known by their names, and results of tfstyle, known by their headers, are left out;
    a folder of nothing but results is read. An InputFileError for label maps and nothing else.
    """
    scans: list[tuple[str, str, Identity | None]] = []
    others: list[str] = []
    results: set[str] = set()
    damaged: list[InputFileError] = []
    labels = {file for file in files if is_label_path(file[len(folder) :])}
    for path in files:
        lower = path.lower()
        if path in labels or (path != folder and os.path.basename(lower) == "dicomdir"):
            continue
        if lower.endswith(PICTURES):
            scans.append(("nifti" if lower.endswith(NIFTI) else "png", path, None))
            results |= {path} if is_result(path) else set()
            continue
        named = path == folder or lower.endswith((".dcm", ".dicom"))
        try:
            dataset = read_dataset(path, pixels=False, tags=IDENTITY_TAGS)
            with damage_is_input_error(path):  # pydicom decodes attributes late
                scans.append(("dicom", path, identity_of(dataset)))
                results |= {path} if is_own(dataset) else set()
        except InputFileError as error:
            if isinstance(error, NotDicomError) and not named:
                others.append(path)
            else:
                damaged.append(error)
    endings = (*PICTURES, ".dcm", ".dicom", ".ima")
    maps = [file for file in labels if file.lower().endswith(endings) or is_dicom(file)]
    if maps and not (scans or damaged):
        raise InputFileError(
            folder,
            f"holds no scans: {_listed(maps)} are label maps by the names of files or folders. "
            "Give the folder of the images, or such a file itself to read it as a scan.",
        )
    images = [one for one in scans if one[1] not in results]
    for left, why in (
        (maps, "label maps by the names of files or folders"),
        (
            results if images else [],
            "which tfstyle made; to read results, name them or their own folder",
        ),
        (others if scans else [], "neither DICOM, NIfTI nor PNG"),
    ):
        if left:
            logger.warning("Left out of %s: %s, %s.", folder, _listed(left), why)
    return images or scans, damaged


def _listed(files: Collection[str]) -> str:
    return min(files) if len(files) == 1 else f"{len(files)} files such as {min(files)}"
