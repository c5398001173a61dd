"""Scans for training, each written once as an uncompressed NIfTI file, which is mapped into memory.

The command ``tfstyle prepare`` is a thin layer over :func:`prepare_scans`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib

from tfstyle._private.files import write_atomically
from tfstyle.data.nifti import image_of
from tfstyle.data.privacy import problem_of
from tfstyle.data.read import ScanFiles, list_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import resolve_window
from tfstyle.errors import InputFileError
from tfstyle.runs.folder import RunFolder, files_digest


@dataclass(frozen=True)
class PreparedSet:
    """What :func:`prepare_scans` did.

    Attributes:
        folder: Where the files lie.
        scans: Number of scans.
        slices: Number of slices in them.
        bytes: Size of the files.
        resumed: Scans that an earlier run had finished.
        failed: Inputs that could not be read, and why; the others are there.
    """

    folder: str
    scans: int
    slices: int
    bytes: int
    resumed: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def prepare_scans(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> PreparedSet:
    """Writes each scan as an uncompressed NIfTI file, ``scan-00001.nii``, …, for training.

    The files hold pixels in the scan's own units and data type (int16 HU for CT), the affine, and
    the header's window in ``cal_min`` and ``cal_max``; no name, date, UID or other attribute.
    Pixels are not changed, so what is burned into them stays. Read lazily, they stay on the disk
    until they are used, so that a set may be larger than the memory. As all NIfTI files they are
    read as axial slices, also where a series has others. Pictures become volumes of unspecified
    units, whose window is the range of their type.

    Files appear one by one, whole. The same call resumes after an interruption; other inputs in
    the same folder are refused. One scan at a time is in memory. Inputs that cannot be read are
    named in the result, and the others continue.

    Args:
        inputs: DICOM files or folders, NIfTI, PNG, as for :func:`tfstyle.data.read_scans`, of which
            label maps are left out in the same way.
        output: A new or empty folder, or that of an earlier run.
        overwrite: Remove the scans that `output` holds and begin again.
        progress: Called as ``progress(done, total, label)``, counting inputs.

    Returns:
        An account.

    Raises:
        ArgumentError: If the folder was begun with other inputs.
        InputFileError: If an input does not exist, or none holds a scan.
        OutputError: If the folder holds something else or cannot be written.

    Example:
        >>> prepare_scans(["ct/"], "new/").slices
        2
        >>> scans = tfstyle.data.read_scans("new/", lazy=True)    # or: tfstyle train --content new/
    """
    output = Path(output)
    sources: list[ScanFiles] = []
    failed: dict[str, str] = {}
    for path in inputs:
        found, damaged = list_scans(path)
        sources += found
        failed |= {error.path: error.problem for error in damaged}
    with RunFolder(
        output,
        {"inputs": files_digest(file for source in sources for file in source.files)},
        record=".prepare.json",
        journal=".prepare.jsonl",
        what="prepared scans",
        overwrite=[path.name for path in output.glob("scan-*.nii")] if overwrite else None,
    ) as run:
        run.keep(row for row in run.rows if all((output / name).is_file() for name in row["files"]))
        before = {row["source"] for row in run.rows}
        for number, source in enumerate(sources, 1):
            if progress is not None:
                progress(number - 1, len(sources), "")
            if number in before:
                continue
            row: dict = {"source": number, "files": [], "slices": 0, "bytes": 0}
            try:
                scans = source.read()
            except Exception as error:  # any failure of one input, and the others continue
                path = getattr(error, "path", source.files[0])
                failed[path] = getattr(error, "problem", problem_of(error))
                continue
            for part, scan in enumerate(scans, 1):
                name = f"scan-{number:05d}{f'-{part}' if part > 1 else ''}.nii"
                data = _image(scan).to_bytes()
                write_atomically(output / name, data)
                row["files"].append(name)
                row["slices"] += len(scan)
                row["bytes"] += len(data)
            if row["files"]:
                run.add(row)
        count = {key: sum(row[key] for row in run.rows) for key in ("slices", "bytes")}
        written = sum(len(row["files"]) for row in run.rows)
        resumed = sum(len(row["files"]) for row in run.rows if row["source"] in before)
    if not written:
        first = next(iter(failed.items()), None)
        detail = f" The first of {len(failed)} failures: {': '.join(first)}" if first else ""
        what = ", ".join(map(str, inputs))
        raise InputFileError(what, f"holds no scan that can be read.{detail}")
    if progress is not None:
        progress(len(sources), len(sources), "")
    return PreparedSet(str(output), written, **count, resumed=resumed, failed=failed)


def _image(scan: Scan) -> nib.Nifti1Image:
    """A scan as NIfTI in the order of its pixels in memory, with its units and window."""
    image = image_of(scan.pixels, scan)
    picture = scan.units == "gray"
    image.header["descrip"] = f"tfstyle prepare, units {'US' if picture else scan.units}".encode()
    window = resolve_window("range", scan) if picture else scan.header_window
    if window is not None:
        image.header["cal_min"], image.header["cal_max"] = window.lower, window.upper
    return image
