"""Does it pay? The tone transfer at test time and as augmentation, against what experts would use.

    python -m studies.benefit --data DATA                       # what two cores do in an hour
    python -m studies.benefit --data DATA --models runs/tone    # models trained without the patient
    python -m studies.benefit --data DATA --full                # width 32, 128×128, 5 seeds

U-Nets learn the spine in one gray scale (a window) on labelled CT, one patient left out in turn,
and are tested on that patient in random gray scales, in inverted ones, and after changes of the
scanner that are not tone (:mod:`studies.benefit_data`). At test time a plain U-Net gets the images
as they are, or in its own gray scale again by each of ``METHODS``. As augmentation, U-Nets are
trained with each of ``CONDITIONS`` and get the images as they are, and in random gray scales also
what each of ``METHODS`` makes of them.

``--models`` is a folder with ``fold-PATIENT/ours.keras``, tone transfers trained without that
patient (``scripts/train_tone.py``); where one is missing the preset is used, and the record says
that it has seen the scan. Finished cells stay under ``--work``, so that a stopped run resumes, and
with another tone transfer only what it augmented is trained again.
Figures go to ``benefit.json``, the page to ``../docs/results/benefit.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studies import benefit_data as data
from studies import benefit_page, benefit_summary, common
from studies.benefit_fold import CONDITIONS, FULL, METHODS, OWN, Fold, Segmenter, Settings
from studies.benefit_summary import measure
from tfstyle import presets
from tfstyle._private.files import write_atomically


class Study:
    """All cells: one fold, seed and condition each, kept in a folder."""

    def __init__(self, options: argparse.Namespace, settings: Settings):
        self.options, self.settings = options, settings
        self.planes = data.labelled_planes(options.data, settings.spacing_mm, settings.every)
        self.folds = options.folds or list(self.planes)
        self._folds, self._segmenters, self._digests = {}, {}, {}

    @functools.cached_property
    def scans(self) -> dict:
        """All scans, for the bank."""
        return data.load_scans(self.options.data)

    def plan(self) -> list[tuple[str, int, str]]:
        """Fold, seed and condition of each cell, all folds and conditions of a seed together."""
        seeds = range(self.options.seeds)
        return [(f, s, c) for s in seeds for f in self.folds for c in self.options.conditions]

    def fold(self, name: str) -> Fold:
        """A fold, made once."""
        if name not in self._folds:
            model = self.model_file(name)
            self._folds[name] = Fold(name, self.planes, self.scans, self.settings, model)
        return self._folds[name]

    def path(self, fold: str, seed: int, condition: str) -> Path:
        """File of a cell."""
        return self.options.work / fold / str(seed) / f"{condition}.json"

    def model_file(self, fold: str) -> Path:
        """The tone transfer of a fold: one that has not seen the patient, or the preset's."""
        preset = presets.folder("tone_ct") / "weights.npz"
        return common.model_without(self.options.models, fold) or preset

    def keys(self, fold: str, condition: str) -> tuple[dict, dict]:
        """What a U-Net depends on, and what its figures do: settings, images, tone transfer."""
        if fold not in self._digests:
            digest = hashlib.sha256()
            for plane in (p for part in self.planes.values() for p in part):
                digest.update(plane.hu.tobytes() + plane.mask.tobytes())
            planes = [self.planes[fold][n] for n in data.sub_scans(self.planes[fold])[0]]
            for domain in data.DOMAINS:
                gray = data.shown(planes, domain, self.settings.seed)[0]
                digest.update(np.stack(gray).tobytes())
            model = hashlib.sha256(self.model_file(fold).read_bytes())
            self._digests[fold] = digest.hexdigest()[:16], model.hexdigest()[:16]
        digest, model = self._digests[fold]
        key = {**dataclasses.asdict(self.settings), "images": digest}
        tested = {**key, "model": model}
        return tested if OWN in condition.split("+") else key, tested

    def kept(self, fold: str, seed: int, condition: str) -> dict:
        """What the file of a cell holds, of any settings; nothing without one."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.path(fold, seed, condition).read_text())
        return {}

    def cell(self, fold: str, seed: int, condition: str) -> dict | None:
        """A finished cell, or None."""
        kept = self.kept(fold, seed, condition)
        fresh = (kept.get("trained"), kept.get("tested")) == self.keys(fold, condition)
        return kept if fresh else None

    def run(self) -> None:
        """Computes what is missing."""
        plan = self.plan()
        for number, key in enumerate(plan, 1):
            if self.cell(*key) is None:
                path = self.path(*key)
                path.parent.mkdir(parents=True, exist_ok=True)
                cell = self.compute(*key)
                write_atomically(path, json.dumps(cell).encode())
                seconds = f"{cell['training_seconds']} + {cell['test_seconds']} s"
                print(f"{number}/{len(plan)} {path}: {seconds}", flush=True)

    def compute(self, fold: str, seed: int, condition: str) -> dict:
        """Trains a U-Net, or takes it where it was trained before, and tests it."""
        mixing = "mixstyle" in condition.split("+")
        if mixing not in self._segmenters:
            self._segmenters[mixing] = Segmenter(self.settings, mixing)
        segmenter = self._segmenters[mixing]
        trained, tested = self.keys(fold, condition)
        cell = self.kept(fold, seed, condition)
        weights = self.path(fold, seed, condition).with_suffix(".npz")
        if cell.get("trained") == trained and weights.is_file():
            with np.load(weights) as arrays:
                segmenter.unet.set_weights([arrays[name] for name in arrays.files])
        else:
            cell = self.train(segmenter, fold, seed, condition)
            np.savez(weights, *segmenter.unet.get_weights())
        begin = time.process_time()
        rows, method_ms = self.test(segmenter, fold, condition)
        cell |= {"trained": trained, "tested": tested, "about": self.fold(fold).about}
        cell["test_seconds"] = round(time.process_time() - begin, 1)
        return {**cell, "method_ms": method_ms, "rows": rows}

    def train(self, segmenter: Segmenter, fold: str, seed: int, condition: str) -> dict:
        """Trains a U-Net; its loss, and what the augmentation cost."""
        begin, settings, own = time.process_time(), self.settings, self.fold(fold)
        exact = "exact" in condition.split("+")
        batches = data.training_batches(
            own.trained, settings.size, settings.batch_size, seed, random_tone=exact
        )
        augment, spent = own.augmenter(condition, seed)
        losses = segmenter.train(batches, augment, seed)
        seconds = round(time.process_time() - begin, 1)
        return {"loss": losses, "augmentation_ms": spent(), "training_seconds": seconds}

    def test(self, segmenter: Segmenter, fold: str, condition: str) -> tuple[dict, dict]:
        """Measures by method and domain, and milliseconds a slice by method."""
        squares, masks, method_ms = self.fold(fold).tests
        rows: dict = {}
        for method in METHODS:
            every = condition == "none" or method == "nothing"
            for domain in data.DOMAINS if every else data.TONES:
                found = segmenter.unet.segment(squares[method][domain], batch_size=16)[..., 0]
                row = measure(masks, found, self.settings.spacing_mm)
                rows.setdefault(method, {})[domain] = row
        return rows, method_ms


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = common.parser(__doc__, __file__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the labelled CT")
    add("--models", type=Path, help="folder with fold-PATIENT/ours.keras")
    add("--full", action="store_true", help="the full size, for a GPU or two nights")
    add("--seeds", type=int, help="default: 3, with --full 5")
    add("--folds", nargs="+", help="patients left out (default: all)")
    add("--conditions", nargs="+", default=list(CONDITIONS), help="default: all")
    common.add_settings(parser, "of benefit_fold.Settings")
    add("--work", type=Path, help="default: runs/benefit, with --full runs/benefit_full")
    options = common.parse(parser, arguments)
    logging.getLogger("tfstyle.tone").setLevel(logging.ERROR)  # doubts, slice by slice
    settings = dataclasses.replace(FULL if options.full else Settings(), **dict(options.set))
    options.seeds = options.seeds or (5 if options.full else 3)
    name = "benefit_full" if options.full else "benefit"
    options.work = options.work or common.ROOT / "runs" / name
    study = Study(options, settings)
    study.run()
    result = benefit_summary.summarize(study)
    common.write_study(options.output, result)
    benefit_page.write(result, options.page)


if __name__ == "__main__":
    main()
