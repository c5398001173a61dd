"""Does it pay? The tone transfer at test time and as augmentation, against what experts would use.

    python -m studies.benefit --data DATA                       # what two cores do in an hour
    python -m studies.benefit --data DATA --models runs/tone    # models trained without the patient
    python -m studies.benefit --data DATA --full                # width 32, 128×128, 5 seeds

U-Nets learn the spine in one gray scale (a window) on labelled CT, one patient left out in turn,
and are tested on that patient in random gray scales, in inverted ones, and after changes of the
scanner that are not tone (:mod:`studies.benefit_data`). At test time a plain U-Net gets the images
as they are, or in its own gray scale again by each of ``METHODS``. As augmentation, U-Nets are
trained with each of ``CONDITIONS`` and get the images as they are.

``--models`` is a folder with ``fold-PATIENT/ours.keras``, tone transfers trained without that
patient (``scripts/train_tone.py``); where one is missing the preset is used, and the record says
that it has seen the scan. Finished cells stay under ``--work``, so that a stopped run resumes.
Figures go to ``benefit.json``, the page to ``../docs/results/benefit.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from studies import benefit_data as data
from studies import benefit_page, benefit_summary
from studies.benefit_fold import (
    CONDITIONS,
    FULL,
    METHODS,
    WITH_AUGMENTATION,
    Fold,
    Segmenter,
    Settings,
)
from studies.benefit_measures import measure
from tfstyle.files import write_atomically

FOLDER = Path(__file__).resolve().parent


class Study:
    """All cells: one fold, seed and condition each, kept in a folder."""

    def __init__(self, options: argparse.Namespace, settings: Settings):
        self.options, self.settings = options, settings
        self.planes = data.labelled_planes(options.data, settings.spacing_mm, settings.every)
        self.folds = options.folds or list(self.planes)
        self._scans, self._folds, self._segmenters = None, {}, {}

    def fold(self, name: str) -> Fold:
        """A fold, made once."""
        if name not in self._folds:
            if self._scans is None:
                self._scans = data.load_scans(self.options.data)
            settings = self.settings
            phantoms = data.phantom_planes(settings.phantoms, settings.size, settings.spacing_mm)
            self._folds[name] = Fold(
                name, self.planes, phantoms, self._scans, settings, self.options.models
            )
        return self._folds[name]

    def path(self, fold: str, seed: int, condition: str) -> Path:
        """File of a cell."""
        return self.options.work / fold / str(seed) / f"{condition}.json"

    def key(self, fold: str) -> dict:
        """Changes with the settings, the slices and the tone transfer."""
        digest = hashlib.sha256(self.planes[fold][0].hu.tobytes())
        path = (self.options.models or Path()) / f"fold-{fold}" / "ours.keras"
        if self.options.models is not None and path.is_file():
            digest.update(path.read_bytes())
        return {**dataclasses.asdict(self.settings), "digest": digest.hexdigest()[:16]}

    def cell(self, fold: str, seed: int, condition: str) -> dict | None:
        """A finished cell, or None."""
        path = self.path(fold, seed, condition)
        with contextlib.suppress(OSError, ValueError, KeyError):
            kept = json.loads(path.read_text())
            return kept if kept["key"] == self.key(fold) else None
        return None

    def run(self) -> None:
        """Computes what is missing, all folds and conditions of a seed before the next seed."""
        plan = [
            (fold, seed, condition)
            for seed in range(self.options.seeds)
            for fold in self.folds
            for condition in self.options.conditions
        ]
        for number, (fold, seed, condition) in enumerate(plan):
            if self.cell(fold, seed, condition) is None:
                begin = time.process_time()
                cell = self.compute(self.fold(fold), seed, condition)
                cell["cpu_seconds"] = round(time.process_time() - begin, 1)
                path = self.path(fold, seed, condition)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps({"key": self.key(fold), **cell}).encode())
                print(f"{number + 1}/{len(plan)} {path}: {cell['cpu_seconds']} s", flush=True)

    def compute(self, fold: Fold, seed: int, condition: str) -> dict:
        """Trains and tests one U-Net."""
        settings, mixing = self.settings, "mixstyle" in condition.split("+")
        if mixing not in self._segmenters:
            self._segmenters[mixing] = Segmenter(settings, mixing)
        segmenter = self._segmenters[mixing]
        exact = "exact" in condition.split("+")
        batches = data.training_batches(
            fold.trained, settings.size, settings.batch_size, seed, random_tone=exact
        )
        augment, spent = fold.augmenter(condition, seed)
        losses = segmenter.train(batches, augment, seed)
        squares, masks, method_ms = fold.tests
        rows: dict = {}
        for method in METHODS if condition == "none" else WITH_AUGMENTATION:
            every = condition == "none" or method == "nothing"
            for domain in data.DOMAINS if every else data.TONES:
                images = squares[method][domain]
                found = segmenter.unet.segment(images, batch_size=16)[..., 0]
                rows.setdefault(method, {})[domain] = measure(masks, found, settings.spacing_mm)
        about = {"about": fold.about, "loss": losses, "augmentation_ms": spent()}
        if condition == "none":
            about["method_ms"] = method_ms
        return {**about, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled CT")
    parser.add_argument("--models", type=Path, help="folder with fold-PATIENT/ours.keras")
    parser.add_argument(
        "--full", action="store_true", help="the full size, for a GPU or two nights"
    )
    parser.add_argument("--seeds", type=int, help="default: 3, with --full 5")
    parser.add_argument("--folds", nargs="+", help="patients left out (default: all)")
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), help="default: all")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="of benefit_fold.Settings"
    )
    parser.add_argument(
        "--work", type=Path, help="default: runs/benefit, with --full runs/benefit_full"
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "benefit.json")
    parser.add_argument("--page", type=Path, default=FOLDER.parent / "docs/results/benefit.md")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow (default: 1)")
    options = parser.parse_args(arguments)
    with contextlib.suppress(RuntimeError):  # it runs already
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    logging.getLogger("tfstyle.tone").setLevel(logging.ERROR)  # doubts, slice by slice
    changes = {
        name: json.loads(value) for name, _, value in (s.partition("=") for s in options.set)
    }
    settings = dataclasses.replace(FULL if options.full else Settings(), **changes)
    options.seeds = options.seeds or (5 if options.full else 3)
    options.work = options.work or FOLDER.parent / "runs" / (
        "benefit_full" if options.full else "benefit"
    )
    study = Study(options, settings)
    study.run()
    result = benefit_summary.summarize(study)
    write_atomically(options.output, (json.dumps(result, indent=1) + "\n").encode())
    benefit_page.write(result, options.page)


if __name__ == "__main__":
    main()
