#!/usr/bin/env python
"""The development server on loopback: overhead, throughput and latencies.

    python benchmarks/serving.py

The server is a process of its own (``tfstyle serve --backend development``) with the preset
``vgg16_ct``; clients are threads of this one. Two parts:

- overhead: one client, images of 256x256, with a style image and with a stored style code. The same
  calls are made in this process, on the session that the server uses, and over the network, eight
  of each in turn; the figure is the median over the turns of the ratio of their medians, minus 1.
- load: 1, 4 and 16 clients that call as fast as they are answered.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import numpy as np  # noqa: E402

SIDE = 256
CLIENTS = (1, 4, 16)
TURNS, CALLS = 12, 8


def median_seconds(call: Callable) -> float:
    """Of some calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def overhead(servable, client, inputs: dict[str, dict]) -> dict:
    """Time over the network beside the same run in this process, by kind of style."""
    found = {}
    for signature, given in inputs.items():
        rows = [
            (
                median_seconds(lambda g=given, s=signature: servable.run(s, g)),
                median_seconds(lambda g=given, s=signature: client.predict(g, s)),
            )
            for _ in range(TURNS)
        ]
        ratios = [served / alone - 1 for alone, served in rows]
        alone, served = np.median(rows, axis=0) * 1e3
        found[signature] = {
            "in_process_ms": round(alone, 2),
            "served_ms": round(served, 2),
            "overhead": round(float(np.median(ratios)), 4),
            "quartiles": np.percentile(ratios, [25, 75]).round(4).tolist(),
        }
    return found


def load(client, signature: str, given: dict, clients: int, seconds: float) -> dict:
    """Images a second and latencies with so many clients."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        while time.perf_counter() < end:
            begin = time.perf_counter()
            client.predict(given, signature)
            times.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    marks = (np.percentile(times, [50, 95, 99]) * 1e3).round(1).tolist()
    return {
        "signature": signature,
        "clients": clients,
        "images_per_second": round(len(times) / (time.perf_counter() - begin), 2),
        **dict(zip(("p50_ms", "p95_ms", "p99_ms"), marks)),
    }


def main() -> None:
    """Measures; writes ``benchmarks/serving.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(options.threads)
    import tfstyle
    from tfstyle.export import Servable, export_stylize
    from tfstyle.runs import environment
    from tfstyle.serving import Client

    random = np.random.default_rng(0)
    content, style = (random.random((1, SIDE, SIDE, 1), dtype=np.float32) for _ in range(2))
    with tempfile.TemporaryDirectory() as work:
        model = tfstyle.StyleTransfer.from_preset("vgg16_ct")
        folder = export_stylize(model, Path(work) / "stylize", warm_up_size=0)
        command = [sys.executable, "-m", "tfstyle", "serve", "--models", work, "--port", "0"]
        process = subprocess.Popen(
            [*command, "--backend", "development", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            address = json.loads(process.stdout.readline())["address"]
            with Servable(folder) as servable, Client(address) as client:
                inputs = {
                    "stylize": {"content": content, "style": style},
                    "stylize_with_code": {"content": content, "code": client.encode_style(style)},
                }
                result = {
                    "side": SIDE,
                    "threads": options.threads,
                    "environment": environment(),
                    "load_average_before": os.getloadavg()[0],
                    "overhead": overhead(servable, client, inputs),
                    "load": [
                        load(client, signature, given, clients, options.seconds)
                        for signature, given in inputs.items()
                        for clients in CLIENTS
                    ],
                }
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["overhead"], indent=1))


if __name__ == "__main__":
    main()
