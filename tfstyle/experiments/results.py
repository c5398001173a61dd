"""The page of results: what style augmentation brings, and how style transfer compares."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from tfstyle._private.files import write_atomically
from tfstyle.data import read_png
from tfstyle.errors import OutputError
from tfstyle.experiments import page
from tfstyle.experiments.segmentation import CONDITIONS, MEASURES, examples_folder

_TITLES = {
    "plain": "Plain",
    "classical": "Classical",
    "histogram_matching": "Histogram matching",
    "adain_mse": "AdaIN-MSE",
    "ours": "Ours",
    "ours_classical": "Ours and classical",
}


def write_results(
    output: str | os.PathLike,
    *,
    segmentation: tuple[Mapping, str | os.PathLike] | None = None,
    style_transfer: tuple[Mapping, str | os.PathLike] | None = None,
    commands: Mapping[str, str] | None = None,
) -> Path:
    """Writes one HTML file with tables and pictures inside.

    Args:
        output: The file.
        segmentation: Result of the segmentation study and the JSON file that it lies in.
        style_transfer: The same of the style transfer study.
        commands: For ``"segmentation"`` and ``"style_transfer"``, the command that made it.

    Returns:
        The file's path.

    Raises:
        OutputError: If it cannot be written.
    """
    output = Path(output)
    commands = commands or {}
    parts = ["<h1>Does it help?</h1>"]
    if segmentation is not None:
        parts += _segmentation(*segmentation, commands.get("segmentation"))
    if style_transfer is not None:
        parts += _style_transfer(*style_transfer, commands.get("style_transfer"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(output, error) from error
    html = page.page("tfstyle: results", *parts)
    write_atomically(output, html.encode(errors="backslashreplace"))  # names of files in any bytes
    return output


# -- segmentation --------------------------------------------------------------------------


def _points(entry: Mapping | None, signed: bool = False) -> str:
    """A mean and its standard deviation in percentage points."""
    if not entry:
        return "–"
    text = f"{100 * entry['mean']:{'+' if signed else ''}.1f}"
    return text if entry["std"] is None else f"{text} ± {100 * entry['std']:.1f}"


def segmentation_rows(result: Mapping, data: str) -> list[list[str]]:
    """The table of one data set, cells as text.

    Args:
        result: Of :func:`tfstyle.experiments.segmentation.run_segmentation_study`.
        data: Name of the data set.

    Returns:
        Rows of condition, runs, pixel accuracy, mean IoU on unseen gray scales, their differences
        to plain, mean IoU on the seen gray scale.
    """
    rows = []
    for entry in result["summary"]:
        if entry["data"] != data:
            continue
        against = entry.get("minus_plain", {})
        rows.append(
            [
                _TITLES[entry["condition"]],
                str(entry["runs"]),
                *(_points(entry[m]) for m in MEASURES),
                *(_points(against.get(m), signed=True) for m in MEASURES),
                _points((entry.get("seen") or {}).get("mean_iou")),
            ]
        )
    return rows


SEGMENTATION_HEAD = (
    "Condition",
    "Runs",
    "Pixel accuracy, %",
    "Mean IoU, %",
    "Accuracy − plain",
    "IoU − plain",
    "Mean IoU, seen gray scale",
)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first on the right."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| --- |" + " ---: |" * (len(head) - 1))
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def verdict(result: Mapping, data: str) -> str:
    """One sentence that says how ours stands against plain and classical."""
    entries = {e["condition"]: e for e in result["summary"] if e["data"] == data}
    ours = {name: entries[name] for name in ("ours", "ours_classical") if name in entries}
    if not ours or "plain" not in entries:
        return ""
    parts = []
    for name, entry in ours.items():
        plain = entry.get("minus_plain")
        text = f"{_TITLES[name]}: {_points(plain['mean_iou'], True)} points of mean IoU and "
        text += f"{_points(plain['pixel_accuracy'], True)} of pixel accuracy against plain"
        if "minus_classical" in entry:
            text += f", {_points(entry['minus_classical']['mean_iou'], True)} of mean IoU against "
            text += "classical augmentation"
        parts.append(text)
    return "; ".join(parts) + "."


def _segmentation(result: Mapping, file: str | os.PathLike, command: str | None) -> list[str]:
    parts = [
        "<h2>Segmentation on unseen gray scales</h2>",
        '<p class="lead">A U-Net is trained on one gray scale and tested on others. All conditions '
        "start from the same weights and see the same images, flips and number of steps for each "
        "seed; they differ in the gray levels of the training images alone.</p>",
        "<p>Histogram matching, AdaIN-MSE and ours know the target gray scales from scans without "
        "masks, which are neither trained on nor tested; plain and classical augmentation do not. "
        "AdaIN-MSE is StyleAugmentation with a preset trained with MSE. "
        "Figures are the mean over unseen gray scales, then mean and standard deviation over "
        "seeds; differences are taken seed by seed.</p>",
        _command(command),
    ]
    least = min((row["runs"] for row in result["summary"]), default=0)
    if least < 5:
        parts.append(
            f'<p class="notice">As few as {least} seed(s) a condition: too few to speak of '
            "spread.</p>"
        )
    for name, about in result["data"].items():
        parts += [
            f"<h3>{escape(name.capitalize())}</h3>",
            f'<p class="soft">Split: {escape(about["split"])}. Classes: '
            f"{escape(', '.join(about['classes']))}.</p>",
            f"<p>{escape(verdict(result, name))}</p>",
            page.table(SEGMENTATION_HEAD, segmentation_rows(result, name), range(1, 7)),
            "<details><summary>Mean IoU by gray scale</summary>",
            _by_domain(result, name, about["domains"]),
            "</details>",
            _examples(file, name, about["domains"]),
        ]
    settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items())
    parts.append(f'<p class="soft">Settings: {escape(settings)}.</p>')
    return parts


def _by_domain(result: Mapping, data: str, domains: Sequence[str]) -> str:
    rows = []
    for condition in CONDITIONS:
        own = [r for r in result["rows"] if r["data"] == data and r["condition"] == condition]
        if own:
            means = (np.mean([r["domains"][d]["mean_iou"] for r in own]) for d in domains)
            rows.append([_TITLES[condition], *(f"{100 * m:.1f}" for m in means)])
    return page.table(["Condition", *domains], rows, range(1, len(domains) + 1))


def _examples(file: str | os.PathLike, name: str, domains: Sequence[str]) -> str:
    folder, label = examples_folder(file), name.replace(" ", "_").replace("/", "_")
    kinds = [k for k in ("images", "masks", *CONDITIONS) if _strip(folder, label, k).is_file()]
    if not kinds:
        return ""
    strips = [read_png(_strip(folder, label, kind)) for kind in kinds]
    picture = np.concatenate([np.asarray(s.pixels[0], np.float32) / 255 for s in strips])
    rows = ", ".join(_TITLES.get(k, k) for k in kinds)
    caption = f"One test image. Rows: {rows}. Columns: {', '.join(domains)}."
    return figure(picture, f"Segmentations, {name}", caption)


def _strip(folder: Path, label: str, kind: str) -> Path:
    return folder / f"{label}-{kind}.png"


def figure(unit: np.ndarray, label: str, caption: str) -> str:
    """A picture of any shape across the page.

    Args:
        unit: Float image (H, W) in [0, 1].
        label: Short label, plain text.
        caption: Plain text.

    Returns:
        HTML.
    """
    data = base64.b64encode(page.png_bytes(unit)).decode("ascii")
    return (
        f'<figure style="margin:12px 0 24px"><img style="aspect-ratio:auto" alt="{escape(label)}" '
        f'src="data:image/png;base64,{data}"><figcaption><b>{escape(label)}</b> '
        f"{escape(caption)}</figcaption></figure>"
    )


def _command(command: str | None) -> str:
    return "" if command is None else f"<pre><code>$ {escape(command)}</code></pre>"


# -- style transfer ------------------------------------------------------------------------


def _style_transfer(result: Mapping, file: str | os.PathLike, command: str | None) -> list[str]:
    from tfstyle.experiments.style_transfer import HEAD, pictures_folder, table_rows

    parts = [
        "<h2>Style transfer</h2>",
        "<p>Phantoms have an answer: the content phantom itself under the protocol of the style. "
        "LPIPS to that answer is lower the better; LPIPS between images of one content in "
        "different styles, and the conditional inception score, are higher the more a method "
        "follows the style. The score's classifier is trained from random weights on phantoms, "
        f"and tells {100 * result['classifier']['accuracy']:.0f} % of held-out phantoms right.</p>",
        _command(command),
        page.table(HEAD, table_rows(result), range(1, len(HEAD))),
    ]
    parts += [f'<p class="soft">{escape(note)}</p>' for note in result["notes"]]
    for path in sorted(pictures_folder(file).glob("*.png")):
        about = result["pictures"].get(path.stem)
        if about:
            picture = np.asarray(read_png(path).pixels[0], np.float32) / 255
            parts.append(figure(picture, about["label"], about["caption"]))
    return parts
