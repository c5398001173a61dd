#!/usr/bin/env python
"""The page of results and the tables of ``docs/studies.md``, from the JSON of the studies.

    python benchmarks/results_page.py

Writes ``docs/results/index.html`` and what stands between the marks ``<!-- results -->`` and
``<!-- /results -->`` in ``docs/studies.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

COMMANDS = {
    "segmentation": "python benchmarks/segmentation.py --data DATA --mse MSE_PRESET",
    "style_transfer": "python benchmarks/style_transfer.py --mse MSE_PRESET",
}
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.S)


def tables(studies: dict) -> str:
    """Markdown of both studies."""
    from tfstyle.experiments import results
    from tfstyle.experiments.style_transfer import HEAD, table_rows

    parts = []
    if "segmentation" in studies:
        study = studies["segmentation"][0]
        for name, about in study["data"].items():
            parts.append(f"**U-Net on unseen gray scales, {name}.** Split: {about['split']}.")
            parts.append(
                results.markdown(results.SEGMENTATION_HEAD, results.segmentation_rows(study, name))
            )
        least = min(row["runs"] for row in study["summary"])
        if least < 5:
            parts.append(
                f"Preliminary: as few as {least} seed(s) a condition, too few to speak of spread."
            )
        file = studies["segmentation"][1].name
        parts.append(f"From `benchmarks/{file}`: `{COMMANDS['segmentation']}`.")
    if "style_transfer" in studies:
        study = studies["style_transfer"][0]
        share = 100 * study["classifier"]["accuracy"]
        right = f"The classifier tells {share:.0f} % of held-out phantoms right."
        parts.append("**Style transfer.** " + " ".join([*study["notes"], right]))
        parts.append(results.markdown(HEAD, table_rows(study)))
        parts.append(f"From `benchmarks/style_transfer.json`: `{COMMANDS['style_transfer']}`.")
    return "\n\n".join(parts)


def main() -> None:
    """Writes the page and the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in COMMANDS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=Path,
            default=ROOT / "benchmarks" / f"{name}.json",
            metavar="FILE",
            help="default: %(default)s",
        )
    options = parser.parse_args()
    from tfstyle.experiments.results import write_results

    studies = {}
    for name in COMMANDS:
        file = getattr(options, name)
        if file.is_file():
            studies[name] = (json.loads(file.read_text()), file)
    if "segmentation" in studies:
        from tfstyle.experiments.segmentation import complete_seeds

        result, file = studies["segmentation"]
        studies["segmentation"] = complete_seeds(result), file
    page = write_results(
        ROOT / "docs" / "results" / "index.html",
        **studies,
        commands=COMMANDS,
    )
    target = ROOT / "docs" / "studies.md"
    text = target.read_text()
    part = tables(studies)
    text, count = MARKS.subn(lambda found: f"{found[1]}{part}\n{found[2]}", text)
    if count != 1:
        raise SystemExit(f"{target}: needs the marks <!-- results --> and <!-- /results --> once.")
    target.write_text(text)
    print(page)


if __name__ == "__main__":
    main()
