"""The page of results and the tables of ``docs/studies.md``, from the JSON of the studies.

    python -m studies.results_page                            # of the files in studies/
    python -m studies.results_page --segmentation study/segmentation.json --page study/index.html

Writes ``docs/results/index.html`` and what stands between the marks ``<!-- results -->`` and
``<!-- /results -->`` in ``docs/studies.md``; with --page, that page alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from studies import common, style_transfer
from studies.segmentation import CONDITIONS, MEASURES

COMMANDS = {
    "segmentation": "python -m studies.segmentation --data DATA --mse MSE_PRESET",
    "style_transfer": "python -m studies.style_transfer --mse MSE_PRESET",
}
HEAD = (
    "Condition",
    "Runs",
    "Pixel accuracy, %",
    "Mean IoU, %",
    "Accuracy − plain",
    "IoU − plain",
    "Mean IoU, seen gray scale",
)
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.S)


def segmentation_rows(result: Mapping, data: str) -> list[list[str]]:
    """The table of one data set, cells as text, columns as :data:`HEAD`."""
    rows = []
    for entry in result["summary"]:
        if entry["data"] == data:
            against = entry.get("minus_plain", {})
            rows.append(
                [
                    CONDITIONS[entry["condition"]],
                    str(entry["runs"]),
                    *(_points(entry[m]) for m in MEASURES),
                    *(_points(against.get(m), "+") for m in MEASURES),
                    _points(entry["seen"]["mean_iou"]),
                ]
            )
    return rows


def _points(entry: Mapping | None, sign: str = "") -> str:
    """A mean and its standard deviation in percentage points."""
    if not entry:
        return "–"
    text = f"{100 * entry['mean']:{sign}.1f}"
    return text if entry["std"] is None else f"{text} ± {100 * entry['std']:.1f}"


def least_runs(result: Mapping) -> int:
    """Runs of the condition that has the fewest."""
    return min(row["runs"] for row in result["summary"])


def tables(studies: Mapping[str, tuple[Mapping, Path]]) -> str:
    """Both studies in Markdown."""
    parts = []
    if "segmentation" in studies:
        result, file = studies["segmentation"]
        for name, about in result["data"].items():
            parts.append(f"**U-Net on unseen gray scales, {name}.** Split: {about['split']}.")
            parts.append(common.markdown(HEAD, segmentation_rows(result, name)))
        if least_runs(result) < 5:
            parts.append(f"As few as {least_runs(result)} seed(s): too few to speak of spread.")
        parts.append(f"From `studies/{file.name}`: `{COMMANDS['segmentation']}`.")
    if "style_transfer" in studies:
        result, file = studies["style_transfer"]
        share = 100 * result["classifier"]["accuracy"]
        right = f"The classifier tells {share:.0f} % of held-out phantoms right."
        parts.append("**Style transfer.** " + " ".join([*result["notes"], right]))
        parts.append(common.markdown(style_transfer.HEAD, style_transfer.table_rows(result)))
        parts.append(f"From `studies/{file.name}`: `{COMMANDS['style_transfer']}`.")
    return "\n\n".join(parts)


def page(studies: Mapping[str, tuple[Mapping, Path]]) -> str:
    """Both studies as a page with pictures inside."""
    values: dict = dict.fromkeys(COMMANDS)
    if "segmentation" in studies:
        result, file = studies["segmentation"]
        values["segmentation"] = {
            "command": COMMANDS["segmentation"],
            "head": HEAD,
            "least": least_runs(result),
            "settings": ", ".join(f"{k} {v}" for k, v in result["settings"].items()),
            "sets": [
                {
                    "name": name,
                    **{key: about[key] for key in ("split", "classes", "domains")},
                    "rows": segmentation_rows(result, name),
                    "by_domain": _by_domain(result, name, about["domains"]),
                    **_examples(file, name, about["domains"]),
                }
                for name, about in result["data"].items()
            ],
        }
    if "style_transfer" in studies:
        result, file = studies["style_transfer"]
        folder = file.with_name(f"{file.stem}_pictures")
        values["style_transfer"] = {
            "command": COMMANDS["style_transfer"],
            "accuracy": f"{100 * result['classifier']['accuracy']:.0f}",
            "head": style_transfer.HEAD,
            "rows": style_transfer.table_rows(result),
            "notes": result["notes"],
            "pictures": [
                {**about, "unit": _read(folder / f"{method}.png")}
                for method, about in result["pictures"].items()
                if (folder / f"{method}.png").is_file()
            ],
        }
    return common.render("results.html", **values)


def _by_domain(result: Mapping, data: str, domains: Sequence[str]) -> list[list[str]]:
    rows = []
    for condition, title in CONDITIONS.items():
        own = [r for r in result["rows"] if r["data"] == data and r["condition"] == condition]
        if own:
            means = (np.mean([r["domains"][d]["mean_iou"] for r in own]) for d in domains)
            rows.append([title, *(f"{100 * m:.1f}" for m in means)])
    return rows


def _examples(file: Path, name: str, domains: Sequence[str]) -> dict:
    """One test image in every gray scale, its mask and what each condition found."""
    folder, label = file.with_name(f"{file.stem}_examples"), re.sub("[ /]", "_", name)
    strips = {k: folder / f"{label}-{k}.png" for k in ("images", "masks", *CONDITIONS)}
    found = {kind: _read(path) for kind, path in strips.items() if path.is_file()}
    rows = ", ".join(CONDITIONS.get(kind, kind) for kind in found)
    return {
        "examples": np.concatenate([*found.values()]) if found else None,
        "caption": f"One test image. Rows: {rows}. Columns: {', '.join(domains)}.",
    }


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32) / 255


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page and the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in COMMANDS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, help="write this page, and no tables")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in COMMANDS}
    if not any(given.values()):
        given = {name: common.FOLDER / f"{name}.json" for name in COMMANDS}
    studies = {name: (json.loads(f.read_text()), f) for name, f in given.items() if f is not None}
    target = options.page or common.ROOT / "docs" / "results" / "index.html"
    target.write_text(page(studies), encoding="utf-8", errors="backslashreplace")
    if options.page is None:
        text = common.ROOT / "docs" / "studies.md"
        written, count = MARKS.subn(
            lambda found: f"{found[1]}{tables(studies)}\n{found[2]}", text.read_text()
        )
        if count != 1:
            raise SystemExit(f"{text}: needs <!-- results --> and <!-- /results --> once.")
        text.write_text(written)
    print(target)


if __name__ == "__main__":
    main()
