#!/usr/bin/env python
"""Which depth, which losses: the same short training at several settings, then the same test.

    python benchmarks/depth.py --data DATA

Every setting changes one thing of the release's first stage (``scripts/train_release.py``), is
trained for the same number of steps from the same seed, and is measured on the test series at
512x512.
The schedule is short, so figures are for comparison among themselves alone. Finished settings are
kept in ``runs/depth``: the command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

import train_release as release  # noqa: E402

SETTINGS = {
    "release (relu1_2)": {},
    "relu2_1": {"layer": "relu2_1"},
    "relu3_1": {"layer": "relu3_1"},
    "relu4_1 (the paper's tap)": {"layer": "relu4_1"},
    "relu1_2, contextual and moments alone (the paper's losses)": {
        "spatial_weight": 0.0,
        "histogram_weight": 0.0,
        "paired_weight": 0.0,
    },
    "relu1_2, MSE instead of contextual": {
        "content_loss": "mse",
        "content_layers": {"relu1_2": 1.0},
    },
}


def main() -> None:
    """Trains and measures every setting; writes ``benchmarks/depth.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/depth.json"))
    options = parser.parse_args()
    rows = []
    for number, (name, changes) in enumerate(SETTINGS.items()):
        folder = Path("runs/depth") / f"{number}-{options.steps}"
        start, seconds = time.time(), None  # None where an earlier call trained it
        if not (folder / "preset" / "preset.json").is_file():
            # Without calibration, which would hide part of what depth and losses do.
            rules = {**release.RECIPE, "calibrate": False, "epochs": 1, **changes}
            release.train_stage(options.data, folder, options.steps, rules)
            seconds = round(time.time() - start, 1)
        result = release.evaluate(
            options.data, str(folder / "preset"), folder / f"depth_{number}.json", options.pairs
        )
        rows.append(
            {
                "setting": name,
                "changes": changes,
                "training_seconds": seconds,
                "style_distance_ratio": result["style_distance_ratio"],
                "style_distance_ratio_all": result["style_distance_ratio_all"],
                "structure": result["structure"],
            }
        )
        text = json.dumps(
            {
                "steps": options.steps,
                "pairs": options.pairs,
                "rows": rows,
                "environment": result["environment"],
            },
            indent=1,
        )
        options.output.write_text(text + "\n")
        print(name, result["style_distance_ratio"], result["structure"], flush=True)


if __name__ == "__main__":
    main()
