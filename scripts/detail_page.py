#!/usr/bin/env python
"""Writes ``docs/results/detail.html``: what guided detail keeps, in pictures and figures.

    python scripts/detail_page.py

Pictures are CT slices of the package pydicom-data, with a part enlarged; the figures come from
``benchmarks/detail.json``, ``stylize.json`` and ``throughput.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from tfstyle import StyleTransfer
from tfstyle.data import Window
from tfstyle.experiments import page
from tfstyle.experiments.extra_ct import extra_ct
from tfstyle.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
#: Content and style by their numbers, windows, and the middle of the enlarged part, in pixels.
ROWS = (
    (1, (40, 400), 0, (-600, 1500), (300, 190)),
    (0, (400, 1500), 1, (40, 400), (330, 256)),
    (1, (0, 2500), 0, (50, 250), (300, 300)),
)
ZOOM = 96
VARIANTS = {
    "the slice itself": "the content's own slice in the style's window: a perfect transfer",
    "guided": "the default of stylize",
    "plain": "the decoder's image",
    "AdaIN with MSE, plain": "the same recipe with MSE as content loss",
    "AdaIN with MSE, guided": "",
    "histogram matching (no network)": "",
}


def pictures(model: StyleTransfer) -> str:
    """Rows of images and their enlarged parts."""
    scans = extra_ct()[1:3]
    parts = []
    for content, content_window, style, style_window, (row, column) in ROWS:
        x = Window(*content_window).to_unit(scans[content].pixels[0])
        y = Window(*style_window).to_unit(scans[style].pixels[0])
        truth = Window(*style_window).to_unit(scans[content].pixels[0])
        images = {
            "Content": (x, "window {:g} / {:g}".format(*content_window)),
            "Style": (y, "another scan, window {:g} / {:g}".format(*style_window)),
            "Guided": (model.stylize(x, y), "local tone curves on the content's own pixels"),
            "Plain": (model.stylize(x, y, detail="plain"), "the decoder's image"),
            "The content in the style's window": (truth, "what a perfect transfer would give"),
        }
        whole, zoomed = [], []
        for name, (image, words) in images.items():
            halved = image.reshape(256, 2, 256, 2).mean((1, 3))
            whole.append(page.image(halved, name, words))
            top, left = row - ZOOM // 2, column - ZOOM // 2
            if name == "Style":
                zoomed.append("<figure></figure>")
                continue
            part = image[top : top + ZOOM, left : left + ZOOM]
            zoomed.append(page.image(np.kron(part, np.ones((3, 3))), name, "enlarged three times"))
        style_rule = 'style="grid-template-columns: repeat(5, 1fr)"'
        parts.append(
            f'<div class="card"><div class="row" {style_rule}>{"".join(whole)}</div>'
            f'<div class="row" {style_rule}>{"".join(zoomed)}</div></div>'
        )
    return "\n".join(parts)


def cell(row: dict, key: str, digits: int = 3) -> str:
    """A median with its quartiles."""
    found = row.get(key, {})
    if "median" not in found:
        return "–"
    low, high = found["quartiles"]
    return f"{found['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def figures(name: str) -> dict:
    """A benchmark's results."""
    return json.loads((ROOT / "benchmarks" / name).read_text())


def main() -> None:
    """Writes the page."""
    detail, speed, flow = (figures(f"{name}.json") for name in ("detail", "stylize", "throughput"))
    keys = ("ratio", "structure", "lpips", "edges", "cnr", "nothing")
    head = [
        "",
        "style distance left",
        "structure (SSIM)",
        "LPIPS to the slice itself",
        "edges moved, mm",
        "inserts: CNR after / before",
        "CNR where nothing is, after − before",
    ]
    rows = [
        [name, *(cell(detail["variants"][name], key) for key in keys)]
        for name in VARIANTS
        if name in detail["variants"]
    ]
    others = [
        [name, *(cell(row, key) for key in keys)]
        for name, row in detail["variants"].items()
        if name not in VARIANTS
    ]
    times = [
        [
            f"{row['size']} × {row['size']}, batch {row['batch']}, {row['style']} style",
            *(f"{row['seconds'][name]:.3f}" for name in ("torch", "plain", "guided")),
            *(f"{row['times_faster'][name]:.1f}" for name in ("plain", "guided")),
            *(f"{row['memory_mb'][name]}" for name in ("torch", "plain", "guided")),
        ]
        for row in speed["rows"]
    ]
    last = flow["runs"][-1]
    flicker = [
        [
            name,
            f"{row['content']:.4f}",
            f"{row['plain']:.4f}",
            *(f"{row[f'guided, sigma {s}']['difference']:.4f}" for s in (0, 1)),
            *(f"{row[f'guided, sigma {s}']['flicker']:.4f}" for s in (0, 1)),
        ]
        for name, row in detail["slices"].items()
    ]
    text = page.page(
        "Guided detail",
        "<h1>Guided detail: the content's own pixels, the style's gray scale</h1>",
        '<p class="lead">The network looks at a small image; what it did to the gray scale is '
        "applied to the content at full size as local tone curves that never fall. Structure "
        "that the content has not cannot appear.</p>",
        '<p class="notice">Not a medical device, not for diagnosis.</p>',
        pictures(StyleTransfer.from_preset("vgg16_ct")),
        f"<h2>How much stays, how much arrives</h2><p>{detail['pairs']} pairs of slices of a "
        "series that was not trained on, 512 × 512, each slice in another window; medians and "
        "quartiles. Style distance left is W(generated, style) / W(content, style) of the "
        "gray-level histograms. Inserts of 2 to 10 mm and 30 HU were planted in even soft "
        "tissue. The slice itself in the style's window shows what these measures say of a "
        "perfect transfer.</p>",
        page.table(head, rows, range(1, 7)),
        "<details><summary>Other ways to guide</summary>"
        + page.table(head, others, range(1, 7))
        + "</details>",
        "<p class='soft'><code>python benchmarks/detail.py --data DATA</code></p>",
        "<h2>From slice to slice</h2><p>Mean difference of neighbouring slices in gray levels, "
        "and flicker: what a slice changes when it gets its neighbour's tone curves, without and "
        "with smoothing along the slices.</p>",
        page.table(
            ["windows", "content", "plain", "guided", "smoothed", "flicker", "smoothed"],
            flicker,
            range(1, 7),
        ),
        f"<h2>Speed</h2><p>Seconds of a call with {speed['threads']} threads on a CPU, against "
        "eager PyTorch with the same network and weights; memory above the start in MB.</p>",
        page.table(
            [
                "",
                "PyTorch",
                "plain",
                "guided",
                "plain ×",
                "guided ×",
                "MB PyTorch",
                "plain",
                "guided",
            ],
            times,
            range(1, 9),
        ),
        "<p class='soft'><code>python benchmarks/stylize.py</code></p>",
        f"<h2>A long series</h2><p>{last['slices']} slices of 512 × 512 from JPEG 2000 to derived "
        f"DICOM: {last['slices_per_second']} slices a second on {flow['cpus']} cores, "
        f"{last['share_outside_network']:.1%} of the time outside the network, "
        f"{flow['slices_per_night_of_8_hours']} slices in a night of 8 hours. Killed "
        f"{flow['killed']['kills']} times and started again, stored values differed by at most "
        f"{flow['killed']['largest_difference_to_the_run_in_one']} of 65535 from a run in one.</p>"
        "<p class='soft'><code>python benchmarks/throughput.py --data DATA</code></p>",
    )
    target = ROOT / "docs" / "results" / "detail.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text.encode())
    print(target)


if __name__ == "__main__":
    main()
