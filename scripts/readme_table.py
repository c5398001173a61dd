#!/usr/bin/env python
"""Writes the headline table of the README, and the table of presets, from their JSON files.

    python scripts/readme_table.py

The first is that of ``benchmarks/truth.json``, and stands between the marks ``<!-- truth -->`` and
``<!-- /truth -->``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies import common
from tfstyle import presets

ROOT = Path(__file__).resolve().parent.parent
README, TRUTH = ROOT / "README.md", ROOT / "benchmarks" / "truth.json"
PRESETS = ROOT / "tfstyle" / "presets" / "README.md"
#: Methods of the table and their names, the best last.
ROWS = {
    "nothing": "nothing done",
    "histogram_matching": "histogram matching",
    "foreground_histogram_matching": "histogram matching above the floor",
    "nyul": "Nyúl's landmarks",
    "vgg16_ct": "the paper's network, on few scans, `vgg16_ct`",
    "ours": "**tone transfer**",
}


def filled(readme: str, truth: Mapping) -> str:
    """The text of the README with the table of what ``benchmarks/truth.py`` wrote."""
    return common.filled(readme, "truth", common.render("readme_table.md", **truth, rows=ROWS))


def presets_text() -> str:
    """The text of ``tfstyle/presets/README.md``: the table of presets in Markdown."""
    return common.render("presets.md", table=presets.table()) + "\n"


def main() -> None:
    """Writes both tables."""
    text = README.read_text(encoding="utf-8")
    README.write_text(filled(text, json.loads(TRUTH.read_text())), encoding="utf-8")
    PRESETS.write_text(presets_text(), encoding="utf-8")
    print(README, PRESETS)


if __name__ == "__main__":
    main()
