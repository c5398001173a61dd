"""``tfstyle prepare``."""

from __future__ import annotations

from dataclasses import asdict

from tfstyle.cli.options import Inputs, Output, Overwrite, Reporting
from tfstyle.cli.output import complain_of_failed, console, print_facts, progress

EXAMPLES = """Examples:
  tfstyle prepare ct/ -o prepared/
  tfstyle prepare site_a/ site_b/ volume.nii.gz -o prepared/
  tfstyle train --content prepared/ --output runs/first"""


def prepare(
    inputs: Inputs,
    /,
    *,
    output: Output,
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),
) -> dict:
    """Write scans as uncompressed NIfTI files for training.

    Writes each scan as an uncompressed NIfTI file with a number for a name: pixels in HU, the
    affine and the header's window, no attribute of the patient. tfstyle train takes the folder in
    place of the scans, maps it into memory and reads only what its crops need. The same command
    resumes where an interrupted one stopped.

    Args:
        output: Folder of the files, new or empty.
    """
    from tfstyle.runs.prepare import prepare_scans

    with progress(reporting, "preparing") as update:
        result = prepare_scans(inputs, output, overwrite=overwrite, progress=update)
    if not reporting.json:
        facts = {
            "folder": result.folder,
            "scans": f"{result.scans}, {result.slices} slices, {result.bytes / 1e6:.1f} MB",
        }
        if result.resumed:
            facts["there before"] = f"{result.resumed} scans"
        print_facts(console(), facts)
    complain_of_failed(result.failed, " and were left out")
    return asdict(result)
