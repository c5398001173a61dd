#!/usr/bin/env python
"""``tfstyle augment`` and ``stylize`` on Beam's local runner, beside one process without Beam.

    pip install '.[beam]'
    python benchmarks/beam.py --data DATA

*Speed*: pictures of 512x512 by one process and by one, two … workers of Beam, with the highest
resident size of the command and of its children. *Series*: the same for ``tfstyle stylize`` and
series of 50 slices of 512x512 in JPEG 2000, made of ``torso_dicom`` in DATA as by
``throughput.py``.
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
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from throughput import family, make_series  # noqa: E402


def write_pictures(folder: Path, count: int, size: int, seed: int = 0) -> None:
    """Smooth noise."""
    from tfstyle.data import write_png

    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        grain = rng.random((size, size))
        for axis in (0, 1):
            grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
        write_png(grain, folder / f"{i:05d}.png")


def highest_memory(pid: int) -> int:
    """The highest resident size of a process so far, in MB; 0 if it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def timed(line: list[str], output: Path, threads: int) -> dict:
    """One run from beginning to end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    begin = time.time()
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    own = children = 0
    while process.poll() is None:
        first, *others = family(process.pid)
        own, children = (
            max(own, highest_memory(first)),
            max([children, *map(highest_memory, others)]),
        )
        time.sleep(0.2)
    seconds = time.time() - begin
    if process.returncode:
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
        "highest_memory_mb": {"command": own, "child": children},
    }


def runs(words: list, output: Path, options) -> list[dict]:
    """A command by the number of workers."""
    rows, cpus = [], os.cpu_count()
    for workers in [None, *range(1, cpus + 1)]:
        place, threads = (
            output.with_name(f"{output.name}-{workers}"),
            max(1, cpus // (workers or 1)),
        )
        line = [str(place) if word is output else str(word) for word in words]
        line = [sys.executable, "-m", "tfstyle", *line, "--preset", options.preset, "--json"]
        if workers is not None:
            line += ["--beam", f"--direct_num_workers={workers}"]
        facts = {"workers": workers or "one process, no Beam", "threads_each": threads}
        rows.append(facts | timed(line, place, threads))
        print(rows[-1], flush=True)
    return rows


def speed(folder: Path, options) -> dict:
    """Pictures of 512x512."""
    inputs, styles, output = folder / "pictures", folder / "styles", folder / "augmented"
    write_pictures(inputs, options.slices, 512)
    write_pictures(styles, 3, 64, seed=1)
    return {
        "size": 512,
        "runs": runs(["augment", inputs, output, "--styles", styles], output, options),
    }


def series(folder: Path, options) -> dict:
    """Series of DICOM."""
    source, output = options.data / "torso_dicom", folder / "stylized"
    style = sorted(source.glob("*.dcm"))[5]
    (folder / "series").mkdir()
    for i in range(options.series):
        make_series(source, folder / "series" / f"{i:03d}", 50)
    words = ["stylize", folder / "series", "--style", style, "--window", "soft-tissue"]
    words += ["--style-window=-600,1500", "-o", output]
    return {"size": 512, "slices_a_series": 50, "runs": runs(words, output, options)}


PARTS = {"speed": speed, "series": series}


def main() -> None:
    """Writes ``benchmarks/beam.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder of the real CT, for the part series")
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--preset", default="tone_ct")
    parser.add_argument("--slices", type=int, default=200)
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
    result |= {"preset": options.preset, "cpus": os.cpu_count()}
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            result[part] = PARTS[part](Path(folder), options)
        result["environment"] = environment() | {"apache-beam": apache_beam.__version__}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
