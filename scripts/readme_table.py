#!/usr/bin/env python
"""Writes the headline table of the README, and the table of presets, from their JSON files.

    python scripts/readme_table.py

The first is that of ``benchmarks/truth.json``, and stands between the marks ``<!-- truth -->`` and
``<!-- /truth -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, TRUTH = ROOT / "README.md", ROOT / "benchmarks" / "truth.json"
PRESETS = ROOT / "tfstyle" / "presets" / "README.md"
MARKS = re.compile(r"(<!-- truth -->\n).*?(<!-- /truth -->)", re.S)
#: Methods of the table and their names, the best last.
ROWS = {
    "nothing": "nothing done",
    "histogram_matching": "histogram matching",
    "foreground_histogram_matching": "histogram matching above the floor",
    "nyul": "Nyúl's landmarks",
    "vgg16_ct": "the paper's network, on few scans, `vgg16_ct`",
    "ours": "**tone transfer**",
}
#: Titles, keys of the figures, and how they are written.
COLUMNS = (
    ("mean error", "mean", "{:.3f}"),
    ("median", "median", "{:.3f}"),
    ("90 %", "percentile_90", "{:.3f}"),
    ("better than histogram matching", "better_than_histogram_matching", "{:.0%}"),
    ("worse than nothing done", "worse_than_nothing", "{:.0%}"),
    ("one gray scale, median", "same_scale_median", "{:.3f}"),
    ("structure kept", "structure_mean", "{:.3f}"),
)
#: Figures that compare a method with itself.
OWN = {("histogram_matching", "better_than_histogram_matching"), ("nothing", "worse_than_nothing")}


def table(truth: Mapping) -> str:
    """The table in Markdown, of the methods that were measured.

    Args:
        truth: What ``benchmarks/truth.py`` wrote.
    """
    settings = truth["settings"]
    lines = [
        f"{settings['count']} pairs for each of {len(truth['folds'])} patients left out "
        "(`benchmarks/truth.json`):",
        "",
        f"| | {' | '.join(title for title, *_ in COLUMNS)} |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name, words in ROWS.items():
        figures = truth["methods"].get(name, {}).get("all_folds")
        if figures is None:
            continue
        cells = [
            form.format(figures[key]).replace("%", " %")
            if figures.get(key) is not None and (name, key) not in OWN
            else "–"
            for _, key, form in COLUMNS
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def filled(readme: str, truth: Mapping) -> str:
    """The text of the README with the table of a result.

    Raises:
        SystemExit: if the marks are not there once.
    """
    part = table(truth)
    text, count = MARKS.subn(lambda found: f"{found[1]}{part}\n{found[2]}", readme)
    if count != 1:
        raise SystemExit("README.md: needs the marks <!-- truth --> and <!-- /truth --> once.")
    return text


def presets_text() -> str:
    """The text of ``tfstyle/presets/README.md``: the table of presets in Markdown."""
    from tfstyle import presets

    head = ["preset", "class", "what", "encoder's weights", "training data", "figures", "license"]
    lines = [head, ["---"] * len(head)]
    for name, row in presets.table().items():
        lines.append(
            [
                f"[`{name}`]({name}/README.md)",
                f"`{row['class']}`, {row['kilobytes']} kB",
                *(row[key] for key in ("description", "weights", "data", "figures", "licence")),
            ]
        )
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# Presets

Models that come with tfstyle, for `tfstyle.from_preset(name)` and `tfstyle stylize --preset NAME`.
The first is the default. Those of the class `UNet` are for `tfstyle segment --model NAME`. Written
by `scripts/readme_table.py` from the `preset.json` of each folder.

{rows}

A preset is a folder of plain files: `preset.json` (format, configuration, checksum of the weights,
model card), `weights.npz` (arrays, no pickles) and a model card for people. `save_to_preset` writes
the first two for a model of your own, and `from_preset` takes the folder's path.
"""


def main() -> None:
    """Writes both tables."""
    text = README.read_text(encoding="utf-8")
    README.write_text(filled(text, json.loads(TRUTH.read_text())), encoding="utf-8")
    PRESETS.write_text(presets_text(), encoding="utf-8")
    print(README, PRESETS)


if __name__ == "__main__":
    main()
