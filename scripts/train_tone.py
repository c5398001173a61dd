#!/usr/bin/env python
"""Trains the released tone transfer, and the models of benchmarks/truth.py that leave patients out.

    python scripts/train_tone.py --data DATA --output runs/tone                 # all folds, release
    python scripts/train_tone.py --data DATA --output runs/tone2 --start runs/tone \
        --steps 1500 --release-steps 1500

    python scripts/train_tone.py --data DATA --output runs/tone3 --start runs/tone2 --average

Every fold leaves two patients out (stricter than one, and half the time); its model is written to
``fold-PATIENT/ours.keras`` for both. The release is trained on all. With ``--start`` the models of
an earlier run are trained further, with half the learning rate; with ``--average`` at a constant
rate and on other images, and a model is the mean of its weights on the way, which errs less on
patients it has not seen (Izmailov et al., "Averaging weights leads to wider optima and better
generalization", UAI 2018). A run that was stopped resumes at its last epoch of 100 steps; finished
models are kept. Views, models and logs stay in --output.

The probability that an image is CT is learned last, from images of which half are not: within the
training of the curve they would take pairs away from it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from ct_scans import load_scans  # noqa: E402

from tfstyle.tone import ToneTransfer, ViewPool  # noqa: E402

#: Patients left out together.
FOLDS = (
    ("shoulder", "head"),
    ("aorta", "chest_crop"),
    ("torso", "head_base"),
    ("torso_dicom", "spine_crop"),
    ("vertebra", "pancreas"),
)
EPOCH = 100
#: Groups of images from which CT is recognized, and passes over them.
CT_GROUPS, CT_EPOCHS = 300, 40
#: How much an image of CT counts, and how often more images are CT in use than in this training.
CT_WEIGHT, CT_ODDS = 4.0, 7.0


def optimizer(steps: int, peak: float = 2e-3) -> keras.optimizers.Optimizer:
    """AdamW with a warm-up and a cosine to nearly nothing."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=peak, warmup_steps=100, alpha=0.01
    )
    return keras.optimizers.AdamW(rate, weight_decay=1e-3, clipnorm=1.0)


def averaging() -> keras.optimizers.Optimizer:
    """AdamW at a constant rate; in the end each weight is its mean over about 2000 steps."""
    return keras.optimizers.AdamW(
        5e-4, weight_decay=1e-3, clipnorm=1.0, use_ema=True, ema_momentum=0.9995
    )


def views_of(data: Path, folder: Path, size: int, views: int) -> ViewPool:
    """The views of all scans, drawn once."""
    path = folder / f"views_{size}_{views}.pickle"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    scans = {name: (scan.hu, scan.spacing) for name, scan in load_scans(data).items()}
    pool = ViewPool(scans, size=size, views=views)
    path.write_bytes(pickle.dumps(pool))
    return pool


def note(log: Path, row: dict) -> None:
    """Adds a row to a log."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def train(model, steps: int, pool: ViewPool, folder: Path, seed: int, log: Path) -> None:
    """Trains a model from the beginning, or from its last epoch."""
    keras.utils.set_random_seed(seed)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=True)
    started = time.time()

    def write(epoch, logs):
        figures = {key: round(float(value), 4) for key, value in logs.items()}
        note(
            log, {"steps": (epoch + 1) * EPOCH, "seconds": round(time.time() - started), **figures}
        )

    logger = keras.callbacks.LambdaCallback(on_epoch_end=write)
    # A resumed run draws other groups than the first part of it did.
    done = sum(1 for _ in log.open()) if log.is_file() else 0
    model.fit(
        pool.dataset(seed=seed + 1000 * done, not_ct_share=0),
        steps_per_epoch=EPOCH,
        epochs=steps // EPOCH,
        callbacks=[backup, logger],
        verbose=0,
    )


def recognize(model, pool: ViewPool, seed: int, log: Path) -> None:
    """Trains what tells CT from other images; nothing else changes."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng([seed, 2])
    groups = [pool.group(rng, not_ct_share=0.5) for _ in range(CT_GROUPS)]
    seen = np.concatenate([model.matcher.look(model.encode_style(g["images"])) for g in groups])
    is_ct = 1 - np.concatenate([g["not_ct"] for g in groups])
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + 0.02
    head = keras.Sequential([keras.Input(seen.shape[1:]), *model.matcher.ct])
    rate = keras.optimizers.schedules.CosineDecay(3e-3, CT_EPOCHS * len(seen) // 128)
    head.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=0.1),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    figures = head.fit(
        (seen - mean) / spread,
        is_ct,
        batch_size=128,
        epochs=CT_EPOCHS,
        sample_weight=np.where(is_ct, CT_WEIGHT, 1.0),
        verbose=0,
    ).history
    # The layer takes over the normalization of what it sees.
    kernel, bias = model.matcher.ct[0].get_weights()
    kernel = kernel / spread[:, None]
    model.matcher.ct[0].set_weights([kernel, bias - mean @ kernel])
    model.matcher.ct[1].bias.assign_add([np.log(CT_ODDS)])
    note(log, {"images": len(seen), **{f"ct_{k}": round(v[-1], 4) for k, v in figures.items()}})


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "tone")
    parser.add_argument("--steps", type=int, default=3000, help="of each fold")
    parser.add_argument("--release-steps", type=int, default=5000)
    parser.add_argument(
        "--start", type=Path, help="folder of an earlier run; each model starts from its own"
    )
    parser.add_argument("--average", action="store_true", help="of the weights; needs --start")
    parser.add_argument("--views", type=int, default=1024, help="of each scan")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--only", nargs="+", help="of release and patients left out")
    options = parser.parse_args()
    if options.average and options.start is None:
        parser.error("--average: averages models that are trained; give --start as well")
    options.output.mkdir(parents=True, exist_ok=True)
    pool = views_of(options.data, options.output, options.size, options.views)
    jobs = [("+".join(fold), fold, options.steps) for fold in FOLDS]
    jobs.append(("release", (), options.release_steps))
    model = initial = None
    for name, left_out, steps in jobs:
        if options.only and not {*options.only} & {name, *left_out}:
            continue
        targets = [options.output / f"fold-{patient}" / "ours.keras" for patient in left_out]
        targets = targets or [options.output / "release.keras"]
        if all(target.is_file() for target in targets):
            continue
        keras.utils.set_random_seed(0)
        if model is None:
            model = ToneTransfer()
            initial = model.get_weights()
        model.set_weights(initial)
        if options.start is not None:
            file = f"fold-{left_out[0]}/ours.keras" if left_out else "release.keras"
            model.set_weights(ToneTransfer.load(options.start / file).get_weights())
        if model.compiled and model.steps_trained == steps:
            # The compiled step is kept: as new, without compiling again.
            for variable in model.optimizer.variables:
                if "learning_rate" not in variable.path:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
        else:
            peak = 2e-3 if options.start is None else 1e-3
            chosen = averaging() if options.average else optimizer(steps, peak)
            model.compile(optimizer=chosen, jit_compile=True)
            model.steps_trained = steps
        folder = options.output / name
        folder.mkdir(exist_ok=True)
        seed = 2 if options.average else 1
        train(model, steps, pool.without(left_out), folder, seed, folder / "log.jsonl")
        recognize(model, pool.without(left_out), 1, folder / "log.jsonl")
        for target in targets:
            target.parent.mkdir(exist_ok=True)
            model.save(target)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
