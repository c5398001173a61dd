#!/usr/bin/env python
"""``tfstyle augment --beam`` on Beam's local runner: kills, speed, and what the launcher needs.

    pip install '.[beam]'
    python benchmarks/beam.py --data DATA

Four parts. *Kills*: 2 000 small pictures of noise are augmented by the command in one process, by
the command on Beam, and by the command on Beam while worker processes, the process that drives the
pipeline, and the command itself are killed (SIGKILL) at random moments of the work; the command is
given again until it ends. Every file must be there once and be equal byte for byte. *Speed*:
pictures of 512x512 by one process and by one, two … workers of Beam, with the highest resident size
of a worker and of the command itself. *Series*: the same for ``tfstyle stylize`` and series of 50
slices of 512x512 in JPEG 2000, made of ``torso_dicom`` in DATA as by ``throughput.py``. *Launcher*:
time and memory to list inputs, to divide the work and to join the manifest, by their number;
the workers' rows are made up for this part alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

WORKER, DRIVER = b"apache_beam.runners.worker.sdk_worker_main", b"tfstyle.beam.driver"

LAUNCHER = """
import json, resource, sys, time
from pathlib import Path
from tfstyle.augment_scans import JOURNALS, Manifest, find_sources
from tfstyle.beam.chunks import FOLDER, Task, write_chunks

def memory():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

inputs, output, row = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
import numpy, tensorflow
from tfstyle.data import list_scans
facts, before = {}, memory()
def timed(name, begin):
    facts[name] = round(time.perf_counter() - begin, 2)
begin = time.perf_counter()
sources, damaged = find_sources(inputs)
timed("list_seconds", begin)
begin = time.perf_counter()
(output / FOLDER / "chunks").mkdir(parents=True)
tasks = [Task(source, str(inputs)) for source in sources]
facts["chunks"] = write_chunks(output, tasks, 1)
timed("divide_seconds", begin)
facts["sources"] = len(sources)
facts["mb_after_listing"] = round(memory() - before)
manifest = Manifest(output)
rows = output / JOURNALS
lines = [[] for _ in range(facts["chunks"])]
for i, source in enumerate(sources):
    name = source.stem + "-1.png"
    lines[i * facts["chunks"] // len(sources)].append(
        json.dumps(row | {"source": source.name, "image": name}) + "\\n")
for i, text in enumerate(lines):
    (rows / f"{i:06d}").mkdir(parents=True)
    (rows / f"{i:06d}" / "a.jsonl").write_text("".join(text))
del lines
begin = time.perf_counter()
manifest.absorb()
timed("join_seconds", begin)
facts["mb_more_at_most"] = round(
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)
facts["manifest_bytes_per_row"] = round(manifest.path.stat().st_size / len(sources))
print(json.dumps(facts))
"""


def write_pictures(folder: Path, count: int, size: int, seed: int = 0, per_folder: int = 100):
    """Smooth noise, in folders of `per_folder`."""
    from tfstyle.data import write_png

    rng = np.random.default_rng(seed)
    for i in range(count):
        grain = rng.random((size, size))
        for axis in (0, 1):
            grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
        path = folder / f"{i // per_folder:03d}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(grain, path)


def contents(folder: Path) -> dict[str, str]:
    """Every file, hidden ones too, by the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(inputs: Path, output: Path, styles: Path, options, workers: int | None):
    """The command line; None for one process without Beam."""
    line = [sys.executable, "-m", "tfstyle", "augment", str(inputs), str(output)]
    line += ["--styles", str(styles), "--preset", options.preset, "--json"]
    return line if workers is None else [*line, "--beam", f"--direct_num_workers={workers}"]


def start(line: list[str], threads: int, stdout: int = subprocess.PIPE) -> subprocess.Popen:
    """Starts a command in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        line, env=environment, stdout=stdout, stderr=subprocess.DEVNULL, text=True
    )


def processes(marker: bytes, place: Path) -> list[int]:
    """Processes of a run on `place`: with a word in their command line or in their session's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            session = os.getsid(int(entry.name))
            leader = Path(f"/proc/{session}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if marker in words and str(place).encode() in b"\0".join(words) + leader:
            found.append(int(entry.name))
    return found


def highest_memory(pid: int) -> int:
    """The highest resident size of a process so far, in MB; 0 if it has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    return 0


def finished(output: Path) -> int:
    """Images that workers have noted, in the journals of a run that goes on."""
    count = 0
    for path in (output / ".beam" / "rows").glob("*/*.jsonl"):
        try:
            count += path.read_bytes().count(b'{"status": "done"')
        except OSError:
            continue
    return count


def timed(line: list[str], output: Path, threads: int) -> dict:
    """One run from beginning to end; with its start and end where it is one of Beam."""
    begin = time.time()
    process = start(line, threads, subprocess.DEVNULL)
    memory = {"command": 0, "driver": 0, "worker": 0}
    while process.poll() is None:
        own, driver = [process.pid], processes(DRIVER, output)
        for name, pids in zip(memory, (own, driver, processes(WORKER, output))):
            memory[name] = max([memory[name], *map(highest_memory, pids)])
        time.sleep(0.2)
    seconds = time.time() - begin
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(line)}: ended with {process.returncode}")
    kind = "*.dcm" if "stylize" in line else "*.png"
    images = [path.stat().st_mtime for path in output.rglob(kind)]
    first, last = min(images) - begin, max(images) - begin
    return {
        "images": len(images),
        "seconds": round(seconds, 1),
        "first_image_after": round(first, 1),
        "after_last_image": round(seconds - last, 1),
        "images_per_second_between": round((len(images) - 1) / (last - first), 2),
        "highest_memory_mb": {name: size for name, size in memory.items() if size},
    }


def kills(folder: Path, options) -> dict:
    """2 000 pictures, by one process, by Beam, and by Beam under fire."""
    inputs, styles = folder / "small", folder / "styles"
    write_pictures(inputs, options.pictures, 24)
    (inputs / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    facts = {"pictures": options.pictures, "size": 24, "workers": 2}
    for name, workers in (("one_process", None), ("beam", 2)):
        output = folder / name
        facts[name] = timed(command(inputs, output, styles, options, workers), output, 1)
        print(name, facts[name], flush=True)
    rng, output = random.Random(options.seed), folder / "killed"
    victims = ["worker"] * 6 + ["driver"] * 2 + ["command"] * 2
    rng.shuffle(victims)
    line, moments, starts = command(inputs, output, styles, options, 2), [], 0
    begin = time.time()
    while True:
        process, starts = start(line, 1), starts + 1
        while victims and process.poll() is None:
            there = finished(output)
            while process.poll() is None and finished(output) <= there + rng.randrange(10, 150):
                time.sleep(0.05)
            if process.poll() is not None:
                break
            what = victims.pop()
            if what == "command":
                targets = [process.pid]
            else:
                targets = processes(WORKER if what == "worker" else DRIVER, output)
            if not targets:
                victims.append(what)
                continue
            os.kill(rng.choice(targets), signal.SIGKILL)
            moments.append({"killed": what, "images_finished": finished(output)})
            print(moments[-1], flush=True)
            if what == "command":
                break
        text = process.communicate()[0]
        if process.returncode != -signal.SIGKILL:
            break
    result = json.loads(text)
    time.sleep(2)
    alone, beam, found = (contents(folder / one) for one in ("one_process", "beam", "killed"))
    rows = [json.loads(row) for row in (output / "manifest.jsonl").read_text().splitlines()]
    done = [(row["source"], row["part"], row["copy"]) for row in rows if row["status"] == "done"]
    dead_letters = (output / "failed.jsonl").read_text().splitlines()
    del beam["failed.jsonl"], found["failed.jsonl"]
    facts["under_fire"] = {
        "kills": moments,
        "kills_not_reached": len(victims),
        "times_the_command_was_given": starts,
        "seconds": round(time.time() - begin, 1),
        "written_by_the_last_command": result["written"],
        "keys": len(set(done)),
        "keys_more_than_once": len(done) - len(set(done)),
        "dead_letters": [json.loads(line) for line in dead_letters],
        "files_equal_to_those_of_one_process": found == alone,
        "temporary_files_left": sorted(path for path in found if path not in alone),
        "processes_left": len(processes(WORKER, output) + processes(DRIVER, output)),
    }
    facts["files_of_beam_equal_to_those_of_one_process"] = beam == alone
    return facts


def speed(folder: Path, options) -> dict:
    """512x512 by the number of workers."""
    inputs, runs = folder / "large", []
    write_pictures(inputs, options.slices, 512, per_folder=50)
    cpus = os.cpu_count()
    for workers in [None, *range(1, cpus + 1)]:
        output = folder / f"large-{workers}"
        threads = max(1, cpus // (workers or 1))
        line = command(inputs, output, folder / "styles", options, workers)
        facts = {"workers": workers or "one process, no Beam", "threads_each": threads}
        runs.append(facts | timed(line, output, threads))
        print(runs[-1], flush=True)
    return {"size": 512, "runs": runs}


def series(folder: Path, options) -> dict:
    """Series of DICOM by the number of workers."""
    from throughput import make_series

    source, runs = options.data / "torso_dicom", []
    style = sorted(source.glob("*.dcm"))[5]
    (folder / "series").mkdir()
    for i in range(options.series):
        make_series(source, folder / "series" / f"{i:03d}", 50)
    cpus = os.cpu_count()
    for workers in [None, *range(1, cpus + 1)]:
        output = folder / f"stylized-{workers}"
        threads = max(1, cpus // (workers or 1))
        line = [sys.executable, "-m", "tfstyle", "stylize", str(folder / "series")]
        line += ["--style", str(style), "--window", "soft-tissue", "--style-window=-600,1500"]
        line += ["-o", str(output), "--preset", options.preset, "--json"]
        if workers is not None:
            line += ["--beam", f"--direct_num_workers={workers}"]
        facts = {"workers": workers or "one process, no Beam", "threads_each": threads}
        runs.append(facts | timed(line, output, threads))
        print(runs[-1], flush=True)
    return {"size": 512, "slices_a_series": 50, "runs": runs}


def launcher(folder: Path, options) -> list[dict]:
    """What it takes to know of many inputs; PNG are told by name, DICOM by a look at each."""
    import pydicom
    from pydicom.data import get_testdata_file
    from pydicom.uid import generate_uid

    runs = []
    write_pictures(folder / "small", 1, 24)
    sample = next((folder / "small").rglob("*.png"))
    start(command(folder / "small", folder / "out", folder / "styles", options, None), 1).wait()
    row = json.loads((folder / "out" / "manifest.jsonl").read_text())
    for kind, count in (
        *(("png", count) for count in options.listed),
        ("dicom series of 100", options.listed[0]),
    ):
        place = folder / f"{kind[:3]}-{count}"
        if kind == "png":
            for i in range(count):
                path = place / f"{i // 1000:04d}" / f"{i:07d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if i % 50_000 == 0:  # file systems limit the names of one file
                    shutil.copy(sample, path)
                    named = path
                else:
                    os.link(named, path)
        else:
            dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
            for i in range(count):
                if i % 100 == 0:
                    dataset.SeriesInstanceUID = generate_uid()
                path = place / f"{i // 100:04d}" / f"{i:07d}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                dataset.save_as(path)
        output = folder / f"listed-{place.name}"
        output.mkdir()
        line = [sys.executable, "-c", LAUNCHER, str(place), str(output), json.dumps(row)]
        process = start(line, 1)
        facts = json.loads(process.communicate()[0].splitlines()[-1])
        facts = {"inputs": kind, "files": count} | facts
        facts["files_listed_per_second"] = round(count / facts["list_seconds"])
        runs.append(facts)
        print(runs[-1], flush=True)
        shutil.rmtree(place)
    return runs


PARTS = {"kills": kills, "launcher": launcher, "speed": speed, "series": series}


def main() -> None:
    """Writes ``benchmarks/beam.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder of the real CT, for the part series")
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--preset", default="tone_ct")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--listed", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    if "series" in options.parts and options.data is None:
        parser.error("--data: needed for the part series")
    import apache_beam

    from tfstyle.training import environment

    # Parts that are not done again stay as they are.
    result = json.loads(options.output.read_text()) if options.output.exists() else {}
    result |= {
        "preset": options.preset,
        "cpus": os.cpu_count(),
        "runner": "Beam's local runner, multi_processing",
    }
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder, "styles"), 3, 64, seed=1)
            result[part] = PARTS[part](Path(folder), options)
        result["environment"] = environment() | {"apache-beam": apache_beam.__version__}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
