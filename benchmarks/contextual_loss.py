#!/usr/bin/env python
"""Time and peak memory of the contextual loss and its gradient, in blocks and dense.

    pip install 'tfstyle[benchmarks]'
    python benchmarks/contextual_loss.py

N = 1024, 4096 and 16384 positions of 256 channels are the maps of relu3_1 for images of 128, 256
and 512 pixels a side. Each case runs in a process of its own, which compiles the loss with XLA as
training does, and measures value and gradient by the generated image's features. Peak memory is
the process's largest resident size less its size when the inputs are in place. "dense" is the
loss with whole matrices and TensorFlow's own gradient (``method="dense"``). The cases of one N
take turns, and the ratio is the median over the turns. Writes ``contextual_loss.json`` and
``contextual_loss.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

POSITIONS = (1024, 4096, 16384)
METHODS = ("blockwise", "dense")
CHANNELS = 256


def resident_mb() -> float:
    """Resident size of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(method: str, positions: int, rounds: int, threads: int) -> dict:
    """One case, in this process."""
    import numpy as np
    import tensorflow as tf

    from tfstyle.losses import contextual_loss

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    side = round(positions**0.5)
    rng = np.random.default_rng(0)
    shape = (1, side, side, CHANNELS)
    # Activations behind a ReLU; the generated image shares part of the content.
    content = rng.normal(size=shape).astype(np.float32)
    generated = 0.7 * content + 0.7 * rng.normal(size=shape).astype(np.float32)
    g, x = tf.constant(np.maximum(generated, 0)), tf.constant(np.maximum(content, 0))
    del content, generated

    @tf.function(jit_compile=True, autograph=False)
    def step(g, x):
        with tf.GradientTape() as tape:
            tape.watch(g)
            loss = contextual_loss(g, x, method=method)[0]
        return loss, tape.gradient(loss, g)

    tf.reduce_sum(g).numpy()
    before = resident_mb()
    loss, gradient = step(g, x)
    result = {"loss": float(loss), "gradient_norm": float(tf.norm(gradient))}
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        loss, gradient = step(g, x)
        loss.numpy(), gradient.numpy()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {**result, "seconds": statistics.median(seconds), "peak_mb": peak - before}


def run_case(method: str, positions: int, rounds: int, threads: int) -> dict:
    """One case, in a process of its own."""
    command = [sys.executable, __file__, "--case", method, str(positions), str(rounds)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]}
    return json.loads(done.stdout.splitlines()[-1])


def plot(rows: list[dict], path: Path) -> None:
    """Time and memory over N, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("seconds", "peak_mb"),
        ("seconds, value and gradient", "peak memory above the inputs, MB"),
        strict=True,
    ):
        for method in METHODS:
            points = [row for row in rows if row["method"] == method and key in row]
            axes.loglog([p["positions"] for p in points], [p[key] for p in points], "o-")
            last = points[-1]
            axes.annotate(
                f" {method}", (last["positions"], last[key]), va="center", fontsize="small"
            )
        axes.set_xticks(POSITIONS, [f"{n}" for n in POSITIONS])
        axes.minorticks_off()
        axes.set_xlim(right=POSITIONS[-1] * 3)
        axes.set_xlabel("positions N (256 channels)")
        axes.set_title(label, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures all cases, or one with ``--case``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="processes a case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs=3, metavar=("METHOD", "N", "ROUNDS"), help="internal")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/contextual_loss.json")
    options = parser.parse_args()
    if options.case:
        method, positions, rounds = options.case
        print(json.dumps(measure(method, int(positions), int(rounds), options.threads)))
        return
    from tfstyle.runs import environment

    rows, ratios = [], {}
    for positions in POSITIONS:
        turns = 1 if positions >= 16384 else options.turns
        rounds = 1 if positions >= 16384 else 5
        found = {method: [] for method in METHODS}
        for _ in range(turns):
            for method in METHODS:
                found[method].append(run_case(method, positions, rounds, options.threads))
        for method, results in found.items():
            failed = [r["error"] for r in results if "error" in r]
            row = {"method": method, "positions": positions, "turns": turns}
            if failed:
                row["error"] = failed[0]
            else:
                row |= {key: statistics.median(r[key] for r in results) for key in results[0]}
            rows.append(row)
            print(row, flush=True)
        pairs = zip(*(found[method] for method in METHODS), strict=True)
        values = [
            a["seconds"] / b["seconds"] for a, b in pairs if "seconds" in a and "seconds" in b
        ]
        ratios[str(positions)] = statistics.median(values) if values else None
    largest = next(r for r in rows if r["positions"] == 16384 and r["method"] == "blockwise")
    result = {
        "threads": options.threads,
        "channels": CHANNELS,
        "rows": rows,
        "time_blockwise_over_dense": ratios,
        "reached": {
            "peak_below_1500_mb_at_16384": largest.get("peak_mb", float("inf")) < 1500,
            "at_most_1.2_of_dense_at_4096": (ratios["4096"] or float("inf")) <= 1.2,
        },
        "environment": environment(),
    }
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)
    plot(rows, options.output.with_suffix(".png"))
    print(json.dumps({key: result[key] for key in ("time_blockwise_over_dense", "reached")}))


if __name__ == "__main__":
    main()
