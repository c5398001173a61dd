"""``tfstyle phantom``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from tfstyle.cli.options import AtLeastOne, Reporting
from tfstyle.cli.output import console, progress

EXAMPLES = """Examples:
  tfstyle phantom phantoms/ --count 8
  tfstyle phantom phantoms/ --count 2 --size 512 --protocol bone-sharp --seed 7"""


def phantom(
    output: Annotated[str, Parameter(help="Folder, new or empty.")],
    /,
    *,
    count: AtLeastOne = 1,
    size: AtLeastOne = 256,
    protocol: str = "standard",
    seed: int = 0,
    reporting: Reporting = Reporting(),
) -> dict:
    """Draw spine CT phantoms with exact masks.

    Draws axial spine CT phantoms: HU and masks as NIfTI, and a PNG under a named gray-scale
    protocol.

    Args:
        count: Number of phantoms.
        size: Rows and columns in pixels.
        protocol: Gray-scale protocol of the PNG: standard, bone-sharp, low-kv, bright, ….
        seed: Seed of the first phantom; the others have the next numbers.
    """
    from tfstyle.data.phantom import write_phantoms

    with progress(reporting, "drawing") as update:
        files = write_phantoms(
            output, count=count, size=size, protocol=protocol, seed=seed, progress=update
        )
    if not reporting.json:
        console().print(f"Wrote {len(files)} files to {output}.")
    return {"files": files}
