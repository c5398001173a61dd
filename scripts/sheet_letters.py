#!/usr/bin/env python
"""Draws the letters of contact sheets once, as ``tfstyle/experiments/letters.npz``.

    python scripts/sheet_letters.py

The font is Aileron Regular by Sora Sagano (CC0), which Pillow carries; Pillow is needed here and
not where sheets are drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES = (12, 13, 15, 20)
LETTERS = "".join(map(chr, range(32, 127))) + "·…°"


def letters(size: int) -> dict[str, np.ndarray]:
    """All letters of one size in a strip, and where each begins.

    Returns:
        dict of ``strip_<size>`` (height, width) uint8, 255 is ink, and ``starts_<size>``
        (letters + 1,) int32.
    """
    font = ImageFont.load_default(size)
    height = sum(font.getmetrics())
    strip, starts = [], [0]
    for letter in LETTERS:
        # A pixel more for a space: at these sizes words run into one another.
        width = max(1, round(font.getlength(letter))) + (letter == " ")
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).text((0, 0), letter, fill=255, font=font)
        strip.append(np.asarray(image))
        starts.append(starts[-1] + width)
    return {f"strip_{size}": np.hstack(strip), f"starts_{size}": np.array(starts, np.int32)}


def main() -> None:
    """Writes the file."""
    arrays = {"letters": np.array(LETTERS)}
    for size in SIZES:
        arrays.update(letters(size))
    target = Path(__file__).resolve().parent.parent / "tfstyle" / "experiments" / "letters.npz"
    np.savez_compressed(target, **arrays)
    print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
