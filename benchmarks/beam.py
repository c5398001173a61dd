#!/usr/bin/env python
"""``tfstyle augment --beam`` on Beam's local runner: kills, and speed by the number of workers.

    pip install '.[beam]'
    python benchmarks/beam.py --data DATA

Three parts. *Kills*: 2 000 small pictures of noise and a damaged one are augmented by the command
in one process, by the command on Beam, and by the command on Beam while it is killed with all its
workers (SIGKILL) at random moments; the command is given again until it ends. Every file must be
there once and be equal byte for byte. *Speed*: pictures of 512x512 by one process and by one, two …
workers of Beam. *Series*: the same for ``tfstyle stylize`` and series of 50 slices of 512x512 in
JPEG 2000, made of ``torso_dicom`` in DATA as by ``throughput.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


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


def augment(inputs: Path, output: Path, styles: Path, options, workers: int | None) -> list[str]:
    """The command line; None for one process without Beam."""
    line = [sys.executable, "-m", "tfstyle", "augment", str(inputs), str(output)]
    line += ["--styles", str(styles), "--preset", options.preset, "--json"]
    return line if workers is None else [*line, "--beam", f"--direct_num_workers={workers}"]


def start(line: list[str], threads: int, stdout: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Starts a command in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        line,
        env=environment,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def timed(line: list[str], output: Path, threads: int = 1) -> dict:
    """One run from beginning to end."""
    begin = time.time()
    process = start(line, threads)
    if process.wait() not in (0, 1):
        raise SystemExit(f"{' '.join(line)}: ended with {process.returncode}")
    seconds = time.time() - begin
    images = [path.stat().st_mtime for kind in ("png", "dcm") for path in output.rglob(f"*.{kind}")]
    first, last = min(images) - begin, max(images) - begin
    return {
        "images": len(images),
        "seconds": round(seconds, 1),
        "first_image_after": round(first, 1),
        "after_last_image": round(seconds - last, 1),
        "images_per_second_between": round((len(images) - 1) / (last - first), 2),
    }


def kills(folder: Path, options) -> dict:
    """Small pictures by one process, by Beam, and by Beam under fire."""
    inputs, styles, rng = folder / "small", folder / "styles", random.Random(options.seed)
    write_pictures(inputs, options.pictures, 24)
    (inputs / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    facts = {"pictures": options.pictures, "size": 24, "workers": 2}
    for name, workers in (("one_process", None), ("beam", 2)):
        output = folder / name
        facts[name] = timed(augment(inputs, output, styles, options, workers), output)
        print(name, facts[name], flush=True)
    output, moments, begin = folder / "killed", [], time.time()
    line = augment(inputs, output, styles, options, 2)
    while True:
        process = start(line, 1, subprocess.PIPE)
        limit = rng.randrange(1, options.pictures) if len(moments) < options.kills else np.inf
        while process.poll() is None and len(list((output / "images").rglob("*.png"))) < limit:
            time.sleep(0.2)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        moments.append(len(list((output / "images").rglob("*.png"))))
        print("killed at", moments[-1], flush=True)
    result = json.loads(process.communicate()[0])
    alone, beam, found = (contents(folder / one) for one in ("one_process", "beam", "killed"))
    del beam["failed.jsonl"], found["failed.jsonl"]
    facts["under_fire"] = {
        "images_when_killed": moments,
        "seconds": round(time.time() - begin, 1),
        "failed": result["failed"],
        "files_equal_to_those_of_one_process": found == alone,
    }
    facts["files_of_beam_equal_to_those_of_one_process"] = beam == alone
    return facts


def by_workers(make_line, folder: Path) -> list[dict]:
    """One process, then Beam with one, two … workers, which share the CPUs."""
    runs, cpus = [], os.cpu_count()
    for workers in [None, *range(1, cpus + 1)]:
        output, threads = folder / f"out-{workers}", max(1, cpus // (workers or 1))
        facts = {"workers": workers or "one process, no Beam", "threads_each": threads}
        runs.append(facts | timed(make_line(output, workers), output, threads))
        print(runs[-1], flush=True)
    return runs


def speed(folder: Path, options) -> dict:
    """Pictures of 512x512."""
    inputs, styles = folder / "large", folder / "styles"
    write_pictures(inputs, options.slices, 512, per_folder=50)
    runs = by_workers(
        lambda output, workers: augment(inputs, output, styles, options, workers), folder
    )
    return {"size": 512, "runs": runs}


def series(folder: Path, options) -> dict:
    """Series of DICOM."""
    from throughput import make_series

    source = options.data / "torso_dicom"
    style = sorted(source.glob("*.dcm"))[5]
    (folder / "series").mkdir()
    for i in range(options.series):
        make_series(source, folder / "series" / f"{i:03d}", 50)

    def line(output: Path, workers: int | None) -> list[str]:
        words = [sys.executable, "-m", "tfstyle", "stylize", str(folder / "series")]
        words += ["--style", str(style), "--window", "soft-tissue", "--style-window=-600,1500"]
        words += ["-o", str(output), "--preset", options.preset, "--json"]
        return words if workers is None else [*words, "--beam", f"--direct_num_workers={workers}"]

    return {"size": 512, "slices_a_series": 50, "runs": by_workers(line, folder)}


PARTS = {"kills": kills, "speed": speed, "series": series}


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
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    if "series" in options.parts and options.data is None:
        parser.error("--data: needed for the part series")
    import apache_beam

    from tfstyle.runs.training import environment

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
