"""The page of :mod:`studies.benefit`: question, answer, figure, tables, what it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from studies.benefit_data import CHANGES, TONES
from studies.benefit_fold import CONDITIONS, METHODS, OWN
from studies.benefit_summary import MEASURES
from studies.common import write_page

#: Not to be beaten: they take the scan in HU.
UPPER = "exact"
OUTSIDE = ("inverted", *CHANGES)
IOU = "mean_iou"


def write(result: Mapping, path: Path) -> None:
    """Writes the page of what :func:`studies.benefit_summary.summarize` gives, and its figure."""
    folds = result["folds"]
    losses = result["loss"].get("none") or next(iter(result["loss"].values()))
    others = {c: t for c, t in result["augmentation"].items() if not {OWN, UPPER} & {*c.split("+")}}
    write_page(
        path,
        "benefit.md",
        **{"test_time": None, **result},
        best=max(others, key=lambda c: others[c]["tone"][IOU]["mean"], default=None),
        names={"test_time": METHODS, "augmentation": CONDITIONS},
        measures=MEASURES,
        domains=("training", *TONES, *OUTSIDE),
        outside=OUTSIDE,
        own=OWN,
        picture=path.with_suffix(".png").name,
        losses=", ".join(f"{value:.3f}" for value in losses),
        scans="; ".join(f"{fold} ({about['tested']})" for fold, about in folds.items()),
        seen=[fold for fold, about in folds.items() if "saw" in about["tone_transfer"]],
    )
    draw(result, path.with_suffix(".png"))


def draw(result: Mapping, path: Path) -> None:
    """The figure: mean IoU in random gray scales, a mark for each scan left out."""
    sides = [("as augmentation", CONDITIONS, result["augmentation"])]
    if "test_time" in result:
        sides.insert(0, ("at test time", METHODS, result["test_time"]))
    figure = Figure(figsize=(6 * len(sides), 4.2), layout="constrained")
    columns = figure.subplots(1, len(sides), squeeze=False)[0]
    for axes, (title, names, tables) in zip(columns, sides):
        order = sorted(tables, key=lambda key: tables[key]["tone"][IOU]["mean"])
        for row, key in enumerate(order):
            entry = tables[key]["tone"][IOU]
            color = "#c44e52" if OWN in key else "#999999" if UPPER in key.split("+") else "#4c72b0"
            axes.barh(row, 100 * entry["mean"], color=color, alpha=0.55, height=0.7)
            for mark, (fold, value) in zip("osD^v", entry["folds"].items()):
                label = fold if row == 0 else None
                axes.plot(100 * value, row, mark, color="black", markersize=4, label=label)
        ticks = [names.get(key, key).replace("*", "") for key in order]
        axes.set_yticks(range(len(order)), ticks, fontsize=8)
        axes.set_xlabel("mean IoU in random gray scales, %")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(title="left out", fontsize=7, title_fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150, metadata={"Software": None})
