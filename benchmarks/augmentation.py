#!/usr/bin/env python
"""Images per second of StyleAugmentation, on batches of phantoms.

    python benchmarks/augmentation.py --threads 1

The layer has the default preset and a bank of eight styles, and runs in a ``tf.function``, as in a
``tf.data`` pipeline. Variants: a share p of stylized images, with and without the gate; styles of
the same batch; the same under XLA, as in a compiled model; and
``keras.layers.RandomContrast`` to compare with. They take turns, batch by batch. Where other work
shares the machine, CPU seconds are what to read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

VARIANTS = {
    "bank": {},
    "bank, no gate": {"gate": None},
    "bank, p=0.5": {"p": 0.5},
    "batch": {"styles": "batch"},
    "bank, XLA": {"jit_compile": True},
}


def build(names: list[str], size: int, batch: int, preset: str | None) -> tuple[dict, dict]:
    """A function for each variant that augments one batch, and the layers."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tfstyle
    from tfstyle.data import scan_to_unit, spine_phantom

    model = tfstyle.from_preset(preset)
    windows = ("bone", "soft_tissue", "wide", "spine")
    scans = [spine_phantom(seed, size).scan for seed in range(batch)]
    images = tf.constant(np.concatenate([scan_to_unit(scan, "spine_bone") for scan in scans]))
    styles = [scan_to_unit(spine_phantom(100 + i, 256).scan, windows[i % 4])[0] for i in range(8)]
    bank = tfstyle.StyleBank.encode(model, styles)
    functions, layers = {}, {}
    for name in names:
        options = {"p": 1.0, "styles": bank, "seed": 0, **VARIANTS[name]}
        compiled = options.pop("jit_compile", False)
        layers[name] = tfstyle.StyleAugmentation(model, **options)
        functions[name] = tf.function(layers[name], jit_compile=compiled)
    layers["RandomContrast"] = keras.layers.RandomContrast(0.5, value_range=(0, 1), seed=0)
    functions["RandomContrast"] = tf.function(layers["RandomContrast"])
    return {name: lambda f=f: f(images).numpy() for name, f in functions.items()}, layers


def measure(names: list[str], size: int, options: argparse.Namespace) -> list[dict]:
    """One row a variant."""
    import numpy as np

    steps, layers = build(names, size, options.batch, options.preset)
    first = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        first[name] = time.perf_counter() - start
        step()
    seconds = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = []
    for name, values in seconds.items():
        wall, cpu = np.median(values, axis=0)
        row = {
            "size": size,
            "variant": name,
            "images_per_second": round(options.batch / float(wall), 2),
            "cpu_seconds_per_image": round(float(cpu) / options.batch, 5),
            "first_call_seconds": round(first[name], 1),
        }
        if name in VARIANTS:
            row["counts"] = layers[name].counts
        rows.append(row)
    return rows


def main() -> None:
    """Measures every size and variant; writes ``benchmarks/augmentation.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", help="default: the default preset")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before TensorFlow is imported
    from tfstyle import presets
    from tfstyle.runs import environment

    rows = []
    for size in options.sizes:
        rows += measure(options.variants, size, options)
        for row in rows[-len(options.variants) - 1 :]:
            print(json.dumps(row), flush=True)
    result = {
        "preset": options.preset or presets.DEFAULT,
        "threads": options.threads,
        "batch": options.batch,
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
        "rows": rows,
        "environment": environment(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
