"""Synthetic axial CT of the lumbar spine in HU with exact masks, drawn by formula from a seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfstyle._private.images import number
from tfstyle.data._anatomy import LEVEL, Body
from tfstyle.data._canvas import Canvas
from tfstyle.data.labelled import LabelledScan
from tfstyle.data.nifti import write_labels, write_nifti
from tfstyle.data.png import write_png
from tfstyle.data.protocols import apply_protocol
from tfstyle.data.scan import Scan
from tfstyle.data.windows import WINDOWS, scan_to_unit
from tfstyle.errors import ArgumentError, OutputError


def spine_phantom(
    seed: int,
    size: int | tuple[int, int] = 256,
    *,
    spacing_mm: float | None = None,
    slices: int = 1,
    slice_spacing_mm: float = 3.0,
    noise_hu: float | None = None,
) -> LabelledScan:
    """Draws a phantom of an axial CT slice, or a stack of slices, of the lumbar spine.

    Example:
        >>> phantom = spine_phantom(seed=1, size=128)
        >>> phantom.scan.pixels.shape, phantom.mask.shape
        ((1, 128, 128), (1, 128, 128))
        >>> vertebra = phantom.mask == tfstyle.data.LABELS["vertebral_body"]

    Args:
        seed: Decides anatomy, position, contrast agent, texture and noise.
        size: Rows and columns, one number for square slices, at least 16.
        spacing_mm: Pixel spacing. Defaults to one drawn so that the body fits the field of view.
        slices: Number of slices, upward. A single slice passes through the pedicles; stacks pass
            through vertebrae and discs.
        slice_spacing_mm: Distance between slices.
        noise_hu: Standard deviation of the noise. Defaults to one drawn from 6 to 18.

    Returns:
        The scan in HU from -1024, and its uint8 mask with values of :data:`LABELS`: the structure
        at each pixel's center, before blur and noise.

    Raises:
        ArgumentError: If a number is out of its range.
    """
    rows, columns = (size, size) if isinstance(size, (int, np.integer)) else size
    for name, value, low, high in (
        *(("size", side, 16, 4096) for side in (rows, columns)),
        ("slices", slices, 1, 2**31),
        ("spacing_mm", spacing_mm, 0.05, 50),
        ("slice_spacing_mm", slice_spacing_mm, 0.05, 50),
        ("noise_hu", noise_hu, 0, 500),
        ("seed", seed, 0, 2**63),
    ):
        if value is not None:
            number(name, value, low, high)
    rng = np.random.default_rng([int(seed), 0x51])
    body = Body(rng)
    view = 2 * max(body.width, body.height + 12) * rng.uniform(1.06, 1.22) / min(rows, columns)
    drawn_noise = rng.uniform(6, 18)
    spacing = float(view if spacing_mm is None else spacing_mm)
    noise = float(drawn_noise if noise_hu is None else noise_hu)
    center = rng.uniform(-8, 8), rng.uniform(-6, 6) + 10
    start = rng.uniform(0.2, 0.5) * LEVEL
    pixels = np.empty((slices, rows, columns), np.int16)
    mask = np.empty((slices, rows, columns), np.uint8)
    for i in range(slices):
        own = np.random.default_rng([int(seed), i])
        canvas = Canvas((rows, columns), spacing, center, own)
        body.draw(canvas, start + i * slice_spacing_mm)
        pixels[i], mask[i] = canvas.scan(noise), canvas.labels
    affine = np.diag([slice_spacing_mm, spacing, spacing, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = center[0] - (columns - 1) / 2 * spacing, center[1] - (rows - 1) / 2 * spacing, 0
    spacings = float(slice_spacing_mm), spacing, spacing
    scan = Scan(pixels, spacings, name=f"phantom-{seed}", affine=affine)
    return LabelledScan(scan, mask, np.ones(slices, bool))


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
    (:data:`LABELS`) and ``phantom_<seed>.png``, under a protocol of :data:`PROTOCOLS`. Raises an
    ArgumentError, or an OutputError if the folder is not empty or cannot be written.

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
    for own in range(seed, seed + count):
        phantom = spine_phantom(seed=own, size=size)
        image = apply_protocol(phantom, protocol, seed=own)[0]
        names = [f"phantom_{own}{end}" for end in (".nii.gz", "_mask.nii.gz", ".png")]
        hu, mask, picture = (folder / name for name in names)
        write_nifti(scan_to_unit(phantom.scan, "full"), phantom.scan, WINDOWS["full"], hu)
        write_labels(phantom.mask, phantom.scan, mask)
        write_png(image, picture)
        files += [hu, mask, picture]
        if progress is not None:
            progress(own - seed + 1, count, hu.name)
    return files
