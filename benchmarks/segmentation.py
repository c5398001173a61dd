#!/usr/bin/env python
"""U-Net trained on one gray scale, tested on unseen ones, with and without augmentation.

    python benchmarks/segmentation.py --data DATA --mse runs/vgg16_ct_mse/stage2/preset

Phantoms, and with --data real CT with spine masks (DATA is the folder that
``scripts/train_release.py`` names, with ``torso/labels.nii.gz`` and ``torso_dicom/labels.nii.gz``).
Every finished run stays in ``segmentation.json`` and is not done again; without --mse the condition
AdaIN-MSE is left out. ``python benchmarks/results_page.py`` makes the page and the
table of ``docs/studies.md``.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Runs what is missing; writes ``benchmarks/segmentation.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real CT")
    parser.add_argument("--mse", type=Path, help="preset trained with MSE")
    parser.add_argument("--sets", nargs="+", choices=["phantoms", "real"])
    parser.add_argument("--conditions", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before TensorFlow is imported
    from tfstyle.experiments import segmentation

    datasets = {"phantoms": segmentation.phantom_data}
    if options.data is not None:
        datasets["real"] = functools.partial(segmentation.real_data, options.data)
    if options.sets:
        datasets = {name: datasets[name] for name in options.sets}
    settings = segmentation.SegmentationSettings(
        **({"steps": options.steps} if options.steps else {})
    )
    result = segmentation.run_segmentation_study(
        datasets,
        options.output,
        conditions=options.conditions,
        seeds=range(options.seeds),
        settings=settings,
        mse=options.mse,
        progress=lambda done, total, label: print(f"{done}/{total} {label}", flush=True),
    )
    for row in result["summary"]:
        print(row["data"], row["condition"], *(row[m] for m in segmentation.MEASURES))


if __name__ == "__main__":
    main()
