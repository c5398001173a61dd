"""``tfstyle info``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from tfstyle.cli.options import Reporting
from tfstyle.cli.output import console, print_table, print_tree

EXAMPLES = """Examples:
  tfstyle info
  tfstyle info vgg16_ct
  tfstyle info resnet50
  tfstyle info ct_series/
  tfstyle info saved_models/stylize --json"""


def info(
    target: Annotated[str | None, Parameter(help="Preset, encoder, scan, folder or model.")] = None,
    /,
    *,
    reporting: Reporting = Reporting(),
) -> dict:
    """Describe the installation, a preset, scans or a model.

    Without a target: versions, devices, encoders, and the presets with their figures. With one: a
    preset, an encoder with its taps, a run's folder, scans (never patient data), a SavedModel or a
    .keras file.
    """
    from tfstyle import info

    facts = info.describe_environment() if target is None else info.describe(target)
    if reporting.json:
        return facts
    out = console()
    tables = {"taps", "presets"} & facts.keys()
    print_tree(out, {key: value for key, value in facts.items() if key not in tables})
    if "taps" in tables:
        head = ["tap", "keras layer", "channels", "stride"]
        print_table(out, head, [tuple(row.values()) for row in facts["taps"]])
    if "presets" in tables:
        rows = [
            (row["name"], row["class"], f"{row['kilobytes']} kB", row["data"], row["figures"])
            for row in facts["presets"]
        ]
        head = ["preset", "class", "size", "data", "figures"]
        print_table(out, head, [[cell or "-" for cell in row] for row in rows])
    return facts
