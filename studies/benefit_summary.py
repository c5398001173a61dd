"""Means, paired differences and their intervals, from the cells of :mod:`studies.benefit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from studies.benefit_data import DOMAINS, TONES
from studies.benefit_fold import CONDITIONS, METHODS, OWN, WITH_AUGMENTATION
from studies.benefit_measures import MEASURES
from tfstyle.runs import environment

#: What is averaged: random gray scales together, and each domain by itself.
GROUPS: Mapping[str, Sequence[str]] = {"tone": TONES} | {name: (name,) for name in DOMAINS}
DRAWS = 4000

#: Values by patient: float64 (seeds, slices).
Series = dict[str, np.ndarray]


def interval(differences: Series, draws: int = DRAWS, seed: int = 0) -> dict:
    """Mean over patients, and its 95 % bootstrap interval.

    Slices of each patient and seeds of each patient are drawn again with replacement; the patients
    are those that there are, each with the same weight.

    Args:
        differences: By patient, an array (seeds, slices).
        draws: Of the bootstrap.
        seed: Of the draws.

    Returns:
        ``"mean"``, ``"low"``, ``"high"``, and ``"folds"``, the mean of each patient.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(draws)
    for values in differences.values():
        seeds, slices = (rng.multinomial(n, np.full(n, 1 / n), draws) / n for n in values.shape)
        total += np.einsum("rs,sn,rn->r", seeds, values, slices) / len(differences)
    low, high = np.percentile(total, [2.5, 97.5])
    means = {fold: float(values.mean()) for fold, values in differences.items()}
    figures = {"mean": float(np.mean([*means.values()])), "low": float(low), "high": float(high)}
    return {k: round(v, 5) for k, v in figures.items()} | {
        "folds": {fold: round(mean, 5) for fold, mean in means.items()}
    }


class Cells:
    """The finished cells of a study.

    Args:
        cells: By patient, seed and condition.
    """

    def __init__(self, cells: Mapping[tuple[str, int, str], Mapping]):
        self.cells = cells
        self.folds = list(dict.fromkeys(fold for fold, _, _ in cells))
        present = {condition for _, _, condition in cells}
        self.conditions = [c for c in CONDITIONS if c in present]
        self.conditions += sorted(present - {*CONDITIONS})

    def seeds(self, fold: str, *conditions: str) -> list[int]:
        """Seeds for which a patient's cells of all conditions are there."""
        found = sorted({seed for f, seed, _ in self.cells if f == fold})
        return [s for s in found if all((fold, s, c) in self.cells for c in conditions)]

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
        found = {}
        for fold in self.folds:
            seeds = self.seeds(fold, condition, *([beside] if beside else []))
            if seeds:
                rows = [self.cells[fold, s, condition]["rows"][method] for s in seeds]
                found[fold] = np.mean([[r[d][name] for r in rows] for d in GROUPS[group]], axis=0)
        return found

    def minus(self, one: tuple[str, str], other: tuple[str, str], group: str, name: str) -> dict:
        """Paired difference of two (condition, method), see :func:`interval`."""
        first = self.series(*one, group, name, beside=other[0])
        second = self.series(*other, group, name, beside=one[0])
        return interval({fold: first[fold] - second[fold] for fold in first})

    def table(self, condition: str, method: str, groups: Iterable[str] = GROUPS) -> dict:
        """Mean of every measure in every group, with the mean of each patient."""
        found: dict = {}
        for group in groups:
            for name in MEASURES:
                series = self.series(condition, method, group, name)
                folds = {fold: round(float(v.mean()), 5) for fold, v in series.items()}
                mean = round(float(np.mean([*folds.values()])), 5)
                found.setdefault(group, {})[name] = {"mean": mean, "folds": folds}
        return found

    def mean_of(self, condition: str, key: str) -> float:
        """Mean of a figure that each cell of a condition holds."""
        values = [cell[key] for (_, _, c), cell in self.cells.items() if c == condition]
        return round(float(np.mean(values)), 2)


def summarize(study) -> dict:
    """What ``benefit.json`` holds.

    Args:
        study: A :class:`studies.benefit.Study` that has run.
    """
    options = study.options
    found = {}
    for seed in range(options.seeds):
        for fold in study.folds:
            for condition in options.conditions:
                cell = study.cell(fold, seed, condition)
                if cell is not None:
                    found[fold, seed, condition] = cell
    cells = Cells(found)
    result: dict = {
        "settings": dataclasses.asdict(study.settings),
        "full": bool(options.full),
        "seeds": options.seeds,
        "environment": environment(),
        "folds": {fold: cell["about"] for (fold, _, _), cell in found.items()},
        "conditions": cells.conditions,
        "cells": len(found),
        "cpu_seconds": round(
            sum(cell["training_seconds"] + cell["test_seconds"] for cell in found.values())
        ),
        "groups": {name: list(domains) for name, domains in GROUPS.items()},
    }
    if "none" in cells.conditions:
        result["test_time"] = {method: cells.table("none", method) for method in METHODS}
        timed = [cell["method_ms"] for cell in found.values()]
        result["method_ms"] = {
            m: round(float(np.median([t[m] for t in timed])), 2) for m in METHODS
        }
        result["test_time_minus"] = {
            group: {
                other: {
                    name: cells.minus(("none", OWN), ("none", other), group, name)
                    for name in MEASURES
                }
                for other in METHODS
                if other != OWN
            }
            for group in GROUPS
        }
    result["augmentation"] = {c: cells.table(c, "nothing") for c in cells.conditions}
    result["augmented_and_harmonized"] = {
        c: cells.table(c, WITH_AUGMENTATION[1], ["tone"]) for c in cells.conditions
    }
    result["augmentation_ms"] = {c: cells.mean_of(c, "augmentation_ms") for c in cells.conditions}
    result["loss"] = {
        c: [
            round(float(np.mean([v["loss"][q] for k, v in found.items() if k[2] == c])), 4)
            for q in range(4)
        ]
        for c in cells.conditions
    }
    result["augmentation_minus"] = {
        own: {
            other: {
                name: cells.minus((own, "nothing"), (other, "nothing"), "tone", name)
                for name in MEASURES
            }
            for other in cells.conditions
            if other != own
        }
        for own in (OWN, f"{OWN}+nnunet")
        if own in cells.conditions
    }
    return result
