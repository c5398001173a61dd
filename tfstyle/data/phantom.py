"""Synthetic axial CT of the lumbar spine in HU with exact masks.

Everything is drawn by formula from a seed: a body on a table, with skin, fat, muscle, vessels,
kidneys, bowel, and a lumbar vertebra with cortical shell, trabecular texture, pedicles, laminae,
transverse, articular and spinous processes round the spinal canal. No data are needed or used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfstyle.data._anatomy import LEVEL, Body
from tfstyle.data._canvas import LABELS, Canvas
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError

__all__ = ["LABELS", "Phantom", "spine_phantom"]


@dataclass(frozen=True, eq=False)
class Phantom:
    """A phantom scan with its mask.

    Attributes:
        scan: The scan in HU.
        mask: uint8 (slices, rows, columns), values of :data:`LABELS`, on the grid of the scan: the
            label of the structure at each pixel's center, before blur and noise.
    """

    scan: Scan
    mask: np.ndarray


def spine_phantom(
    seed: int,
    size: int | tuple[int, int] = 256,
    *,
    spacing_mm: float | None = None,
    slices: int = 1,
    slice_spacing_mm: float = 3.0,
    noise_hu: float | None = None,
) -> Phantom:
    """Draws a phantom of an axial CT slice, or a stack of slices, of the lumbar spine.

    Example:
        >>> phantom = spine_phantom(seed=1, size=128)
        >>> phantom.scan.pixels.shape, phantom.mask.shape
        ((1, 128, 128), (1, 128, 128))
        >>> vertebra = phantom.mask == LABELS["vertebral_body"]

    Args:
        seed: Decides anatomy, position, contrast agent, texture and noise.
        size: Rows and columns, one number for square slices, at least 16.
        spacing_mm: Pixel spacing; drawn so that the body fits the field of view unless given.
        slices: Number of slices, upward. A single slice passes through the pedicles; stacks pass
            through vertebrae and discs.
        slice_spacing_mm: Distance between slices.
        noise_hu: Standard deviation of the noise; drawn from 6 to 18 unless given.

    Returns:
        The phantom: HU from -1024, int16, and the mask.

    Raises:
        ArgumentError: If a number is out of its range.
    """
    rows, columns = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(rows, columns) < 16 or max(rows, columns) > 4096:
        raise ArgumentError(f"size must lie in 16 to 4096. Received {size!r}.")
    if slices < 1:
        raise ArgumentError(f"slices must be at least 1. Received {slices!r}.")
    for name, value in (("spacing_mm", spacing_mm), ("slice_spacing_mm", slice_spacing_mm)):
        if value is not None and not 0.05 <= value <= 50:
            raise ArgumentError(f"{name} must lie in 0.05 to 50 mm. Received {value!r}.")
    if noise_hu is not None and not 0 <= noise_hu <= 500:
        raise ArgumentError(f"noise_hu must lie in 0 to 500. Received {noise_hu!r}.")
    if seed < 0:
        raise ArgumentError(f"seed must not be negative. Received {seed!r}.")
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
    for number in range(slices):
        canvas = Canvas(rows, columns, spacing, center, np.random.default_rng([int(seed), number]))
        body.draw(canvas, start + number * slice_spacing_mm)
        pixels[number] = canvas.scan(noise)
        mask[number] = canvas.labels
    affine = np.diag([slice_spacing_mm, spacing, spacing, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = center[0] - (columns - 1) / 2 * spacing, center[1] - (rows - 1) / 2 * spacing, 0
    mask.setflags(write=False)
    scan = Scan(
        pixels=pixels,
        spacing=(float(slice_spacing_mm), spacing, spacing),
        units="HU",
        name=f"phantom-{seed}",
        affine=affine,
    )
    return Phantom(scan, mask)
