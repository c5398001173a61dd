"""Figures of ``docs/studies.md``, from the pictures that the studies kept beside their JSON.

python scripts/results_figures.py         # docs/results/segmentation.png, style_transfer.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "studies"
CONDITIONS = {
    "images": "image",
    "masks": "mask",
    "plain": "plain",
    "classical": "classical",
    "histogram_matching": "histogram\nmatching",
    "adain_mse": "AdaIN-MSE",
    "ours": "ours",
    "ours_classical": "ours and\nclassical",
}
GAP = 2  # pixels between the tiles of segmentation, twice that between those of style transfer


def segmentation() -> None:
    """One test phantom in every gray scale, its mask, and what each condition found."""
    domains = json.loads((STUDIES / "segmentation.json").read_text())["data"]["phantoms"]["domains"]
    rows = {}
    for name, label in CONDITIONS.items():
        strip = read(STUDIES / "segmentation_examples" / f"phantoms-{name}.png")
        size = strip.shape[1] // len(domains)
        rows[label] = [
            strip[: size - GAP, i * size :][:, : size - GAP] for i in range(len(domains))
        ]
    save("segmentation", domains, rows)


def style_transfer() -> None:
    """One content in the style of four protocols by every method."""
    about = json.loads((STUDIES / "style_transfer.json").read_text())["pictures"]
    columns = ["content", *about["content"]["caption"].split("Columns: ")[1].strip(".").split(", ")]
    rows = {}
    for name, facts in about.items():
        sheet = read(STUDIES / "style_transfer_pictures" / f"{name}.png")
        size = (sheet.shape[1] + 2 * GAP) // len(columns)
        tiles = [
            [sheet[r * size :, c * size :][: size - 2 * GAP, : size - 2 * GAP] for c in range(5)]
            for r in range(2)
        ]
        rows.setdefault("style", [np.full_like(tiles[0][0], 255), *tiles[0][1:]])
        rows[facts["label"].replace(" ", "\n", 1)] = tiles[1]
    save("style_transfer", columns, rows)


def read(path: Path) -> np.ndarray:
    """Gray values, uint8 (H, W)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def save(name: str, columns: Sequence[str], rows: dict[str, list[np.ndarray]]) -> None:
    """A grid of images with a name for each column and row."""
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.25 * len(columns) + 0.8, 1.25 * len(rows) + 0.3)
    )
    for (label, images), line in zip(rows.items(), axes):
        for axis, image in zip(line, images):
            axis.imshow(image, "gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis, title in zip(axes[0], columns):
        axis.set_title(title, fontsize=8)
    figure.subplots_adjust(wspace=0.04, hspace=0.04, left=0.1, right=0.995, top=0.96, bottom=0.005)
    path = ROOT / "docs" / "results" / f"{name}.png"
    figure.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    print(f"wrote {path}")


if __name__ == "__main__":
    segmentation()
    style_transfer()
