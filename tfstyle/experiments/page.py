"""Self-contained HTML pages: images inside the file, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from tfstyle.data.layouts import PICTURE
from tfstyle.data.png import described

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2330; --soft: #5a6678; --line: #dfe4ec;
  --page: #f6f8fb; --card: #ffffff; --accent: #0b6bcb; --a: #7b8798; --b: #d97706; --c: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8edf5; --soft: #9aa7ba; --line: #2b3546;
  --page: #10151d; --card: #18202c; --accent: #6cb2ff; --a: #8b98ab; --b: #f59e0b; --c: #6cb2ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 34px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.02em; }
h2 { font-size: 22px; margin: 48px 0 12px; letter-spacing: -0.01em; }
h3 { font-size: 17px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 76ch; }
.lead { font-size: 18px; color: var(--soft); }
.soft { color: var(--soft); font-size: 14px; }
.notice { border-left: 4px solid var(--b); background: var(--card); padding: 10px 16px;
  margin: 20px 0; border-radius: 0 8px 8px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px; margin: 0 0 24px; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 12px 0; }
figure { margin: 0; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #000;
  border-radius: 8px; display: block; }
img.pixels { image-rendering: pixelated; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 6px; line-height: 1.4; }
figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 16px; overflow-x: auto; font-size: 13px; line-height: 1.5; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.92em; }
details { margin: 12px 0 0; } summary { cursor: pointer; color: var(--accent); }
.histogram { width: 100%; height: auto; display: block; }
.key { font-size: 13px; color: var(--soft); display: flex; gap: 18px; flex-wrap: wrap; }
.key i { display: inline-block; width: 18px; height: 3px; vertical-align: middle;
  margin-right: 6px; border-radius: 2px; }
@media (max-width: 720px) { .row { grid-template-columns: 1fr 1fr; } main { padding: 24px 12px; } }
"""


def page(title: str, *sections: str) -> str:
    """A whole HTML document.

    Args:
        title: Plain text.
        *sections: HTML, in order.

    Returns:
        The document.
    """
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def png_bytes(unit: np.ndarray) -> bytes:
    """An image in [0, 1], (H, W), as an 8-bit gray PNG."""
    import tensorflow as tf

    levels = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return described(tf.io.encode_png(levels[..., None]).numpy(), PICTURE)


def image(unit: np.ndarray, label: str, caption: str = "") -> str:
    """A figure with an image inside the page.

    Args:
        unit: Float image (H, W) in [0, 1].
        label: Short bold label, plain text; also the alternative text.
        caption: What it is, plain text.

    Returns:
        HTML.
    """
    data = base64.b64encode(png_bytes(unit)).decode("ascii")
    kind = ' class="pixels"' if max(unit.shape) < 256 else ""
    text = f"<b>{escape(label)}</b> {escape(caption)}".strip()
    return (
        f'<figure><img{kind} alt="{escape(label)}: {escape(caption)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()
) -> str:
    """A table of plain text.

    Args:
        head: Column titles.
        rows: Cells, turned into text and escaped.
        numbers: Indices of the columns to align on the right.

    Returns:
        HTML.
    """

    def cell(tag: str, column: int, value: object) -> str:
        kind = ' class="n"' if column in numbers else ""
        return f"<{tag}{kind}>{escape(str(value))}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, v) for i, v in enumerate(head)) + "</tr>"]
    lines += [
        "<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows
    ]
    return '<div class="scroll"><table>' + "\n".join(lines) + "</table></div>"


def histograms(images: Mapping[str, np.ndarray], bins: int = 64) -> str:
    """Histograms of images as one SVG drawing.

    The height is the square root of the share. Pure black and pure white, which are mostly air
    and what the window clipped, do not set the scale; they may be cut off.

    Args:
        images: Label to float image in [0, 1]; at most three.
        bins: Number of bins.

    Returns:
        HTML.
    """
    width, height = 640, 120
    curves = []
    for unit in images.values():
        counts, _ = np.histogram(np.clip(unit, 0, 1), bins=bins, range=(0, 1))
        curves.append(np.sqrt(counts / max(1, counts.sum())))
    top = max(float(curve[1:-1].max()) for curve in curves) or 1.0
    curves = [np.minimum(curve, 1.1 * top) for curve in curves]
    top *= 1.1
    lines, keys = [], []
    for colour, label, curve in zip("abc", images, curves):
        points = " ".join(
            f"{i * width / (bins - 1):.1f},{height - 4 - (height - 8) * value / top:.1f}"
            for i, value in enumerate(curve)
        )
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="var(--{colour})" stroke-width="2" '
            'stroke-linejoin="round"/>'
        )
        keys.append(f'<span><i style="background:var(--{colour})"></i>{escape(label)}</span>')
    return (
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Histograms of gray levels, black on the left, white on the right">'
        f'<line x1="0" x2="{width}" y1="{height - 3}" y2="{height - 3}" stroke="var(--line)"/>'
        f'{"".join(lines)}</svg><div class="key">{"".join(keys)}</div>'
    )


def grid(rows: Sequence[Sequence[np.ndarray]], side: int = 384, gap: int = 8) -> np.ndarray:
    """Images in rows and columns on black, each scaled to fit a square by nearest pixels.

    Args:
        rows: Rows of float images (H, W) in [0, 1], as many in each row.
        side: Side of the squares in pixels.
        gap: Pixels between them, white.

    Returns:
        float32 image in [0, 1].
    """
    columns = max(len(row) for row in rows)
    canvas = np.ones(
        (len(rows) * (side + gap) - gap, columns * (side + gap) - gap), dtype=np.float32
    )
    for r, row in enumerate(rows):
        for c, unit in enumerate(row):
            square = np.zeros((side, side), np.float32)
            scale = side / max(unit.shape)
            height, width = (max(1, round(n * scale)) for n in unit.shape)
            take = [
                np.minimum((np.arange(n) / scale).astype(int), full - 1)
                for n, full in ((height, unit.shape[0]), (width, unit.shape[1]))
            ]
            top, left = (side - height) // 2, (side - width) // 2
            square[top : top + height, left : left + width] = unit[np.ix_(*take)]
            y, x = r * (side + gap), c * (side + gap)
            canvas[y : y + side, x : x + side] = square
    return canvas
