"""Slices for the examples; gray images and masks with titles, as a PNG file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pydicom.data import get_testdata_file

from tfstyle.data import read_scan, scan_to_unit
from tfstyle.data.scan import upright

OUT = Path(__file__).resolve().parent / "out"


def packaged_slice(name: str, window: str, every: int = 2) -> np.ndarray:
    """A slice of pydicom-data, seen from the feet: float32 (1, H, W, 1) in [0, 1].

    Args:
        name: Name of the file.
        window: Name of a window.
        every: Takes every so many pixels, for speed.
    """
    scan = read_scan(get_testdata_file(name))
    images = upright(scan, scan_to_unit(scan, window)[..., 0])
    return images[:, ::every, ::every, None]


def save_row(name: str, images: dict[str, np.ndarray], classes: int | None = None) -> Path:
    """Writes ``<name>.png`` into ``examples/out/``, more than five images in two rows.

    Args:
        name: Name of the file without its ending.
        images: Title to image: gray levels (H, W) in [0, 1], or a mask of integers.
        classes: Number of classes of the masks.
    """
    rows = 1 if len(images) <= 5 else 2
    columns = -(-len(images) // rows)
    figure = Figure((2.6 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (title, image) in zip(axes.flat, images.items()):
        image = np.squeeze(image)
        if np.issubdtype(image.dtype, np.integer):
            axis.imshow(image, "viridis", vmin=0, vmax=(classes or image.max() + 1) - 1)
        else:
            axis.imshow(image, "gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")
    return path
