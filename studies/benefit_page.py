"""The page of :mod:`studies.benefit`: question, answer, figure, tables, what it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from studies.benefit_data import CHANGES, TONES
from studies.benefit_fold import CONDITIONS, METHODS, OWN
from studies.benefit_measures import MEASURES
from studies.common import markdown
from tfstyle._private.files import write_atomically

BOTH = f"{OWN}+nnunet"
#: Not to be beaten: they take the scan in HU.
UPPER = "exact"


def _figure(table: Mapping, group: str, name: str, fold: str | None = None) -> str:
    _, factor, digits, _ = MEASURES[name]
    entry = table[group][name]
    value = entry["mean"] if fold is None else entry["folds"].get(fold)
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _difference(entry: Mapping | None, name: str = "mean_iou") -> str:
    """A paired difference and its interval."""
    if entry is None:
        return ""
    _, factor, digits, _ = MEASURES[name]
    mean, low, high = (f"{factor * entry[name][k]:+.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _best_other(result: Mapping) -> str | None:
    """The condition with the largest mean IoU without the tone transfer and without HU."""
    others = [c for c in result["augmentation"] if OWN not in c and UPPER not in c.split("+")]
    means = {c: result["augmentation"][c]["tone"]["mean_iou"]["mean"] for c in others}
    return max(means, key=means.get) if means else None


def _name(table: Mapping[str, str], key: str) -> str:
    return table.get(key, key).replace("*", "")


def answer(result: Mapping) -> str:
    """The answer in a sentence or two."""
    parts = []
    if "test_time" in result:
        minus = result["test_time_minus"]["tone"]
        value = _figure(result["test_time"][OWN], "tone", "mean_iou")
        upper = _figure(result["test_time"]["exact"], "tone", "mean_iou")
        parts.append(
            f"At test time a plain U-Net reaches {value} % mean IoU on images that the tone "
            f"transfer brought to its gray scale: {_difference(minus['nothing'])} points "
            f"against nothing, {_difference(minus['foreground_histogram_matching'])} against "
            f"foreground histogram matching; {upper} % is what the scan's own HU allow."
        )
    best = _best_other(result)
    for own in (OWN, BOTH):
        minus = result["augmentation_minus"].get(own)
        if minus and best in minus:
            label = _name(CONDITIONS, own)
            parts.append(
                f"As augmentation, {label} has {_difference(minus[best])} points against "
                f"the best other, {_name(CONDITIONS, best)}."
            )
    return " ".join(parts)


def _test_time(result: Mapping) -> list[str]:
    minus = result["test_time_minus"]["tone"]
    head = ["at test time", *(label for label, *_ in MEASURES.values())]
    head += ["tone transfer − it, mean IoU", "ms a slice"]
    rows = [
        [
            METHODS[m],
            *(_figure(result["test_time"][m], "tone", name) for name in MEASURES),
            _difference(minus.get(m)),
            f"{result['method_ms'][m]:.1f}",
        ]
        for m in METHODS
    ]
    return [
        "## At test time",
        "One U-Net, trained without augmentation of gray levels; nothing is trained again. Test "
        "images in random gray scales are brought to the gray scale of the training by slices of "
        "a training scan, the same for every method.",
        markdown(head, rows),
        "Mean IoU, %, by gray scale and by change of the scanner. An inverted image would need a "
        "falling curve, which none of the methods has. Noise, blur, a sharp kernel and thick "
        "slices are not tone; another tube voltage is, as far as tissues change alike:",
        _by_domain({METHODS[m]: result["test_time"][m] for m in METHODS}),
        "Mean IoU, %, in random gray scales by the scan left out:",
        _by_fold(result, {METHODS[m]: result["test_time"][m] for m in METHODS}),
        "Tone transfer minus the method, mean IoU, where a rising curve is not, or not all, of it:",
        markdown(
            ["", *("inverted", *CHANGES)],
            [
                [METHODS[m], *(_difference(result["test_time_minus"][g][m]) for g in groups)]
                for groups in [("inverted", *CHANGES)]
                for m in METHODS
                if m != OWN
            ],
        ),
    ]


def _augmentation(result: Mapping) -> list[str]:
    table, minus = result["augmentation"], result["augmentation_minus"]
    owns = [own for own in (OWN, BOTH) if own in minus]
    head = ["augmentation", *(label for label, *_ in MEASURES.values())]
    head += [f"{_name(CONDITIONS, own)} − it, mean IoU" for own in owns]
    head += ["harmonized as well, mean IoU", "ms an image"]
    rows = [
        [
            CONDITIONS.get(c, c),
            *(_figure(table[c], "tone", name) for name in MEASURES),
            *(_difference(minus[own].get(c)) for own in owns),
            _figure(result["augmented_and_harmonized"][c], "tone", "mean_iou"),
            f"{result['augmentation_ms'][c]:.1f}",
        ]
        for c in table
    ]
    labelled = {CONDITIONS.get(c, c): table[c] for c in table}
    return [
        "## As augmentation",
        "U-Nets trained with each augmentation, from the same weights and on the same squares; "
        "tested on images in random gray scales as they are, and (harmonized as well) after the "
        "tone transfer brought them to the gray scale of the training. Images of other scans are "
        f"{result['settings']['bank']} slices of patients that are not tested, in random gray "
        "scales of the same kind, without labels.",
        markdown(head, rows),
        "Mean IoU, %, by gray scale and by change of the scanner:",
        _by_domain(labelled),
        "Mean IoU, %, in random gray scales by the scan left out:",
        _by_fold(result, labelled),
    ]


def _by_domain(tables: Mapping[str, Mapping]) -> str:
    domains = ("training", *TONES, "inverted", *CHANGES)
    return markdown(
        ["", *domains],
        [[label, *(_figure(t, d, "mean_iou") for d in domains)] for label, t in tables.items()],
    )


def _by_fold(result: Mapping, tables: Mapping[str, Mapping]) -> str:
    folds = list(result["folds"])
    return markdown(
        ["", *folds],
        [
            [label, *(_figure(t, "tone", "mean_iou", fold) for fold in folds)]
            for label, t in tables.items()
        ],
    )


def _setting(result: Mapping) -> str:
    settings, folds = result["settings"], result["folds"]
    seen = [fold for fold, about in folds.items() if "saw" in about["tone_transfer"]]
    losses = result["loss"].get("none") or next(iter(result["loss"].values()))
    text = (
        f"U-Net of width {settings['width']} and depth {settings['depth']}, "
        f"{settings['size']}×{settings['size']} pixels of {settings['spacing_mm']} mm, "
        f"{settings['steps']} steps of {settings['batch_size']} images, {result['seeds']} seeds; "
        "mean loss of the quarters of the training without augmentation: "
        f"{', '.join(f'{v:.3f}' for v in losses)}. Patients left out: "
        + "; ".join(f"{fold} ({about['tested']})" for fold, about in folds.items())
        + f"; trained on the others and {settings['phantoms']} phantoms, turned, scaled, shifted "
        f"and flipped at random. {result['cells']} U-Nets, {result['cpu_seconds'] / 3600:.1f} "
        "hours of one core. Measures are taken slice by slice, averaged over the slices of a scan, "
        "then over scans; intervals are 95 % of a bootstrap over slices within scans and over "
        "seeds. "
    )
    if seen:
        return text + (
            f"The tone transfer is the preset `tone_ct`, whose training **saw the tested scan** of "
            f"{', '.join(seen)} (its gray levels, not its labels): its figures there are too good."
        )
    return text + "Tone transfers were trained without the patient that is tested."


NOT_SHOWN = """\
- Three patients: the intervals speak of these scans, other slices and other seeds, not of other
  patients; the table by scan shows how far they differ. Two scans are of the trunk, one is a crop.
- Labels are TotalSegmentator's output on a grid of 3 mm, or parts of a vertebra, not drawn by
  hand; the boundary distance cannot be better than they are. A slice in which no spine is found
  counts with the side of the square, so that it says more of missed slices than of boundaries.
- Gray scales are drawn at random, one for about eight slices of a scan. Whoever has the scan in HU
  should window it: the last row is out of reach for every method that sees pictures only.
- A rising curve cannot turn an inverted image, take noise away or bring back sharpness; the tables
  by domain show what happens when it is tried.
- A change of the contrast agent is not tested; GIN and IPA come without the paper's consistency
  loss, and augmentations with their papers' settings, not tuned for this task."""


def write(result: Mapping, path: Path) -> None:
    """Writes the page and its figure beside it.

    Args:
        result: Of :func:`studies.benefit_summary.summarize`.
        path: The Markdown file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".png")
    draw(result, picture)
    command = "python -m studies.benefit --data DATA --models MODELS"
    parts = [
        "# Does it pay?",
        f"Written by `{command}{' --full' if result['full'] else ''}`; figures in "
        "`studies/benefit.json`.",
        "A segmenter learned one gray scale and gets scans in another. How much does it help to "
        "bring them to its own by the tone transfer, or to train with the tone transfer as "
        "augmentation, against what experts would use instead?",
        f"**{answer(result)}**",
        f"![Mean IoU by method at test time and by augmentation]({picture.name})",
        *(_test_time(result) if "test_time" in result else []),
        *_augmentation(result),
        "## What it does not show",
        NOT_SHOWN,
        "## How it was done",
        _setting(result),
    ]
    write_atomically(path, ("\n\n".join(parts) + "\n").encode())


def draw(result: Mapping, path: Path) -> None:
    """The figure: mean IoU in random gray scales, a mark for each scan left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = [("as augmentation", CONDITIONS, result["augmentation"])]
    if "test_time" in result:
        sides.insert(0, ("at test time", METHODS, result["test_time"]))
    figure = Figure(figsize=(6 * len(sides), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    marks = "osD^v"
    for axes, (title, names, tables) in zip(
        figure.subplots(1, len(sides), squeeze=False)[0], sides
    ):
        order = sorted(tables, key=lambda key: tables[key]["tone"]["mean_iou"]["mean"])
        for row, key in enumerate(order):
            entry = tables[key]["tone"]["mean_iou"]
            color = "#c44e52" if OWN in key else "#999999" if UPPER in key.split("+") else "#4c72b0"
            axes.barh(row, 100 * entry["mean"], color=color, alpha=0.55, height=0.7)
            for mark, (fold, value) in zip(marks, entry["folds"].items()):
                label = fold if row == 0 else None
                axes.plot(100 * value, row, mark, color="black", markersize=4, label=label)
        axes.set_yticks(range(len(order)), [_name(names, key) for key in order], fontsize=8)
        axes.set_xlabel("mean IoU in random gray scales, %")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(title="left out", fontsize=7, title_fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150, metadata={"Software": None})
