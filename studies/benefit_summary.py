"""Measures of a slice; means, paired differences and their intervals over all of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from studies import common
from studies.benefit_data import DOMAINS, IGNORE, TONES
from studies.benefit_fold import CONDITIONS, METHODS, OWN
from tfstyle import metrics
from tfstyle.runs import environment

#: Name of each measure, and how the page shows it: factor, digits, whether more is better.
MEASURES = {
    "mean_iou": ("mean IoU, %", 100, 1, True),
    "spine_iou": ("IoU of the spine, %", 100, 1, True),
    "dice": ("Dice, %", 100, 1, True),
    "boundary_mm": ("boundary distance, mm", 1, 1, False),
    "pixel_accuracy": ("pixel accuracy, %", 100, 1, True),
}
#: What is averaged: random gray scales together, and each domain by itself.
GROUPS: Mapping[str, Sequence[str]] = {"tone": TONES} | {name: (name,) for name in DOMAINS}
#: Draws of the bootstrap.
DRAWS = 4000

#: Values by patient: float64 (seeds, slices).
Series = dict[str, np.ndarray]
#: Condition of the training, and method at test time.
Way = tuple[str, str]


def boundary_distance(truth: np.ndarray, found: np.ndarray, spacing_mm: float) -> float:
    """Mean distance between the boundaries of two masks, both ways.

    The average symmetric surface distance: the mean over the boundary pixels of both masks of the
    distance to the nearest boundary pixel of the other.

    Args:
        truth: bool (H, W).
        found: bool (H, W).
        spacing_mm: Pixel spacing.

    Returns:
        mm; 0 where both are empty, and the longer side of the picture where one is.
    """
    if not truth.any() or not found.any():
        return 0.0 if truth.any() == found.any() else max(truth.shape) * float(spacing_mm)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, found)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    return float(np.concatenate([away[1][edges[0]], away[0][edges[1]]]).mean())


def measure(masks: np.ndarray, found: np.ndarray, spacing_mm: float) -> dict[str, list[float]]:
    """All of :data:`MEASURES` for each slice.

    Args:
        masks: uint8 (N, H, W): 0, 1 for spine, or :data:`IGNORE`.
        found: uint8 (N, H, W): 0 or 1.
        spacing_mm: Pixel spacing.
    """
    rows: dict[str, list[float]] = {name: [] for name in MEASURES}
    for truth, own in zip(masks, found):
        iou = metrics.iou_by_class(truth, own, 2, ignore_class=IGNORE)
        dice = metrics.dice_by_class(truth, own, 2, ignore_class=IGNORE)
        accuracy = metrics.pixel_accuracy(truth, own, 2, ignore_class=IGNORE)
        inside = (own == 1) & (truth != IGNORE)
        distance = boundary_distance(truth == 1, inside, spacing_mm)
        values = (np.nanmean(iou), iou[1], dice[1], distance, accuracy)
        for name, value in zip(MEASURES, values):
            # What is neither there nor found is right.
            rows[name].append(round(float(np.nan_to_num(value, nan=1.0)), 5))
    return rows


def interval(differences: Series) -> dict:
    """Mean over patients, and its 95 % bootstrap interval.

    Slices of each patient and seeds of each patient are drawn again with replacement; the patients
    are those that there are, each with the same weight. Each has an array (seeds, slices); the
    result has ``"mean"``, ``"low"``, ``"high"``, and ``"folds"``, the mean of each patient.
    """
    rng = np.random.default_rng(0)
    total = np.zeros(DRAWS)
    for values in differences.values():
        seeds, slices = (rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in values.shape)
        total += np.einsum("rs,sn,rn->r", seeds, values, slices) / len(differences)
    low, high = np.percentile(total, [2.5, 97.5])
    means = {fold: values.mean() for fold, values in differences.items()}
    figures = {"mean": np.mean([*means.values()]), "low": low, "high": high, "folds": means}
    return common.rounded(figures, 5)


def mean(values: Iterable[float], digits: int) -> float:
    """The mean, rounded."""
    return round(float(np.mean([*values])), digits)


class Cells(dict[tuple[str, int, str], dict]):
    """The finished cells of a study by patient, seed and condition."""

    def series(
        self, condition: str, method: str, group: str, name: str, beside: str | None = None
    ) -> Series:
        """A measure by patient, averaged over the domains of a group.

        Args:
            condition: Augmentation of the U-Net.
            method: What was done at test time.
            group: One of :data:`GROUPS`.
            name: One of the measures.
            beside: Another condition whose cells must be there as well.
        """
        rows: dict[str, list] = {}
        for fold, seed, own in sorted(self, key=lambda key: key[1]):
            if own == condition and (fold, seed, beside or own) in self:
                rows.setdefault(fold, []).append(self[fold, seed, own]["rows"][method])
        return {
            fold: np.mean([[row[d][name] for row in rows[fold]] for d in GROUPS[group]], axis=0)
            for fold in dict.fromkeys(fold for fold, _, _ in self)
            if fold in rows
        }

    def minus(
        self, one: Way, other: Way, group: str = "tone", names: Iterable[str] = MEASURES
    ) -> dict:
        """Paired differences of two ways, see :func:`interval`."""
        found = {}
        for name in names:
            first = self.series(*one, group, name, beside=other[0])
            second = self.series(*other, group, name, beside=one[0])
            found[name] = interval({fold: first[fold] - second[fold] for fold in first})
        return found

    def table(
        self, way: Way, groups: Iterable[str] = GROUPS, names: Iterable[str] = MEASURES
    ) -> dict:
        """Mean of measures in groups of domains, with the mean of each patient."""

        def entry(group: str, name: str) -> dict:
            series = self.series(*way, group, name)
            folds = {fold: mean(values, 5) for fold, values in series.items()}
            return {"mean": mean(folds.values(), 5), "folds": folds}

        return {group: {name: entry(group, name) for name in names} for group in groups}


def summarize(study) -> dict:
    """What ``benefit.json`` holds.

    Args:
        study: A :class:`studies.benefit.Study` that has run.
    """
    cells = Cells({key: cell for key in study.plan() if (cell := study.cell(*key)) is not None})
    spent = [cell["training_seconds"] + cell["test_seconds"] for cell in cells.values()]
    present = {condition for _, _, condition in cells}
    conditions = [c for c in CONDITIONS if c in present] + sorted(present - {*CONDITIONS})
    own = {c: [cell for key, cell in cells.items() if key[2] == c] for c in conditions}
    result: dict = {
        "settings": dataclasses.asdict(study.settings),
        "full": bool(study.options.full),
        "seeds": study.options.seeds,
        "environment": environment(),
        "folds": {fold: cell["about"] for (fold, _, _), cell in cells.items()},
        "conditions": conditions,
        "cells": len(cells),
        "cpu_seconds": round(sum(spent)),
        "groups": {name: list(domains) for name, domains in GROUPS.items()},
    }
    if "none" in conditions:
        timed = [cell["method_ms"] for cell in cells.values()]
        result["test_time"] = {m: cells.table(("none", m)) for m in METHODS}
        medians = {m: np.median([t[m] for t in timed]) for m in METHODS}
        result["method_ms"] = common.rounded(medians, 2)
        result["test_time_minus"] = {
            g: {m: cells.minus(("none", OWN), ("none", m), g) for m in METHODS if m != OWN}
            for g in GROUPS
        }
    result["augmentation"] = {c: cells.table((c, "nothing")) for c in conditions}
    result["harmonized"] = {
        c: {m: cells.table((c, m), ["tone"], ["mean_iou"]) for m in METHODS} for c in conditions
    }
    result["harmonized_minus"] = {
        c: {m: cells.minus((c, OWN), (c, m), names=["mean_iou"]) for m in METHODS if m != OWN}
        for c in conditions
    }
    result["augmentation_ms"] = {
        c: mean((cell["augmentation_ms"] for cell in own[c]), 2) for c in conditions
    }
    result["loss"] = {
        c: [mean((cell["loss"][q] for cell in own[c]), 4) for q in range(4)] for c in conditions
    }
    result["augmentation_minus"] = {
        one: {c: cells.minus((one, "nothing"), (c, "nothing")) for c in conditions if c != one}
        for one in (OWN, f"{OWN}+nnunet")
        if one in conditions
    }
    return result
