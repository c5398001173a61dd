"""Contact sheets: feature maps in rows, with words beside them, as a gray PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from tfstyle.experiments.features import TapFeatures

TILE, GAP, MARGIN, LABEL, BAR = 104, 6, 16, 216, 84
INK, SOFT, LINE, PAPER = 20, 96, 208, 255
#: Gray levels of the maps, fewer than 256 so that the file stays small.
LEVELS = 48


def contact_sheet(
    rows: Sequence[TapFeatures],
    title: str,
    subtitle: str,
    image: np.ndarray,
    gradient: np.ndarray,
    protocols: Mapping[str, np.ndarray],
) -> bytes:
    """Draws the sheet: the image and the protocols at the top, then a row of maps for each tap.

    Args:
        rows: The taps, with at least one map each.
        title: First line, bold by size.
        subtitle: Second line.
        image: float array (H, W) in [0, 1].
        gradient: float array (H, W) in [0, 1].
        protocols: For each protocol an image (H', W') in [0, 1].

    Returns:
        The bytes of a PNG, 8 bits, gray.
    """
    columns = max(max(len(row.maps) for row in rows), 5)
    tops = [("image", image), ("gradient", gradient), *protocols.items()]
    beside = columns + (LABEL - GAP) // (TILE + GAP)  # the pictures begin at the margin
    bands = [tops[i : i + beside] for i in range(0, len(tops), beside)]
    step = TILE + GAP
    width = 2 * MARGIN + LABEL + columns * step - GAP
    head = MARGIN + 52
    first = head + len(bands) * (step + 20) + 34
    pitch = step + 18
    height = first + len(rows) * pitch + MARGIN
    sheet = Image.new("L", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    fonts = {size: ImageFont.load_default(size) for size in (11, 13, 15, 20)}

    def text(x: int, y: int, words: str, size: int = 13, ink: int = INK, most: int = 0) -> None:
        draw.text((x, y), _fitting(words, fonts[size], most or width), fill=ink, font=fonts[size])

    text(MARGIN, MARGIN - 4, title, 20, most=width - 2 * MARGIN)
    text(MARGIN, MARGIN + 24, subtitle, 13, SOFT, most=width - 2 * MARGIN)
    for i, band in enumerate(bands):
        y = head + i * (step + 20)
        for j, (name, picture) in enumerate(band):
            x = MARGIN + j * step
            _paste(sheet, picture, x, y)
            text(x, y + TILE + 3, name, 11, SOFT, most=TILE)
    text(MARGIN, first - 32, "tap, with the channels that vary most", 13, SOFT)
    for i, row in enumerate(rows):
        y = first + i * pitch
        draw.line((MARGIN, y - 9, width - MARGIN, y - 9), fill=LINE)
        text(MARGIN, y - 2, row.name, 15, most=LABEL - GAP)
        text(MARGIN, y + 20, f"{row.channels} channels, stride {row.stride}", 13, SOFT)
        figures = [("gradient read back, R2", row.gradient_r2)]
        if row.protocol_accuracy is not None:
            figures.append(("protocols told apart", row.protocol_accuracy))
        for k, (words, value) in enumerate(figures):
            top = y + 43 + 34 * k
            text(MARGIN, top, words, 11, SOFT)
            share = min(max(value, 0.0), 1.0)
            draw.rectangle((MARGIN, top + 16, MARGIN + BAR, top + 25), outline=SOFT)
            draw.rectangle((MARGIN, top + 16, MARGIN + round(BAR * share), top + 25), fill=SOFT)
            text(MARGIN + BAR + 8, top + 13, f"{value:.2f}", 13)
        for j, (number, picture) in enumerate(zip(row.shown, row.maps)):
            x = MARGIN + LABEL + j * step
            _paste(sheet, picture, x, y)
            text(x, y + TILE + 2, str(number), 11, SOFT)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _paste(sheet: Image.Image, picture: np.ndarray, x: int, y: int) -> None:
    """Puts a picture into a square, its pixels averaged or repeated."""
    levels = np.rint(np.clip(picture, 0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))
    tile = Image.fromarray(levels.astype(np.uint8))
    scale = TILE / max(tile.size)
    size = tuple(max(1, round(side * scale)) for side in tile.size)
    tile = tile.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    sheet.paste(tile, (x, y))


def _fitting(words: str, font: ImageFont.FreeTypeFont, most: int) -> str:
    """The words, cut with dots where they are wider than `most` pixels."""
    if font.getlength(words) <= most:
        return words
    while words and font.getlength(words + "...") > most:
        words = words[:-1]
    return words.rstrip() + "..."
