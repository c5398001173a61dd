"""Pairs of CT slices as pictures: good ones, median ones, and the worst ten.

    python -m studies.gallery --models runs/tone     # docs/results/gallery.md and its pictures
    python -m studies.gallery --readme               # docs/tone_ct.png, the figure of the README

The scans are those that pydicom and pydicom-data carry, five patients. Each is the content in turn,
the others give the styles, and the model is ``fold-PATIENT/ours.keras`` of ``--models``, trained
without that patient (``scripts/train_tone.py``); where it is missing the default preset is used,
which was trained on these scans, and the page says so. Pairs are drawn as in
``benchmarks/truth.py``, whose error is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from ct_pairs import GrayScale, Pair, draw_pairs
from ct_scans import ScanRecord, load_scans
from matplotlib import colormaps

import tfstyle
from studies import common
from tfstyle.data import WINDOWS
from tfstyle.metrics import tone_error
from tfstyle.tone.model import LOW_CONFIDENCE

NAMES = {
    "chest_crop": "chest, GE",
    "head": "head, CQ500",
    "head_base": "base of the skull, Hitachi",
    "pancreas": "abdomen, NIH Pancreas-CT",
    "spine_crop": "vertebra, Siemens",
}
inferno = colormaps["inferno"]
COLUMNS = ("content", "style", "generated", "right answer", "error")
#: Content and window, style and window of the README. The last is hard on purpose: a head shows no
#: lung and little fat.
README = (
    ("pancreas", "wide", "spine_crop", "soft_tissue"),
    ("head", "bone", "pancreas", "soft_tissue"),
    ("spine_crop", "abdomen", "chest_crop", "spine_bone"),
    ("chest_crop", "wide", "head", "brain"),
)
#: Pairs of the parts of the page.
GOOD, MEDIAN, WORST = 4, 4, 10
#: A good or median pair had to change, and its right answer shows something: least error with
#: nothing done, and least share of the pixels that count in which it is neither black nor white.
CHANGED, SHOWN = 0.1, 0.5
PARTS = {
    "good": ("Good", "The smallest errors among pairs that had to change and show something."),
    "median": ("Median", "Errors around the median, among the same."),
    "worst": (
        f"The worst {WORST}",
        "The largest errors of all pairs. A style that hardly shows a tissue of the content, or "
        "shows it clipped, leaves its gray level to be guessed. Where the error is that of nothing "
        "done, the model took both for one gray scale and changed nothing.",
    ),
}
#: Errors of this much and more are white.
LARGEST_ERROR = 0.3
#: Rows of one picture.
ROWS = 4


@dataclass(frozen=True, eq=False)
class Row:
    """A pair, what was generated, float32 (H, W) in [0, 1], its error, and that of the content.

    Beside them how sure the model was, from 0 to 1.
    """

    pair: Pair
    generated: np.ndarray
    error: float
    nothing: float
    confidence: float

    @property
    def telling(self) -> bool:
        """Whether the pair had to change, and its right answer shows something."""
        right = self.pair.right[self.pair.mask]
        shown = np.mean((right > 0) & (right < 1))
        return not self.pair.same_scale and self.nothing > CHANGED and shown > SHOWN


def measured(pair: Pair, model) -> Row:
    """Stylizes a pair and measures it."""
    generated = model.stylize(pair.content, pair.style)
    error, nothing = (
        tone_error(pair.right, image, pair.hu, pair.mask)["balanced"]
        for image in (generated, pair.content)
    )
    confidence = float(model.confidence(pair.content, pair.style)[0])
    return Row(pair, generated, error, nothing, confidence)


def chosen(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Good, median and worst rows, best first and worst first.

    Good and median ones are telling, and no two show the same content and style scan. The worst
    are the worst of all.
    """
    order = sorted(rows, key=lambda row: row.error)
    median = float(np.median([row.error for row in rows]))
    telling = [row for row in order if row.telling]
    seen: set[tuple[str, str]] = set()

    def distinct(of: Sequence[Row], count: int) -> list[Row]:
        found: list[Row] = []
        for row in of:
            scans = (row.pair.content_id, row.pair.style_id)
            if len(found) < count and scans not in seen:
                seen.add(scans)
                found.append(row)
        return found

    return {
        "good": distinct(telling, GOOD),
        "median": distinct(sorted(telling, key=lambda row: abs(row.error - median)), MEDIAN),
        "worst": order[: -WORST - 1 : -1],
    }


def scale_text(scale: GrayScale) -> str:
    """A gray scale in two lines: what the window shows, and what was done behind it."""
    name = scale.name.replace("_", " ") if scale.name in WINDOWS else "window"
    shown = f"{scale.window.lower:.0f} … {scale.window.upper:.0f} HU".replace("-", "\N{MINUS SIGN}")
    more = str(scale).removeprefix(scale.name).removeprefix(", ")
    return f"{name} {shown}\n{more}".rstrip()


def draw(rows: Sequence[Row], path: Path, width: int = 800) -> None:
    """Writes a picture of rows, `width` pixels wide: content, style, generated, answer, error."""
    cells = []
    for number, row in enumerate(rows):
        pair = row.pair
        off = np.where(pair.mask, np.abs(row.generated - pair.right), 0.0) / LARGEST_ERROR
        texts = (
            f"{NAMES[pair.content_id]}\n{scale_text(pair.content_scale)}",
            f"{NAMES[pair.style_id]}\n{scale_text(pair.style_scale)}",
            f"confidence {row.confidence:.2f}\n",
            "the content's HU in\nthe scale of the style",
            f"mean {row.error:.3f}\nnothing done {row.nothing:.3f}",
        )
        images = [_square(i) for i in (pair.content, pair.style, row.generated, pair.right, off)]
        images[-1] = inferno(images[-1])[..., :3]
        heads = [f"{name.upper()}\n\n" * (not number) for name in COLUMNS]
        cells.append([(h + text, i) for h, text, i in zip(heads, texts, images)])
    figure, axes = common.titled(cells, size=(2, 2.55), fontsize=8.5)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0, rect=(0, 0, 1, 0.99))
    for axis, row in zip(axes[:, -1], rows):
        axis.contour(_square(row.pair.body), [0.5], colors="0.6", linewidths=0.5)
    grays = np.repeat(np.arange(0, 256, 3)[:, None] / 255, 3, axis=1)
    colors = np.concatenate([grays, inferno(np.linspace(0, 1, 48))[:, :3]])
    common.save_small(figure, path, width / 10, colors)


def _square(image: np.ndarray) -> np.ndarray:
    """The image in the middle of a black square."""
    side = max(image.shape)
    spare = [side - length for length in image.shape]
    return np.pad(image, [(gap // 2, gap - gap // 2) for gap in spare])


def write_page(rows: Sequence[Row], folder: Path, missing: Sequence[str]) -> None:
    """Writes the page and its pictures."""
    parts = []
    for part, found in chosen(rows).items():
        title, text = PARTS[part]
        names = []
        for number, start in enumerate(range(0, len(found), ROWS), 1):
            names.append(f"{part}-{number}.png")
            draw(found[start : start + ROWS], folder / "gallery" / names[-1])
        parts.append({"title": title, "text": text, "pictures": names, "rows": found})
    errors = np.array([row.error for row in rows])
    common.write_page(
        folder / "gallery.md",
        "gallery.md",
        parts=parts,
        names=NAMES,
        scale=scale_text,
        missing=[NAMES[name] for name in missing],
        patients=len(NAMES),
        largest=LARGEST_ERROR,
        count=len(rows),
        mean=errors.mean(),
        median=np.median(errors),
        percentile=np.percentile(errors, 90),
        nothing=np.mean([row.nothing for row in rows]),
        low=LOW_CONFIDENCE,
        unsure=sum(row.confidence < LOW_CONFIDENCE for row in rows),
    )


def readme_rows(scans: dict[str, ScanRecord], model) -> list[Row]:
    """The rows of the README: middle slices as they are, cut to the body once they are stylized."""
    rows = []
    for content_id, content_window, style_id, style_window in README:
        scales = [GrayScale(name, WINDOWS[name]) for name in (content_window, style_window)]
        (hu, body), (style_hu, style_body) = (
            (scan.hu[len(scan.hu) // 2].astype(np.float32), scan.body[len(scan.hu) // 2])
            for scan in (scans[content_id], scans[style_id])
        )
        content, style, right = scales[0](hu), scales[1](style_hu), scales[1](hu)
        mask = body & (content > 0) & (content < 1)
        ids = (content_id, style_id)
        row = measured(Pair(content, style, right, hu, body, mask, *ids, *scales), model)
        shown = {"content": content, "right": right, "body": body, "mask": mask}
        cut = {name: _framed(image, body) for name, image in shown.items()}
        pair = replace(row.pair, style=_framed(style, style_body), **cut)
        rows.append(replace(row, pair=pair, generated=_framed(row.generated, body)))
    return rows


def _framed(image: np.ndarray, body: np.ndarray) -> np.ndarray:
    """The square around the body, zero beyond the picture."""
    spans = [np.flatnonzero(body.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    side = max(last + 1 - first for first, last in spans) + 16
    y, x = ((first + last + 1 + side) // 2 for first, last in spans)
    return np.pad(image, side)[y : y + side, x : x + side]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page and its pictures, or the figure of the README."""
    parser = common.parser(__doc__)
    parser.add_argument("--models", type=Path, help="folder with fold-PATIENT/ours.keras")
    parser.add_argument("--pairs", type=int, default=40, help="of each patient (default: 40)")
    parser.add_argument("--readme", action="store_true", help="draw the figure of the README alone")
    parser.add_argument("--docs", type=Path, default=common.ROOT / "docs", help="where to write")
    options = common.parse(parser, arguments)
    logging.getLogger("tfstyle").setLevel(logging.ERROR)  # low confidences are on the page
    scans, missing, rows = load_scans(None), [], []
    if options.readme:
        draw(readme_rows(scans, tfstyle.from_preset()), options.docs / "tone_ct.png", width=1200)
        return
    for fold in sorted(scans):
        file = common.model_without(options.models, fold)
        missing += [] if file else [fold]
        model = keras.saving.load_model(file) if file else tfstyle.from_preset()
        found = [measured(pair, model) for pair in draw_pairs(scans, {fold}, options.pairs)]
        print(fold, f"median error {np.median([row.error for row in found]):.3f}", flush=True)
        rows += found
    folder = options.docs / "results"
    write_page(rows, folder, missing)
    print(folder / "gallery.md")


if __name__ == "__main__":
    main()
