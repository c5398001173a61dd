"""``tfstyle prepare``."""

from __future__ import annotations

from tfstyle.cli.options import Inputs, Output, Overwrite, Reporting
from tfstyle.cli.output import complain_of_failed, console, print_facts, progress

EXAMPLES = """Examples:
  tfstyle prepare ct/ -o prepared/
  tfstyle prepare site_a/ site_b/ volume.nii.gz -o prepared/ --shard-mb 1024
  tfstyle train --content prepared/ --output runs/first"""


def prepare(
    inputs: Inputs,
    /,
    *,
    output: Output,
    overwrite: Overwrite = False,
    shard_mb: float = 256.0,
    reporting: Reporting = Reporting(),
) -> dict:
    """Write scans as TFRecord shards for training.

    Writes scans as TFRecord shards with an index: pixels in HU, spacing and the header's window,
    no attribute of the patient. tfstyle train takes the folder in place of the scans, maps it into
    memory and reads only what its crops need, on each machine its own part. The same command
    resumes where an interrupted one stopped.

    Args:
        output: Folder of the shards, new or empty.
        shard_mb: Size in MB from which on a new shard is begun; scans are not split.
    """
    from tfstyle.runs.prepare import prepare_scans

    with progress(reporting, "preparing") as update:
        result = prepare_scans(
            inputs, output, shard_mb=shard_mb, overwrite=overwrite, progress=update
        )
    if not reporting.json:
        facts = {
            "index": result.index,
            "shards": f"{result.shards}, {result.bytes / 1e6:.1f} MB",
            "scans": f"{result.scans}, {result.slices} slices",
        }
        if result.resumed:
            facts["there before"] = f"{result.resumed} shards"
        print_facts(console(), facts)
    complain_of_failed(result.failed, " and were left out")
    return result.as_dict()
