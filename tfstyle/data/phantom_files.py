"""Phantoms as files, for ``tfstyle phantom``: HU and masks as NIfTI, pictures as PNG."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfstyle.data.nifti import write_labels, write_nifti
from tfstyle.data.phantom import spine_phantom
from tfstyle.data.png import write_png
from tfstyle.data.protocols import apply_protocol
from tfstyle.data.windows import WINDOWS, scan_to_unit
from tfstyle.errors import ArgumentError, OutputError


def write_phantoms(
    output: str | os.PathLike,
    *,
    count: int = 1,
    size: int = 256,
    protocol: str = "standard",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Draws spine phantoms of the seeds from `seed` on into a new or empty folder.

    Gives the files, three for each: ``phantom_<seed>.nii.gz`` (HU), ``phantom_<seed>_mask.nii.gz``
    (see :data:`tfstyle.data.LABELS`) and ``phantom_<seed>.png``, under a protocol of
    :data:`tfstyle.data.PROTOCOLS`. Raises an ArgumentError for what cannot be drawn, an OutputError
    if the folder is not empty or cannot be written.

    Example:
        >>> write_phantoms("phantoms", count=2)[0].name
        'phantom_0.nii.gz'
    """
    if count < 1:
        raise ArgumentError(f"count: must be at least 1, received {count}.")
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(folder, "is not empty; choose another folder.")
    files = []
    for number in range(seed, seed + count):
        phantom = spine_phantom(seed=number, size=size)
        image = apply_protocol(phantom, protocol, seed=number)[0]
        names = [f"phantom_{number}{end}" for end in (".nii.gz", "_mask.nii.gz", ".png")]
        hu, mask, picture = (folder / name for name in names)
        write_nifti(scan_to_unit(phantom.scan, "full"), phantom.scan, WINDOWS["full"], hu)
        write_labels(phantom.mask, phantom.scan, mask)
        write_png(image, picture)
        files += [hu, mask, picture]
        if progress is not None:
            progress(number - seed + 1, count, hu.name)
    return files
