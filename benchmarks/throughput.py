#!/usr/bin/env python
"""A long series from compressed DICOM to derived DICOM: slices per second, memory.

    python benchmarks/throughput.py --data DATA

DATA holds ``torso_dicom``, 20 slices of 512x512 in JPEG 2000; they are repeated along the axis,
pixels as they are, until the series is long enough. ``tfstyle.runs.stylize_scans`` stylizes it
with the default preset, by one curve, in a process of its own, which is watched ten times a second:
CPU time and resident memory of the process and its workers. A run of another length tells whether
memory grows with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: Share of the time in which no image is in the network, at most.
GOAL = 0.15
TICK = os.sysconf("SC_CLK_TCK")

CHILD = """
import json, sys, time
start = time.perf_counter()
import tfstyle
from tfstyle.data import Window
from tfstyle.runs import stylize_scans
source, style, output, workers = sys.argv[1:5]
model = tfstyle.from_preset(sys.argv[5] or None)
begin = time.perf_counter()
(done,) = stylize_scans(model, [source], [style], output, window="soft_tissue",
                        style_window=Window(-600, 1500), workers=int(workers))
wall = time.perf_counter() - begin
print(json.dumps({"slices": done.slices, "seconds": wall,
                  "network_seconds": done.seconds, "start_seconds": begin - start,
                  "structure": done.structure}), flush=True)
"""


def make_series(source: Path, folder: Path, count: int) -> None:
    """Writes `count` slices made of those in `source`, at new positions, still compressed."""
    import pydicom
    from pydicom.uid import generate_uid

    originals = [pydicom.dcmread(path) for path in sorted(source.glob("*.dcm"))]
    originals.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    uid, study = generate_uid(), generate_uid()
    folder.mkdir()
    for i in range(count):
        turn, place = divmod(i, len(originals))
        dataset = originals[place if turn % 2 == 0 else len(originals) - 1 - place]
        x, y, _ = originals[0].ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, 3.0 * i]
        dataset.SliceLocation = 3.0 * i
        dataset.InstanceNumber = i + 1
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid, study
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{i:05d}.dcm")


def family(pid: int) -> list[int]:
    """A process and what it started."""
    found, parents = [pid], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    for one in found:
        found.extend(parents.get(one, []))
    return found


def usage(pid: int) -> tuple[float, float, float]:
    """CPU seconds of a process and its family, and resident MB of itself and of the others."""
    cpu, memory = 0.0, []
    for one in family(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / TICK
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return cpu, memory[0] if memory else 0.0, sum(memory[1:])


def start(source: Path, style: Path, output: Path, options) -> subprocess.Popen:
    """Starts a run."""
    command = [sys.executable, "-c", CHILD, str(source), str(style), str(output)]
    command += [str(options.workers), options.preset]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def watched(source: Path, style: Path, output: Path, options) -> dict:
    """One run from beginning to end."""
    process = start(source, style, output, options)
    samples, begin = [], time.perf_counter()
    while process.poll() is None:
        samples.append((time.perf_counter() - begin, *usage(process.pid)))
        time.sleep(0.1)
    facts = json.loads(process.stdout.read().splitlines()[-1])
    _, cpu, own, others = np.array(samples).T
    facts["slices_per_second"] = round(facts["slices"] / facts["seconds"], 2)
    facts["share_outside_network"] = round(1 - facts["network_seconds"] / facts["seconds"], 4)
    facts["cpu_seconds"] = round(float(cpu.max()), 1)
    working = facts["seconds"]
    at = np.searchsorted([t for t, *_ in samples], samples[-1][0] - working)
    facts["cpus_in_use"] = round(float((cpu.max() - cpu[at]) / working), 2)
    facts["memory_mb"] = {
        "main, highest": round(float(own.max())),
        "main, at the end": round(float(own[-3:].max())),
        "workers, highest": round(float(others.max())),
    }
    return facts


def main() -> None:
    """Writes ``benchmarks/throughput.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--preset", default="", help="default: the default preset")
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    from tfstyle import presets
    from tfstyle.runs import environment

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        style = sorted((options.data / "torso_dicom").glob("*.dcm"))[5]
        for count in options.slices:
            source = folder / f"series{count}"
            make_series(options.data / "torso_dicom", source, count)
            rows.append(watched(source, style, folder / f"out{count}", options))
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "preset": options.preset or presets.DEFAULT,
        "cpus": os.cpu_count(),
        "workers": options.workers,
        "runs": rows,
        "reached": {
            "share_outside_network_at_most": GOAL,
            "share_outside_network": rows[-1]["share_outside_network"],
        },
        "slices_per_night_of_8_hours": round(rows[-1]["slices_per_second"] * 8 * 3600),
        "environment": environment(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


if __name__ == "__main__":
    main()
