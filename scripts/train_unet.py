#!/usr/bin/env python
"""Trains the preset ``unet_spine``, a demonstration, and measures its recipe by left-out scan.

    python scripts/train_unet.py --data DATA            # trains what is missing, or resumes
    python scripts/train_unet.py --data DATA --steps 50 --output /tmp/unet --no-release   # a try

One U-Net for each labelled scan of DATA is trained without it and tested on it, then one of all
with the same recipe, which becomes the preset. Training images are squares of the scans and of
phantoms in one gray scale; half of them get another one by ``StyleAugmentation`` (``tone_ct``, a
bank of slices of the scans not left out), and all nnU-Net's intensity transforms. Figures go to
``train_unet.json`` beside this script and to the preset's card.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from readme_table import presets_text

from studies import benefit_data as data
from studies import common
from studies.augmentations import nnunet
from studies.benefit_fold import Settings, compile_unet, make_unet, tone_augmentation
from tfstyle import ToneTransfer
from tfstyle._private.files import write_atomically
from tfstyle.encoders.weights import save_npz
from tfstyle.runs import environment
from tfstyle.segmentation import UNet

ROOT = Path(__file__).resolve().parent.parent
NAME, RESULT = "unet_spine", Path(__file__).with_suffix(".json")
#: Steps between two checkpoints.
PART = 100
#: What all U-Nets have in common.
RECIPE = Settings(size=112, steps=1000, bank=48, p=0.5)


def train(recipe: Settings, planes: Mapping[str, list], scans, left_out: str, folder: Path) -> UNet:
    """A U-Net trained without a scan, ``""`` for none; resumes after the last checkpoint."""
    finished, part_file = folder / "unet.keras", folder / "part.keras"
    if finished.is_file():
        return UNet.load(finished)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    if part_file.is_file():
        unet = UNet.load(part_file)
    else:
        keras.utils.set_random_seed(0)
        unet = make_unet(recipe)
        compile_unet(unet, recipe)
    own = [p for scan in planes if scan != left_out for p in planes[scan]]
    own += data.phantom_planes(recipe.phantoms, recipe.size, recipe.spacing_mm)
    styles = data.style_bank(scans, left_out, recipe.bank, recipe.seed)
    stylize = tone_augmentation(ToneTransfer.from_preset(), styles, recipe.p)
    done = int(unet.optimizer.iterations.numpy())
    for first in range(done, recipe.steps, PART):
        begin, losses = time.time(), []
        batches = data.training_batches(own, recipe.size, recipe.batch_size, seed=first)
        steps = range(first, min(first + PART, recipe.steps))
        for step, (images, masks) in zip(steps, batches):
            rng = np.random.default_rng([step, 5])
            changed = stylize(tf.constant(images), tf.constant([0, step])).numpy()
            changed = np.stack([nnunet(one[..., 0], rng) for one in changed])[..., None]
            changed = np.where((masks == data.IGNORE)[..., None], np.float32(0), changed)
            unet.reset_metrics()
            losses.append(float(unet.train_on_batch(changed, masks)))
        unet.save(part_file)
        row = {"steps": steps[-1] + 1, "loss": round(float(np.mean(losses)), 4)}
        with log.open("a") as file:
            file.write(json.dumps(row | {"seconds": round(time.time() - begin)}) + "\n")
        print(left_out or "all", row, flush=True)
    unet.save(finished)
    part_file.unlink(missing_ok=True)
    return unet


def reference_code(recipe: Settings, planes: Sequence) -> np.ndarray:
    """The style code of slices of a scan in the gray scale of the training."""
    chosen = np.linspace(0, len(planes) - 1, min(recipe.styles, len(planes))).astype(int)
    # One code needs images of one size: a square of the body of each.
    squares = [p.square(p.hu, p.grid(recipe.size), data.AIR) for p in (planes[n] for n in chosen)]
    images = data.training_tone(np.stack(squares))[..., None]
    return ToneTransfer.from_preset().encode_style(images, one_code=True)


def measure(unet: UNet, planes: Sequence, code: np.ndarray) -> dict:
    """IoU and Dice of the spine on all slices of a scan, whole slices, in several gray scales."""
    tone = ToneTransfer.from_preset()
    counts = {key: np.zeros(3) for key in ("training", "random", "random_harmonized")}

    def count(key: str, images, group) -> None:
        for image, number in zip(images, group):
            plane = planes[number]
            found, true = unet.segment(np.clip(image, 0, 1)) == 1, plane.mask == 1
            known = plane.mask != data.IGNORE
            counts[key] += [(found & true).sum(), (found & known).sum(), true.sum()]

    for domain, group in itertools.product(("training", *data.TONES), data.sub_scans(planes)):
        gray, _, _ = data.shown([planes[n] for n in group], domain, 0)
        if domain == "training":
            count("training", gray, group)
            continue
        count("random", gray, group)
        stack = np.stack(gray)[..., None]
        count("random_harmonized", tone.stylize(stack, code, one_curve=True)[..., 0], group)
    figures: dict = {"slices": len(planes)}
    for key, (both, found, true) in counts.items():
        figures[key] = {
            "iou": round(float(both / (found + true - both)), 4),
            "dice": round(float(2 * both / (found + true)), 4),
        }
    return figures


def release(recipe: Settings, unet: UNet, planes: Mapping[str, list], figures: Mapping) -> Path:
    """Writes the preset, its style code, its card and the table of presets."""
    dice = ", ".join(f"{row['training']['dice']:.2f} ({scan})" for scan, row in figures.items())
    about = {
        "description": "demonstration: the spine in axial CT, for `tfstyle segment`",
        "weights": "none",
        "data": "3 labelled scans (Apache-2.0, not in the repository): "
        + ", ".join(f"{len(own)} slices of {scan}" for scan, own in planes.items())
        + f", {recipe.phantoms} phantoms",
        "licence": "Apache-2.0",
        # one line, for the table of presets
        "figures": f"Dice of the spine on left-out scans: {dice}",
    }
    window = data.TRAINING_WINDOW
    card = {
        "name": NAME,
        "limits": "A demonstration, trained on three scans. Not a medical device, not for "
        "diagnosis.",
        "input": {
            "window": [window.center, window.width],
            "spacing_mm": recipe.spacing_mm,
            "labels": {"1": "spine"},
            "style_model": ToneTransfer.from_preset().fingerprint(),
        },
        "about": about,
        "figures": figures,
        "recipe": dataclasses.asdict(recipe),
        "environment": environment(),
    }
    home = ROOT / "tfstyle" / "presets" / NAME
    unet.save_to_preset(home, card=card)
    save_npz(home / "style_code.npz", {"code": reference_code(recipe, planes["torso"])})
    common.write_page(home / "README.md", "unet_spine.md", **card)
    write_atomically(home.parent / "README.md", presets_text().encode())
    return home


def main() -> None:
    """Trains and measures what is missing."""
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / NAME)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--no-release", action="store_true", help="write no preset and no figures")
    options = common.parse(parser, None)
    recipe = dataclasses.replace(RECIPE, steps=options.steps)
    planes = data.labelled_planes(options.data, recipe.spacing_mm, recipe.every)
    scans = data.load_scans(options.data)
    figures = {}
    for left_out in planes:
        unet = train(recipe, planes, scans, left_out, options.output / f"without-{left_out}")
        other = next(scan for scan in planes if scan != left_out)
        code = reference_code(recipe, planes[other])
        figures[left_out] = measure(unet, planes[left_out], code)
        print(left_out, json.dumps(figures[left_out]), flush=True)
    unet = train(recipe, planes, scans, "", options.output / "all")
    if options.no_release:
        return
    result = {"recipe": dataclasses.asdict(recipe), "left_out": figures}
    result["environment"] = environment()
    write_atomically(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(release(recipe, unet, planes, figures))


if __name__ == "__main__":
    main()
