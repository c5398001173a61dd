#!/usr/bin/env python
"""Seconds of stylizing: the tone transfer, histogram matching, the paper's network, PyTorch's.

    pip install '.[benchmarks,baselines]'
    python benchmarks/stylize.py

Gray levels in and out, images of noise smoothed. Four implementations, each in a process of its
own with the same number of threads, take turns call by call: ``tone`` is the default preset,
``match_histograms`` scikit-image's, ``network`` the StyleTransfer of ``--preset``, and ``torch``
the same network in eager PyTorch, channels last, inference mode. A style is ``new`` (an image of
the content's size) or ``stored`` (a code, or PyTorch's moments; histogram matching always sees the
image). The images of PyTorch and of ``network`` must agree to 1e-4 or the benchmark stops. Memory
is the highest resident size of the process above its size before the first call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from workers import Worker  # noqa: E402

NAMES = ("tone", "match_histograms", "network", "torch")
STYLES = ("new", "stored")
#: Most time of `tone` at 512x512, in that of `match_histograms`.
GOALS = {"new": 0.7, "stored": 0.3}


def images(size: int, count: int, seed: int) -> np.ndarray:
    """Smooth random images (count, size, size, 1) in [0, 1]."""
    grain = np.random.default_rng(seed).random((count, size, size, 1))
    for axis in (1, 2):
        grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
    return grain.astype(np.float32)


def resident(key: str) -> float:
    """A size of this process in MB, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def write_weights(preset: str, path: Path) -> None:
    """The preset's convolutions and normalisation for PyTorch; needs TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tfstyle
    from tfstyle.encoders.base import PREPROCESSING

    model = tfstyle.StyleTransfer.from_preset(preset)
    rule = PREPROCESSING[model.encoder.preprocessing]
    arrays = {"normalisation": np.array([rule["mean"], rule["std"]]), "scale": rule["scale"]}
    for part, layers in (
        ("encoder", model.encoder.weighted_layers()),
        ("decoder", model.decoder.steps),
    ):
        for i, layer in enumerate(layer for layer in layers if layer.weights):
            arrays[f"{part}{i}"], arrays[f"{part}{i}_bias"] = layer.get_weights()
    if any("pool" in layer.name for layer in model.encoder.graph.layers):
        raise SystemExit(f"{preset}: the PyTorch twin is written for a tap before the first pool.")
    np.savez(path, **arrays)


def torch_calls(weights: Path, threads: int):
    """A function of content, style and whether the style is stored."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    with np.load(weights) as archive:
        arrays = dict(archive)
    parts = {}
    for part, mode in (("encoder", "zeros"), ("decoder", "reflect")):
        parts[part] = []
        while (name := f"{part}{len(parts[part])}") in arrays:
            kernel = torch.from_numpy(arrays[name].transpose(3, 2, 0, 1))
            layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, padding_mode=mode)
            with torch.no_grad():
                layer.weight.copy_(kernel)
                layer.bias.copy_(torch.from_numpy(arrays[f"{name}_bias"]))
            parts[part].append(layer.to(memory_format=torch.channels_last))
    scale = float(arrays["scale"])
    mean, std = (
        torch.tensor(row, dtype=torch.float32).view(1, 3, 1, 1) for row in arrays["normalisation"]
    )

    def encode(x):
        x = ((x * scale - mean) / std).contiguous(memory_format=torch.channels_last)
        for layer in parts["encoder"]:
            x = functional.relu(layer(x), inplace=True)
        return x

    def moments(x):
        variance, average = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return average, torch.sqrt(variance + 1e-5)

    stored = {}

    def call(content, style, keep):
        with torch.inference_mode():
            content, style = (torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in (content, style))
            if not keep or "code" not in stored:
                stored["code"] = moments(encode(style))
            average, spread = stored["code"]
            features = encode(content)
            own_average, own_spread = moments(features)
            x = (features - own_average) / own_spread * spread + average
            for layer in parts["decoder"][:-1]:
                x = functional.relu(layer(x), inplace=True)
            return parts["decoder"][-1](x).clamp(0, 1).numpy().transpose(0, 2, 3, 1)

    return call


def tensorflow_calls(preset: str | None):
    """The same with ``stylize`` of a preset."""
    import tfstyle

    model = tfstyle.from_preset(preset)
    stored = {}

    def call(content, style, keep):
        if keep and "code" not in stored:
            stored["code"] = model.encode_style(style[0])
        return model.stylize(content, stored["code"] if keep else style, batch_size=len(content))

    return call


def matching_calls():
    """The same with scikit-image, image by image."""
    from skimage.exposure import match_histograms

    def call(content, style, keep):
        return np.stack([match_histograms(image, style[0]) for image in content])

    return call


def work(options) -> None:
    """A worker: for each ``new`` or ``stored`` that comes in, one call and its seconds."""
    if options.worker == "torch":
        call = torch_calls(options.weights, options.threads)
    elif options.worker == "match_histograms":
        call = matching_calls()
    else:
        call = tensorflow_calls(options.preset if options.worker == "network" else None)
    content = images(options.sizes[0], options.batches[0], 0)
    style = images(options.sizes[0], 1, 1)
    before = resident("VmRSS")
    for line in sys.stdin:
        start = time.perf_counter()
        call(content, style, line.strip() == "stored")
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, resident("VmHWM") - before]), flush=True)


def check(options) -> float:
    """Largest difference of the images of PyTorch and of the network."""
    content, style = images(96, 2, 0), images(96, 1, 1)
    expected = tensorflow_calls(options.preset)(content, style, False)
    found = torch_calls(options.weights, 1)(content, style, False)
    difference = float(np.abs(expected - found).max())
    if not difference <= 1e-4:
        raise SystemExit(f"PyTorch's image differs by {difference}: not the same network.")
    return difference


def measure(size: int, batch: int, options) -> list[dict]:
    """Two rows: seconds of a call with a new and with a stored style, memory, and ratios."""
    rounds = options.rounds if size * size * batch < 2**22 else max(options.rounds // 2, 3)
    rows = []
    workers = {}
    try:
        for style in STYLES:
            for name in NAMES:
                arguments = ["--worker", name, "--weights", str(options.weights)]
                arguments += ["--preset", options.preset, "--threads", str(options.threads)]
                arguments += ["--sizes", str(size), "--batches", str(batch)]
                workers[name] = Worker(__file__, arguments, options.threads)
            seconds, memory = {name: [] for name in NAMES}, {}
            for turn in range(rounds + 2):
                for name in NAMES:
                    elapsed, memory[name] = workers[name].ask(style)
                    if turn >= 2:  # two rounds to warm up
                        seconds[name].append(elapsed)
            for worker in workers.values():
                worker.close()
            matching, torch = (np.array(seconds[n]) for n in ("match_histograms", "torch"))
            rows.append(
                {
                    "size": size,
                    "batch": batch,
                    "style": style,
                    "rounds": rounds,
                    "seconds": {n: round(float(np.median(s)), 4) for n, s in seconds.items()},
                    "tone_of_match_histograms": round(
                        float(np.median(np.array(seconds["tone"]) / matching)), 2
                    ),
                    "network_times_faster_than_torch": round(
                        float(np.median(torch / np.array(seconds["network"]))), 2
                    ),
                    "memory_mb": {n: round(m) for n, m in memory.items()},
                    "load_average": os.getloadavg()[0],
                }
            )
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def main() -> None:
    """Measures every size, batch and style; writes ``benchmarks/stylize.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="vgg16_ct")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    from tfstyle.training import environment

    with tempfile.TemporaryDirectory() as folder:
        options.weights = Path(folder) / "weights.npz"
        write_weights(options.preset, options.weights)
        difference = check(options)
        rows = []
        for size in options.sizes:
            for batch in options.batches:
                rows += measure(size, batch, options)
                for row in rows[-2:]:
                    print(
                        size, batch, row["style"], row["seconds"], row["tone_of_match_histograms"]
                    )
    reached = {
        f"{row['style']} style, 512x512": {
            "tone_of_match_histograms": row["tone_of_match_histograms"],
            "goal": GOALS[row["style"]],
            "reached": row["tone_of_match_histograms"] <= GOALS[row["style"]],
        }
        for row in rows
        if (row["size"], row["batch"]) == (512, 1)
    }
    result = {
        "preset": options.preset,
        "threads": options.threads,
        "difference_to_torch": difference,
        "rows": rows,
        "reached": reached,
        "environment": {**environment(), "torch": metadata.version("torch")},
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
