"""The page of :mod:`studies.benefit`: question, answer, figure, tables, what it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from studies.benefit_data import CHANGES, TONES
from studies.benefit_fold import CONDITIONS, MATCHING, METHODS, OWN
from studies.benefit_summary import MEASURES
from studies.common import markdown, render
from tfstyle._private.files import write_atomically

#: Not to be beaten: they take the scan in HU.
UPPER = "exact"
OUTSIDE = ("inverted", *CHANGES)
IOU = "mean_iou"


def _figure(table: Mapping, group: str = "tone", name: str = IOU, fold: str | None = None) -> str:
    _, factor, digits, _ = MEASURES[name]
    entry = table[group][name]
    value = entry["mean"] if fold is None else entry["folds"].get(fold)
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _difference(entry: Mapping | None) -> str:
    """A paired difference of the mean IoU and its interval."""
    if entry is None:
        return ""
    mean, low, high = (f"{100 * entry[IOU][key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _name(names: Mapping[str, str], key: str) -> str:
    return names.get(key, key).replace("*", "")


def answer(result: Mapping) -> str:
    """The answer in a sentence or two."""
    parts = []
    if "test_time" in result:
        minus = result["test_time_minus"]["tone"]
        parts.append(
            f"At test time a plain U-Net reaches {_figure(result['test_time'][OWN])} % mean IoU on "
            "images that the tone transfer brought to its gray scale: "
            f"{_difference(minus['nothing'])} points against nothing, "
            f"{_difference(minus[MATCHING])} against foreground histogram "
            f"matching; {_figure(result['test_time'][UPPER])} % is what the scan's own HU allow."
        )
    if "nnunet" in result["harmonized"]:
        found, minus = (result[key]["nnunet"] for key in ("harmonized", "harmonized_minus"))
        parts.append(
            f"One that was trained with nnU-Net's transforms reaches {_figure(found[OWN])} % so: "
            f"{_difference(minus['nothing'])} points against nothing, "
            f"{_difference(minus[MATCHING])} against foreground histogram matching."
        )
    table = result["augmentation"]
    others = [c for c in table if OWN not in c and UPPER not in c.split("+")]
    best = max(others, key=lambda c: table[c]["tone"][IOU]["mean"], default=None)
    parts += [
        f"As augmentation, {_name(CONDITIONS, own)} has {_difference(minus[best])} points against "
        f"the best other, {_name(CONDITIONS, best)}."
        for own, minus in result["augmentation_minus"].items()
        if best in minus
    ]
    return " ".join(parts)


def _tables(result: Mapping, part: str, names: Mapping[str, str]) -> dict[str, str]:
    """Tables of methods or augmentations: all measures, by domain, by scan, by change."""
    tables = result[part]
    labels = {key: names.get(key, key) for key in tables}
    head = ["augmentation", *(label for label, *_ in MEASURES.values())]
    rows = {k: [_figure(table, name=name) for name in MEASURES] for k, table in tables.items()}
    changes = ""
    if part == "test_time":
        head = ["at test time", *head[1:], "tone transfer − it, mean IoU", "ms a slice"]
        minus = result["test_time_minus"]
        for key, row in rows.items():
            row += [_difference(minus["tone"].get(key)), f"{result['method_ms'][key]:.1f}"]
        others = {k: [_difference(minus[g][k]) for g in OUTSIDE] for k in tables if k != OWN}
        changes = markdown(["", *OUTSIDE], [[labels[k], *cells] for k, cells in others.items()])
    else:
        minus = result["augmentation_minus"]
        head += [f"{_name(CONDITIONS, own)} − it, mean IoU" for own in minus]
        head += ["harmonized as well, mean IoU", "ms an image"]
        for key, row in rows.items():
            row += [_difference(minus[own].get(key)) for own in minus]
            row += [_figure(result["harmonized"][key][OWN])]
            row += [f"{result['augmentation_ms'][key]:.1f}"]
    domains, folds = ("training", *TONES, *OUTSIDE), [*result["folds"]]
    by_domain = {key: [_figure(table, d) for d in domains] for key, table in tables.items()}
    by_fold = {k: [_figure(table, fold=fold) for fold in folds] for k, table in tables.items()}
    parts = {"whole": (head, rows), "domains": (["", *domains], by_domain)}
    parts["folds"] = (["", *folds], by_fold)
    return {"changes": changes} | {
        name: markdown(head, [[labels[key], *cells] for key, cells in rows.items()])
        for name, (head, rows) in parts.items()
    }


def _harmonized(result: Mapping) -> str:
    """The table of augmentations by what is done at test time."""
    found = result["harmonized"]
    methods = [method for method in METHODS if any(method in row for row in found.values())]
    head = ["augmentation", *(_name(METHODS, method) for method in methods)]
    others = (MATCHING, "nyul")
    head += [f"tone transfer − {_name(METHODS, other)}" for other in others]
    rows = []
    for key, row in found.items():
        values = [_figure(row[method]) for method in methods]
        minus = result["harmonized_minus"][key]
        rows.append([_name(CONDITIONS, key), *values, *(_difference(minus[o]) for o in others)])
    return markdown(head, rows)


def write(result: Mapping, path: Path) -> None:
    """Writes the page and its figure beside it.

    Args:
        result: Of :func:`studies.benefit_summary.summarize`.
        path: The Markdown file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".png")
    draw(result, picture)
    folds = result["folds"]
    losses = result["loss"].get("none") or next(iter(result["loss"].values()))
    page = render(
        "benefit.md",
        **{key: result[key] for key in ("settings", "full", "seeds", "cells", "cpu_seconds")},
        answer=answer(result),
        picture=picture.name,
        tests=_tables(result, "test_time", METHODS) if "test_time" in result else None,
        augmentations=_tables(result, "augmentation", CONDITIONS),
        harmonized=_harmonized(result),
        losses=", ".join(f"{value:.3f}" for value in losses),
        scans="; ".join(f"{fold} ({about['tested']})" for fold, about in folds.items()),
        seen=[fold for fold, about in folds.items() if "saw" in about["tone_transfer"]],
    )
    write_atomically(path, f"{page}\n".encode())


def draw(result: Mapping, path: Path) -> None:
    """The figure: mean IoU in random gray scales, a mark for each scan left out."""
    sides = [("as augmentation", CONDITIONS, result["augmentation"])]
    if "test_time" in result:
        sides.insert(0, ("at test time", METHODS, result["test_time"]))
    figure = Figure(figsize=(6 * len(sides), 4.2), layout="constrained")
    for axes, (title, names, tables) in zip(
        figure.subplots(1, len(sides), squeeze=False)[0], sides
    ):
        order = sorted(tables, key=lambda key: tables[key]["tone"][IOU]["mean"])
        for row, key in enumerate(order):
            entry = tables[key]["tone"][IOU]
            color = "#c44e52" if OWN in key else "#999999" if UPPER in key.split("+") else "#4c72b0"
            axes.barh(row, 100 * entry["mean"], color=color, alpha=0.55, height=0.7)
            for mark, (fold, value) in zip("osD^v", entry["folds"].items()):
                label = fold if row == 0 else None
                axes.plot(100 * value, row, mark, color="black", markersize=4, label=label)
        axes.set_yticks(range(len(order)), [_name(names, key) for key in order], fontsize=8)
        axes.set_xlabel("mean IoU in random gray scales, %")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(title="left out", fontsize=7, title_fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150, metadata={"Software": None})
