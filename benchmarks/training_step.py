#!/usr/bin/env python
"""Seconds per image of a whole training step, tfstyle against the same step in PyTorch.

    pip install '.[benchmarks]'
    python benchmarks/training_step.py

A step is the forward pass, every loss (contextual at relu4_1, moments at relu1_1 to relu4_1, total
variation), the backward pass and Adam's update of the decoder, in float32, AdaIN at relu4_1. Each
implementation runs in a process of its own with the same number of threads; the processes take
turns, step by step, so that one waits while the other works. The PyTorch step is plain eager
PyTorch with what helps there: channels last, an encoder without gradients cut at its deepest tap,
content and style in one batch without a tape. Both start from the same random weights and images,
and their first losses must agree to 1e-3 or the benchmark stops.

Variants of tfstyle tell what each change gave: ``plain`` is TensorFlow without XLA, ``xla`` the
same step under XLA, ``upsampling``, ``winograd`` and ``pooling`` add one form of
``tfstyle/layers/convolution.py`` each to ``xla``, and ``tfstyle`` is the library as it is.
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

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
VARIANTS = ("tfstyle", "plain", "xla", "upsampling", "winograd", "pooling")
SETTINGS = {"bandwidth": 0.1, "tv_weight": 1e-4, "learning_rate": 1e-4}
_COUNTS = {"vgg16": (2, 2, 3, 1), "vgg19": (2, 2, 4, 1)}
_CHANNELS = (64, 128, 256, 512)


def architecture(family: str) -> tuple[list, list]:
    """Convolutions of encoder and decoder: (channels in, channels out, pool or double after)."""
    encoder, before = [], 3
    for block, (count, channels) in enumerate(zip(_COUNTS[family], _CHANNELS)):
        for i in range(count):
            encoder.append((before, channels, i == count - 1 and block < 3))
            before = channels
    # Mirrored: what the encoder pooled before a convolution is doubled behind the decoder's.
    decoder = []
    for i in reversed(range(len(encoder))):
        inputs, outputs, _ = encoder[i]
        decoder.append((outputs, inputs if i else 1, i > 0 and encoder[i - 1][2]))
    return encoder, decoder


def example(family: str, size: int, batch: int, path: Path, seed: int = 0) -> None:
    """Writes random weights (3, 3, in, out) and smooth images as ``.npz``."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, convolutions in zip(("encoder", "decoder"), architecture(family)):
        for i, (inputs, outputs, _) in enumerate(convolutions):
            kernel = rng.normal(size=(3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
            arrays[f"{part}{i}"] = kernel.astype(np.float32)
    for name in ("content", "style"):
        grain = rng.random((batch, size, size, 1))
        for axis in (1, 2):
            grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
        arrays[name] = grain.astype(np.float32)
    np.savez(path, **arrays)


def tensorflow_step(family: str, path: Path, variant: str, threads: int):
    """A function that makes one step with tfstyle and returns its losses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    import tfstyle
    from tfstyle.layers import convolution

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if variant not in ("tfstyle", "winograd"):
        convolution._LEAST_CHANNELS = float("inf")
    if variant not in ("tfstyle", "upsampling"):
        convolution.upsampled_convolution = lambda x, kernel: tf.nn.conv2d(
            tf.pad(
                tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2),
                [[0, 0], [1, 1], [1, 1], [0, 0]],
                mode="REFLECT",
            ),
            kernel,
            1,
            "VALID",
        )
    if variant not in ("tfstyle", "pooling"):
        convolution.max_pooling = lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")
    with np.load(path) as archive:
        arrays = dict(archive)
    encoder = tfstyle.encoders.get(family, weights=None, depth="relu4_1")
    encoder.preprocessing = "torch"
    model = tfstyle.StyleTransfer(encoder, layer="relu4_1")
    for part, layers in (("encoder", encoder.weighted_layers()), ("decoder", model.decoder.steps)):
        for i, layer in enumerate(layer for layer in layers if layer.weights):
            kernel = arrays[f"{part}{i}"]
            layer.set_weights([kernel, np.zeros(kernel.shape[3], np.float32)])
    model.compile(
        optimizer=keras.optimizers.Adam(SETTINGS["learning_rate"]),
        bandwidth=SETTINGS["bandwidth"],
        tv_weight=SETTINGS["tv_weight"],
        content_layers="relu4_1",
        style_layers=TAPS,
        jit_compile=variant != "plain",
    )
    data = {name: tf.constant(arrays[name]) for name in ("content", "style")}
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())

    def step():
        for metric in model.metrics:
            metric.reset_state()
        logs = model.train_function(batches)
        return {name: float(logs[name]) for name in ("loss", "content_loss", "style_loss")}

    return step


def torch_step(family: str, path: Path, threads: int):
    """A function that makes one step with PyTorch and returns its losses."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    with np.load(path) as archive:
        arrays = dict(archive)
    plans = architecture(family)
    parts = []
    for part, plan in zip(("encoder", "decoder"), plans):
        mode = "zeros" if part == "encoder" else "reflect"
        module = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=mode)
            for inputs, outputs, _ in plan
        )
        with torch.no_grad():
            for i, layer in enumerate(module):
                layer.weight.copy_(torch.from_numpy(arrays[f"{part}{i}"].transpose(3, 2, 0, 1)))
                layer.bias.zero_()
        parts.append(module.to(memory_format=torch.channels_last))
    encoder, decoder = parts
    encoder.eval().requires_grad_(False)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    taps = [sum(_COUNTS[family][:block]) for block in range(4)]

    def encode(images):
        x = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        found = []
        for i, (layer, (_, _, pool)) in enumerate(zip(encoder, plans[0])):
            x = functional.relu(layer(x), inplace=True)
            if i in taps:
                found.append(x)
            if pool:
                x = functional.max_pool2d(x, 2)
        return found

    def decode(x):
        for i, (layer, (_, _, double)) in enumerate(zip(decoder, plans[1])):
            x = layer(x)
            if i < len(decoder) - 1:
                x = functional.relu(x, inplace=True)
            if double:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def moments(x):
        variance, average = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return average, torch.sqrt(variance + 1e-5)

    def contextual(generated, content):
        g, x = (v.flatten(2).transpose(1, 2) for v in (generated, content))
        centre = x.mean(1, keepdim=True)
        g, x = (v - centre for v in (g, x))
        g, x = (v * torch.rsqrt(v.square().sum(-1, keepdim=True) + 1e-12) for v in (g, x))
        distance = (1 - g @ x.transpose(1, 2)).clamp_min(0)
        relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
        affinity = torch.softmax(-relative / SETTINGS["bandwidth"], 2)
        return -torch.log(affinity.amax(1).mean(1))

    def difference(a, b):
        return torch.sqrt((a - b).square().mean((1, 2, 3)) + 1e-8) - 1e-4

    optimizer = torch.optim.Adam(decoder.parameters(), SETTINGS["learning_rate"], eps=1e-7)
    images = [torch.from_numpy(arrays[n].transpose(0, 3, 1, 2)) for n in ("content", "style")]
    both, batch = torch.cat(images), len(images[0])

    def step():
        with torch.no_grad():
            features = encode(both)
            content, style = features[-1][:batch], [moments(f[batch:]) for f in features]
            average, spread = moments(content)
            mixed = style[-1][1] * (content - average) / spread + style[-1][0]
        generated = decode(mixed)
        features = encode(generated)
        content_loss = contextual(features[-1], content).mean()
        style_loss = 0.0
        for feature, (average, spread) in zip(features, style):
            found = moments(feature)
            style_loss = style_loss + difference(found[0], average) + difference(found[1], spread)
        style_loss = style_loss.mean()
        variation = (generated[:, :, 1:] - generated[:, :, :-1]).abs().mean()
        variation = variation + (generated[..., 1:] - generated[..., :-1]).abs().mean()
        loss = content_loss + style_loss + SETTINGS["tv_weight"] * variation
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses = {"loss": loss, "content_loss": content_loss, "style_loss": style_loss}
        return {name: value.item() for name, value in losses.items()}

    return step


def work(name: str, family: str, path: Path, threads: int) -> None:
    """A worker: for each line that comes in, one step, answered with its seconds and losses."""
    if name == "torch":
        step = torch_step(family, path, threads)
    else:
        step = tensorflow_step(family, path, name, threads)
    for _ in sys.stdin:
        start = time.perf_counter()
        losses = step()
        print(json.dumps([time.perf_counter() - start, losses]), flush=True)


def start(name: str, family: str, path: Path, threads: int) -> Worker:
    """A process that makes steps of one implementation."""
    arguments = ["--worker", name, "--families", family]
    arguments += ["--example", str(path), "--threads", str(threads)]
    return Worker(__file__, arguments, threads)


def measure(family: str, size: int, names: list[str], options) -> dict:
    """One row: seconds per image of every implementation and the ratios to PyTorch's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.npz"
        example(family, size, options.batch, path)
        workers = {}
        try:
            first, losses = {}, {}
            for name in names:
                workers[name] = start(name, family, path, options.threads)
                first[name], losses[name] = workers[name].ask()
            for name in names:
                for term, value in losses["torch"].items():
                    if abs(losses[name][term] / value - 1) > 1e-3:
                        raise SystemExit(
                            f"{family} {size}: {term} of {name} is {losses[name][term]}, "
                            f"of PyTorch {value}: not the same step."
                        )
            seconds = {name: [] for name in names}
            for turn in range(options.rounds + 2):
                for name in names:
                    elapsed, _ = workers[name].ask()
                    if turn >= 2:  # two rounds to warm up
                        seconds[name].append(elapsed / options.batch)
        finally:
            for worker in workers.values():
                worker.close()
    torch_seconds = np.array(seconds["torch"])
    return {
        "encoder": family,
        "size": size,
        "seconds_per_image": {n: round(float(np.median(s)), 4) for n, s in seconds.items()},
        "ratio_to_torch": {
            n: round(float(np.median(np.array(s) / torch_seconds)), 3)
            for n, s in seconds.items()
            if n != "torch"
        },
        "first_step_seconds": {n: round(s, 1) for n, s in first.items()},
        "first_losses": losses,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measures every encoder, size and variant; writes ``benchmarks/training_step.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=list(_COUNTS), default=list(_COUNTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["tfstyle"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--example", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.families[0], options.example, options.threads)
        return
    from tfstyle.training import environment

    rows = []
    settings = {"threads": options.threads, "batch": options.batch, "rounds": options.rounds}
    if options.output.is_file():
        # Rows measured with the same settings stay until they are measured again.
        before = json.loads(options.output.read_text())
        if all(before[key] == value for key, value in settings.items()):
            rows = before["rows"]
    for family in options.families:
        for size in options.sizes:
            rows = [row for row in rows if (row["encoder"], row["size"]) != (family, size)]
            rows.append(measure(family, size, ["torch", *options.variants], options))
            print(json.dumps(rows[-1]["ratio_to_torch"]), family, size, flush=True)
            result = {
                **settings,
                "rows": sorted(rows, key=lambda row: (row["encoder"], row["size"])),
                "environment": {**environment(), "torch": metadata.version("torch")},
            }
            options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
