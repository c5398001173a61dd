#!/usr/bin/env python
"""Methods of style transfer on phantoms: LPIPS, conditional inception score, structure kept.

    python benchmarks/style_transfer.py --mse runs/vgg16_ct_mse/stage2/preset

Every finished method stays in ``style_transfer.json`` and is not run again; without --mse the
method AdaIN-MSE is left out. ``python benchmarks/results_page.py`` makes the page.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Runs what is missing; writes ``benchmarks/style_transfer.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mse", type=Path, help="preset trained with MSE")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before TensorFlow is imported
    from tfstyle.experiments import style_transfer

    result = style_transfer.run_style_transfer_study(
        options.output,
        methods=options.methods,
        mse=options.mse,
        progress=lambda done, total, label: print(f"{done}/{total} {label}", flush=True),
    )
    print(f"classifier: {result['classifier']}")
    for row in style_transfer.table_rows(result):
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
