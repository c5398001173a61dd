#!/usr/bin/env python
"""The embedded server under load, on loopback: overhead, throughput, latencies, and faults.

    python benchmarks/serving.py

The server is a process of its own (``python -m tfstyle.serving``) with the preset ``vgg16_ct``;
clients are threads of this one, over gRPC. Three parts:

- overhead: one client, 256x256 images. The same calls are made in this process, on the session that
  the server uses, and over the network, eight of each in turn; the figure is the median over the
  turns of the ratio of their medians, minus 1. (Call by call in turn, either process would wait for
  cores on which the other's idle threads still spin.) To tell what part of it any server over gRPC
  for Python has, a third process runs the same signature in a bare handler that carries as many
  bytes and does nothing with them; its time beside the run is ``grpc_alone_ms``.
- load: 1, 4 and 16 clients that call as fast as they are answered, with and without batching, with
  a style image and with a stored style code.
- faults: 2 000 requests from 4 clients. Meanwhile a new version is published and deleted again,
  the configuration is reloaded, processes of further clients are killed in the middle of their
  calls, and garbage arrives on both ports. Every answer is compared with the model in this
  process, and the server's memory is read all along.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import numpy as np  # noqa: E402

SIDE = 256
CLIENTS = (1, 4, 16)
KINDS = ("style", "code")
TOLERANCE = 1e-4

#: A client that calls for ever, to be killed.
CALLER = """
import sys, numpy as np
from tfstyle.serving import Client
image = np.full((256, 256), 0.5)
with Client(sys.argv[1]) as client:
    while True:
        client.stylize(image, image)
        print("called", flush=True)
"""

#: A server of nothing but gRPC: as many bytes in and out, the same run, no messages or checks.
BARE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc, numpy as np
from tfstyle.export import Servable
from tfstyle.serving.transports import LARGE_MESSAGES
servable = Servable("stylize", 1, sys.argv[1])
inputs = dict(np.load(sys.argv[2]))

def handler(signature, names):
    given = {name: inputs[name] for name in names}
    def answer(request, context):
        begin = time.perf_counter()
        generated = servable.run(signature, given, timeout=60.0)["generated"]
        seconds = time.perf_counter() - begin
        return np.float64(seconds).tobytes() + request[: generated.nbytes]
    return grpc.unary_unary_rpc_method_handler(answer)

server = grpc.server(ThreadPoolExecutor(8), options=LARGE_MESSAGES)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bare", {
    "style": handler("stylize", ["content", "style"]),
    "code": handler("stylize_with_code", ["content", "code"]),
})])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.readline()
"""


class Server:
    """``python -m tfstyle.serving`` with free ports."""

    def __init__(self, models: Path, threads: int, batch: int | None = None):
        options = ["--port=0", "--rest-port=0", "--backend=embedded", "--poll=0.5"]
        if batch:
            options.append(f"--batch={batch}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfstyle.serving", str(models), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment_with(threads),
            cwd=ROOT,
        )
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        info = json.loads(line)
        self.address, self.rest_address = info["address"], info["rest_address"]

    def megabytes(self) -> float:
        """Memory that the server holds in RAM."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """Ends it as a supervisor would; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()


def environment_with(threads: int) -> dict[str, str]:
    """The environment of processes that compute with so many threads."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }


def images(count: int) -> np.ndarray:
    """Smooth random contents (count, SIDE, SIDE, 1)."""
    random = np.random.default_rng(0)
    coarse = random.random((count, SIDE // 16, SIDE // 16, 1), dtype=np.float32)
    return np.kron(coarse, np.ones((1, 16, 16, 1), np.float32))


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and high percentiles in milliseconds."""
    marks = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), (round(float(m), 1) for m in marks)))


def median_seconds(call, count: int = 8, apart=None) -> float:
    """Of so many calls one after the other, and one before them that is not counted.

    `apart` tells from an answer how many seconds of its call do not count.
    """
    call()
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - begin)
        if apart is not None:
            seconds[-1] -= apart(answer)
    return float(np.median(seconds))


class Bare:
    """A process with the server of :data:`BARE`, and a channel to it."""

    def __init__(self, servable: Path, inputs: dict[str, np.ndarray], threads: int):
        import grpc

        from tfstyle.serving.transports import LARGE_MESSAGES

        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, **inputs)
            file.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-c", BARE, str(servable), file.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment_with(threads),
            )
            port = self._process.stdout.readline().strip()
        if not port:
            raise SystemExit("the bare server did not start")
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", LARGE_MESSAGES)

    def seconds(self, kind: str, size: int) -> float:
        """Median time of a call with `size` bytes without the time of the run in it."""
        call, data = self._channel.unary_unary(f"/bare/{kind}"), bytes(size)
        return median_seconds(
            lambda: call(data, timeout=60.0),
            apart=lambda answer: float(np.frombuffer(answer[:8], np.float64)[0]),
        )

    def stop(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.communicate()


def measure_overhead(models: Path, servable, rounds: int, threads: int) -> dict:
    """Median and quartiles of (served / in process) − 1 over rounds in which both take a turn."""
    from tfstyle.serving import Client

    content, style = images(2)[:1], images(2)[1:]
    result = {}
    with ExitStack() as ends:
        server = Server(models, threads)
        ends.callback(server.stop)
        client = ends.enter_context(Client(server.address))
        code = client.encode_style(style)
        bare = Bare(servable.path, {"content": content, "style": style, "code": code}, threads)
        ends.callback(bare.stop)
        calls = {
            "style": ("stylize", {"content": content, "style": style}),
            "code": ("stylize_with_code", {"content": content, "code": code}),
        }
        for kind, (signature, inputs) in calls.items():

            def in_process(signature=signature, inputs=inputs):
                return servable.run(signature, inputs)["generated"]

            def over_network(signature=signature, inputs=inputs):
                return client.predict(inputs, signature)["generated"]

            if np.abs(over_network() - in_process()).max() > TOLERANCE:
                raise SystemExit("the server's answer is not the model's")
            size = sum(array.nbytes for array in inputs.values())
            own, served, bare_times = [], [], []
            for turn in range(rounds + 1):
                turns = median_seconds(in_process), median_seconds(over_network)
                if turn:  # the first calls prepare
                    own.append(turns[0])
                    served.append(turns[1])
                    bare_times.append(bare.seconds(kind, size))
            ratio = np.array(served) / np.array(own)
            result[kind] = {
                "in_process_ms": round(float(np.median(own)) * 1e3, 2),
                "served_ms": round(float(np.median(served)) * 1e3, 2),
                "overhead": round(float(np.median(ratio)) - 1, 4),
                "quartiles": [round(float(q) - 1, 4) for q in np.percentile(ratio, [25, 75])],
                "grpc_alone_ms": round(float(np.median(bare_times)) * 1e3, 2),
                "grpc_alone": round(float(np.median(np.array(bare_times) / own)), 4),
            }
            print(kind, result[kind], flush=True)
    return result


def measure_load(
    server: Server, kind: str, clients: int, seconds: float, batched: bool
) -> dict[str, float]:
    """Some clients that call as fast as they are answered, for some time."""
    from tfstyle.serving import Client

    contents, style = images(16), images(1)
    times, failures = [], []
    start, stop = threading.Barrier(clients + 1), threading.Event()

    def work(number: int) -> None:
        with Client(server.address) as client:
            given = client.encode_style(style) if kind == "code" else style
            client.stylize(contents[number % 16], given)
            start.wait()
            while not stop.is_set():
                begin = time.perf_counter()
                try:
                    client.stylize(contents[number % 16], given)
                except Exception as error:
                    failures.append(repr(error))
                    continue
                times.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    row = {
        "input": kind,
        "clients": clients,
        "batching": batched,
        "images_per_second": round(len(times) / elapsed, 2),
        **summary(times),
        "requests": len(times),
        "failures": len(failures),
    }
    print(row, flush=True)
    return row


def garbage(address: str) -> None:
    """Bytes that are no request, and a connection that says nothing and stays."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(os.urandom(4096))
    silent = socket.create_connection((host, int(port)), timeout=10)
    threading.Timer(20, silent.close).start()


def measure_faults(models: Path, servable, requests: int, threads: int, batch: int) -> dict:
    """Many requests while everything around them goes wrong."""
    from tfstyle.serving import Client

    contents = images(8)
    style = images(9)[8:]
    code = servable.run("encode_style", {"style": style})["code"]
    expected = servable.run("stylize", {"content": contents, "style": style})["generated"]
    server = Server(models, threads, batch)
    lock = threading.Lock()
    counts = {"done": 0, "failed": 0, "wrong": 0}
    times, problems, memory, events = [], [], [], []
    killed = 0

    def work(number: int) -> None:
        with Client(server.address) as client:
            while True:
                with lock:
                    if counts["done"] >= requests:
                        return
                    turn = counts["done"]
                    counts["done"] += 1
                place = (turn + number) % len(contents)
                begin = time.perf_counter()
                try:
                    generated = client.stylize(contents[place], style if turn % 2 else code)
                except Exception as error:
                    with lock:
                        counts["failed"] += 1
                        problems.append(repr(error)[:200])
                    continue
                difference = float(np.abs(generated - expected[place]).max())
                with lock:
                    times.append(time.perf_counter() - begin)
                    if not difference <= TOLERANCE:
                        counts["wrong"] += 1
                        problems.append(f"difference {difference:g}")

    def until(share: float) -> None:
        while counts["done"] < share * requests:
            time.sleep(0.05)

    def state(version: int, wanted: str) -> None:
        end = time.monotonic() + 60
        with Client(server.address) as client:
            while client.status().get(version) != wanted:
                if time.monotonic() > end:
                    raise SystemExit(f"version {version} did not become {wanted}")
                time.sleep(0.2)
        events.append({"done": counts["done"], "event": f"version {version} {wanted}"})

    def sample() -> None:
        while counts["done"] < requests:
            memory.append((counts["done"], round(server.megabytes(), 1)))
            time.sleep(1)

    def callers() -> list[subprocess.Popen]:
        made = [
            subprocess.Popen(
                [sys.executable, "-c", CALLER, server.address],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment_with(1),
            )
            for _ in range(2)
        ]
        for process in made:
            process.stdout.readline()
        return made

    try:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in [*workers, threading.Thread(target=sample)]:
            thread.start()
        for share in (0.1, 0.5, 0.7):
            until(share)
            for process in callers():  # in the middle of a call
                process.send_signal(signal.SIGKILL)
                process.wait()
                process.stdout.close()
                killed += 1
            for address in (server.address, server.rest_address):
                garbage(address)
            events.append({"done": counts["done"], "event": "clients killed, garbage sent"})
            if share == 0.1:
                until(0.25)
                shutil.copytree(models / "stylize" / "1", models / "stylize" / ".new")
                os.rename(models / "stylize" / ".new", models / "stylize" / "2")
                state(2, "AVAILABLE")
                state(1, "END")
            if share == 0.5:
                reload(server.address, models)
                events.append({"done": counts["done"], "event": "configuration reloaded"})
                shutil.rmtree(models / "stylize" / "2")
                state(1, "AVAILABLE")
                state(2, "END")
        for thread in workers:
            thread.join()
        status = server.stop()
    finally:
        server.process.kill()
        shutil.rmtree(models / "stylize" / "2", ignore_errors=True)
    # One version is loaded: before the first switch, and after the last, when the other has ended.
    last = max(entry["done"] for entry in events if entry["event"].endswith("END"))
    early = [m for done, m in memory if 0.1 * requests <= done < 0.25 * requests]
    late = [m for done, m in memory if done > last]
    result = {
        "requests": requests,
        "failed": counts["failed"],
        "wrong": counts["wrong"],
        "problems": problems[:5],
        "clients_killed": killed,
        **summary(times),
        "memory_mb": {
            "early_median": float(np.median(early)),
            "late_median": float(np.median(late)),
            "highest": max(m for _, m in memory),
        },
        "memory_samples": memory[:: max(1, len(memory) // 40)],
        "events": events,
        "exit_status": status,
    }
    print({k: v for k, v in result.items() if k not in ("memory_samples", "events")}, flush=True)
    return result


def reload(address: str, models: Path) -> None:
    """The same configuration once more, over the protocol."""
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    request = model_management_pb2.ReloadConfigRequest()
    entry = request.config.model_config_list.config.add()
    entry.name, entry.model_platform = "stylize", "tensorflow"
    entry.base_path = str(models / "stylize")
    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        stub.HandleReloadConfigRequest(request, timeout=60)


def main() -> None:
    """Measures and writes ``benchmarks/serving.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of the server's graph")
    parser.add_argument("--rounds", type=int, default=24, help="of the overhead")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row of the load")
    parser.add_argument("--requests", type=int, default=2000, help="of the fault run")
    parser.add_argument("--batch", type=int, default=8, help="largest batch")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("overhead", "load", "faults"),
        default=["overhead", "load", "faults"],
        help="what to measure; other parts stay in the file as they are (default: all)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().with_suffix(".json")
    )
    options = parser.parse_args()
    os.environ.update(environment_with(options.threads))
    import tfstyle
    from tfstyle.export import Servable, export_stylize
    from tfstyle.training import environment

    result = {
        "side": SIDE,
        "threads": options.threads,
        "max_batch_size": options.batch,
        "environment": environment(),
        "load_average_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "saved_models"
        model = tfstyle.StyleTransfer.from_preset("vgg16_ct")
        export_stylize(model, models / "stylize", preset="vgg16_ct", warm_up_size=SIDE)
        del model
        servable = Servable("stylize", 1, models / "stylize" / "1")
        if "overhead" in options.parts:
            result["overhead"] = measure_overhead(models, servable, options.rounds, options.threads)
        if "load" in options.parts:
            result["load"] = []
            for batched in (False, True):
                server = Server(models, options.threads, options.batch if batched else None)
                try:
                    for kind in KINDS:
                        for clients in CLIENTS:
                            result["load"].append(
                                measure_load(server, kind, clients, options.seconds, batched)
                            )
                finally:
                    server.stop()
        if "faults" in options.parts:
            result["faults"] = measure_faults(
                models, servable, options.requests, options.threads, options.batch
            )
        servable.close()
    if options.output.is_file():
        before = json.loads(options.output.read_text())
        for part in ("overhead", "load", "faults"):
            if part not in options.parts and part in before:
                result[part] = before[part]
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
