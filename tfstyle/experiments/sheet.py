"""Contact sheets: feature maps in rows, with words beside them, as a gray PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.experiments.page import png_bytes

if TYPE_CHECKING:
    from tfstyle.experiments.features import TapFeatures

#: Pixels: side of a map, space between maps, border, column of words, length of a bar.
TILE, GAP, MARGIN, LABEL, BAR = 104, 6, 16, 216, 84
#: Grays of words, of what matters less, and of lines.
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
        title: First line.
        subtitle: Second line.
        image: float array (H, W) in [0, 1].
        gradient: float array (H, W) in [0, 1].
        protocols: For each protocol an image (H', W') in [0, 1].

    Returns:
        The bytes of a PNG, 8 bits, gray.
    """
    columns = max(max(len(row.maps) for row in rows), 5)
    step, pitch = TILE + GAP, TILE + GAP + 18
    width = 2 * MARGIN + LABEL + columns * step - GAP
    pictures = [("image", image), ("gradient", gradient), *protocols.items()]
    beside = (width - 2 * MARGIN + GAP) // step
    head = MARGIN + 52
    first = head + -(-len(pictures) // beside) * (step + 20) + 34
    sheet = np.full((first + len(rows) * pitch + MARGIN, width), PAPER, np.uint8)

    _write(sheet, MARGIN, MARGIN - 4, title, 20)
    _write(sheet, MARGIN, MARGIN + 24, subtitle, 13, SOFT)
    for i, (name, picture) in enumerate(pictures):
        x, y = MARGIN + i % beside * step, head + i // beside * (step + 20)
        _paste(sheet, x, y, picture)
        _write(sheet, x, y + TILE + 3, name, 12, SOFT, TILE)
    _write(sheet, MARGIN, first - 32, "tap, with the channels that vary most", 13, SOFT)
    for i, row in enumerate(rows):
        y = first + i * pitch
        sheet[y - 9, MARGIN : width - MARGIN] = LINE
        _write(sheet, MARGIN, y - 2, row.name, 15, most=LABEL - GAP)
        _write(sheet, MARGIN, y + 20, f"{row.channels} channels, stride {row.stride}", 13, SOFT)
        figures = [("gradient read back", row.gradient_r2, row.gradient_r2)]
        if row.fisher_ratio is not None:
            share = row.fisher_ratio / (1 + row.fisher_ratio)
            figures.append(("protocols against anatomy", row.fisher_ratio, share))
        for k, (words, value, share) in enumerate(figures):
            top = y + 43 + 34 * k
            _write(sheet, MARGIN, top, words, 12, SOFT)
            sheet[top + 17 : top + 27, MARGIN : MARGIN + BAR] = SOFT
            empty = MARGIN + max(round(BAR * min(max(share, 0.0), 1.0)), 1)
            sheet[top + 18 : top + 26, empty : MARGIN + BAR - 1] = PAPER
            number = f"{value:.2f}" if value < 9.995 else f"{value:.0f}"
            _write(sheet, MARGIN + BAR + 8, top + 14, number, 13)
        for j, (number, picture) in enumerate(zip(row.shown, row.maps)):
            _paste(sheet, MARGIN + LABEL + j * step, y, picture)
            _write(sheet, MARGIN + LABEL + j * step, y + TILE + 1, str(number), 12, SOFT)
    return png_bytes(sheet / 255.0)


def _paste(sheet: np.ndarray, x: int, y: int, picture: np.ndarray) -> None:
    """Puts a picture into a square, its pixels averaged or repeated."""
    scale = TILE / max(picture.shape)
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    picture = _resize(_resize(picture, height).T, width).T
    levels = np.rint(np.clip(picture, 0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))
    sheet[y : y + height, x : x + width] = np.rint(levels)


def _resize(picture: np.ndarray, rows: int) -> np.ndarray:
    """Rows averaged where there are more than wanted, repeated where there are fewer."""
    edges = np.arange(rows + 1) * len(picture) / rows
    if len(picture) < rows:
        return picture[edges[:-1].astype(int)]
    sums = np.concatenate([np.zeros((1, picture.shape[1])), np.cumsum(picture, axis=0)])
    low = np.minimum(edges.astype(int), len(picture) - 1)
    part = (edges - low)[:, None]
    at = sums[low] + part * (sums[low + 1] - sums[low])
    return np.diff(at, axis=0) * rows / len(picture)


@cache
def _letters() -> tuple[dict[str, int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Numbers of the letters, and for each size their strip and where in it each begins."""
    with np.load(Path(__file__).with_name("letters.npz"), allow_pickle=False) as file:
        numbers = {letter: i for i, letter in enumerate(str(file["letters"]))}
        sizes = [int(name.removeprefix("strip_")) for name in file.files if "strip" in name]
        return numbers, {size: (file[f"strip_{size}"], file[f"starts_{size}"]) for size in sizes}


def _write(
    sheet: np.ndarray, x: int, y: int, words: str, size: int, ink: int = INK, most: int = 0
) -> None:
    """Writes one line, cut with dots where it is wider than `most` or reaches the border."""
    numbers, sizes = _letters()
    strip, starts = sizes[size]
    most = most or sheet.shape[1] - MARGIN - x

    def drawn(text: str) -> np.ndarray:
        places = [numbers.get(letter, numbers["?"]) for letter in text]
        return np.hstack([strip[:, starts[i] : starts[i + 1]] for i in places] or [strip[:, :0]])

    line = drawn(words)
    while words and line.shape[1] > most:
        words = words.rstrip("…")[:-1].rstrip() + "…"
        line = drawn(words if len(words) > 1 else "")
        words = words if len(words) > 1 else ""
    height, width = line.shape
    part = sheet[y : y + height, x : x + width]
    share = line[: part.shape[0]] / 255.0
    part[:] = np.rint(part * (1 - share) + ink * share)
