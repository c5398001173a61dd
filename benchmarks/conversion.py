#!/usr/bin/env python
"""Size, difference and time of the released preset, converted, beside its SavedModel.

    pip install '.[tflite,onnx,demo]'
    python benchmarks/conversion.py --data DATA

Converts the preset's signatures to TFLite and ONNX for images of one size, and compares on
``DATA/torso_dicom``, a series that training has not seen. Times are those of
one call with one image; for each number of threads a process of its own calls the SavedModel
(through TensorFlow's session loader, as a server does) and all converted models in turn, on the
same images.

``--work FOLDER`` keeps the converted models and uses those that are there; ``--rounds 0`` only
converts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TARGETS = ("tflite", "onnx")


def file_of(work: Path, target: str, signature: str, size: int) -> Path:
    """Where a converted model is kept."""
    return work / f"{signature}_{size}.{target}"


def convert_all(work: Path, data: Path, signatures: list[str], sizes: list[int]) -> None:
    """Exports the preset and converts it in all ways, where that is not done yet."""
    import tfstyle
    from tfstyle.convert import convert
    from tfstyle.export import export_stylize

    if not (work / "stylize" / "1").is_dir():
        model = tfstyle.StyleTransfer.from_preset("vgg16_ct")
        export_stylize(model, work / "stylize", preset="vgg16_ct")
    for signature, size, target in itertools.product(signatures, sizes, TARGETS):
        path = file_of(work, target, signature, size)
        if not path.exists():
            report = convert(
                work / "stylize",
                path,
                to=target,
                signature=signature,
                size=size,
                compare=data / "torso_dicom",
            )
            print(signature, size, target, report.difference, flush=True)


def load_tflite(path: Path, threads: int) -> Callable:
    """Runs a ``.tflite`` file."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
    return lambda inputs: run(**inputs)


def load_onnx(path: Path, threads: int) -> Callable:
    """Runs a ``.onnx`` file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait in a loop would take the time of anything else that runs in the process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def measure(work: Path, data: Path, signatures: list[str], sizes: list[int], rounds: int) -> list:
    """Rows of milliseconds, in this process with the threads that TensorFlow has."""
    from tfstyle.convert.graph import plain_graph
    from tfstyle.convert.samples import find_scans, image_pairs, signature_inputs
    from tfstyle.export import Servable

    count = int(os.environ["TF_NUM_INTRAOP_THREADS"])
    servable = Servable(work / "stylize" / "1", threads=count)
    scans = find_scans(data / "torso_dicom")
    rows = []
    for signature in signatures:
        for size in sizes:
            runners = {"SavedModel": lambda inputs, name=signature: servable.run(name, inputs)}
            for target, load in (("tflite", load_tflite), ("onnx", load_onnx)):
                runners[target] = load(file_of(work, target, signature, size), count)
            specs = plain_graph(work / "stylize" / "1", signature, size).inputs
            samples = signature_inputs(servable, specs, image_pairs(scans, 3, size))
            seconds = {name: [] for name in runners}
            for inputs in samples:
                for turn in range(rounds + 1):
                    for name, run in runners.items():
                        start = time.perf_counter()
                        run(inputs)
                        if turn:  # the first one plans and warms up
                            seconds[name].append(time.perf_counter() - start)
            base = seconds["SavedModel"]
            rows.append(
                {
                    "signature": signature,
                    "size": size,
                    "threads": count,
                    "calls": len(base),
                    "milliseconds": {
                        n: round(statistics.median(s) * 1000, 2) for n, s in seconds.items()
                    },
                    "ratio_to_saved_model": {
                        n: round(statistics.median(b / a for a, b in zip(base, s)), 3)
                        for n, s in seconds.items()
                        if n != "SavedModel"
                    },
                    "load_average": round(os.getloadavg()[0], 2),
                }
            )
    return rows


def reports(work: Path, signatures: list[str], sizes: list[int]) -> list[dict]:
    """What the conversions' own reports say of size and difference."""
    rows = []
    for signature, size, target in itertools.product(signatures, sizes, TARGETS):
        path = file_of(work, target, signature, size)
        report = json.loads(path.with_name(f"{path.name}.json").read_text())
        facts = {"bytes": report["model"]["bytes"], **report["difference"]}
        rows.append({"signature": signature, "size": size, "model": target, **facts})
    return rows


def main() -> None:
    """Converts and measures; writes ``benchmarks/conversion.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--signatures", nargs="+", default=["stylize", "stylize_with_code"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    what = options.data, options.signatures, options.sizes
    if options.worker:
        print(json.dumps(measure(options.work, *what, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(exist_ok=True)
        convert_all(work, *what)
        if options.rounds == 0:
            return
        rows = []
        for threads in options.threads:
            command = [sys.executable, __file__, "--worker", "--work", work]
            command += ["--data", options.data, "--rounds", str(options.rounds)]
            command += ["--signatures", *options.signatures, "--sizes", *map(str, options.sizes)]
            done = subprocess.run(
                command,
                env={
                    **os.environ,
                    "TF_NUM_INTRAOP_THREADS": str(threads),
                    "TF_NUM_INTEROP_THREADS": str(threads),
                    "OMP_NUM_THREADS": str(threads),
                },
                stdout=subprocess.PIPE,
                check=True,
            )
            rows += json.loads(done.stdout.splitlines()[-1])
            for row in rows[-len(options.signatures) * len(options.sizes) :]:
                print(json.dumps(row), flush=True)
        from tfstyle._private.versions import package_versions
        from tfstyle.convert.conversion import PACKAGES
        from tfstyle.runs import environment

        result = {
            "preset": "vgg16_ct",
            "compared_on": "torso_dicom",
            "models": reports(work, *what[1:]),
            "latency": rows,
            "environment": {**environment(), **package_versions(PACKAGES)},
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
