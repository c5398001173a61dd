#!/usr/bin/env python
"""Draws ``docs/vgg16_ct.png``, the picture of the README: content, style and generated.

    python scripts/readme_figure.py

Contents and styles are CT slices of the package pydicom-data and a phantom.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from tfstyle import StyleTransfer
from tfstyle.callbacks import image_grid
from tfstyle.data import Window, spine_phantom, write_png
from tfstyle.experiments.extra_ct import extra_ct

SIZE = 256
# content, its window, style, its window; scans by their number, -1 is the phantom
ROWS = (
    (1, (40, 400), 0, (-600, 1500)),
    (1, (400, 1500), -1, (40, 400)),
    (-1, (40, 400), 1, (1000, 4000)),
)


def halve(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels: (512, 512) to (256, 256, 1)."""
    return image.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))[..., None]


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Content and style of each row, (512, 512) in [0, 1]."""
    scans = [*extra_ct()[1:3], spine_phantom(321, size=512).scan]
    return [
        (
            Window(*content_window).to_unit(scans[content].pixels[0]),
            Window(*style_window).to_unit(scans[style].pixels[0]),
        )
        for content, content_window, style, style_window in ROWS
    ]


def main() -> None:
    """Writes the picture."""
    model = StyleTransfer.from_preset("vgg16_ct")
    columns = [[], [], []]
    for x, y in pairs():
        for column, image in zip(columns, (x, y, model.stylize(x, y))):
            column.append(halve(image))
    target = Path(__file__).resolve().parent.parent / "docs" / "vgg16_ct.png"
    target.parent.mkdir(exist_ok=True)
    write_png(image_grid(*map(np.stack, columns), gap=4)[..., 0] / 255.0, target)
    print(target)


if __name__ == "__main__":
    main()
