"""Starts TensorFlow Serving where it is at hand, else the development server."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfstyle.errors import ArgumentError, ServingError
from tfstyle.serving.client import Client
from tfstyle.serving.server import HOST, DevelopmentServer

logger = logging.getLogger(__name__)

MODEL_SERVER = "tensorflow_model_server"
#: The release of the TensorFlow that writes the SavedModels; x86-64 only.
IMAGE = "tensorflow/serving:2.21.0"
BACKENDS = ("auto", MODEL_SERVER, "docker", "development")


@dataclass(frozen=True)
class ServerInfo:
    """What :func:`serve` tells about the server that it started.

    Attributes:
        backend: ``"tensorflow_model_server"``, ``"docker"`` or ``"development"``.
        address: ``host:port`` of gRPC, for clients on this machine.
        models: Model name to base path.
    """

    backend: str
    address: str
    models: dict[str, Path]


def serve(
    models: str | Path | Mapping[str, str | Path] = "saved_models",
    port: int = 8500,
    *,
    backend: str = "auto",
    grace: float = 10.0,
    on_ready: Callable[[ServerInfo], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve models over gRPC until SIGTERM, SIGINT (Ctrl-C) or ``stop``.

    ``tensorflow_model_server`` is started where it is on PATH; else the official container image
    where Docker runs and has it; else :class:`DevelopmentServer` runs in this process. The log and
    ``on_ready`` say which. tensorflow_model_server listens on all interfaces, the others on
    loopback. For REST, batching, labels and metrics see ``serving/``.

    Args:
        models: A model name to base path, a folder of base paths, or one base path, see
            :func:`tfstyle.serving.resolve_models`.
        port: gRPC port; 0 takes a free one.
        backend: ``"auto"``, ``"tensorflow_model_server"``, ``"docker"`` (which fetches the image
            if need be) or ``"development"``.
        grace: Seconds that requests in progress may take after the signal.
        on_ready: Called once, when the server answers.
        stop: Set it to end the call, for example from another thread.

    Raises:
        ArgumentError: ``backend``, ``port``, ``grace`` or ``models`` cannot be used.
        InputFileError: A model folder is missing, empty or damaged.
        MissingPackageError: The extra ``serving`` is not installed.
        ServingError: The port is taken, or the server is missing or ends by itself.

    Example:
        >>> serve("saved_models", port=8500)                      # doctest: +SKIP
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"backend: must be one of {', '.join(BACKENDS)}, received {backend!r}.")
    if not grace >= 0:
        raise ArgumentError(f"grace: must be at least 0 seconds, received {grace!r}.")
    server = DevelopmentServer(models, port=port)  # checks its arguments
    stop = stop or threading.Event()
    chosen = _choose(backend)
    with _stop_on_signals(stop):
        if chosen == "development":
            _run_development(server, grace, on_ready, stop)
        else:
            _run_tensorflow_serving(chosen, server.models, port, grace, on_ready, stop)


def _choose(backend: str) -> str:
    if backend in ("auto", MODEL_SERVER) and shutil.which(MODEL_SERVER):
        return MODEL_SERVER
    if backend == MODEL_SERVER:
        raise ServingError(
            f"{MODEL_SERVER} is not on PATH; install it, or choose the backend 'docker' or "
            "'development'"
        )
    # Not fetched by "auto": the image has some hundred megabytes.
    if backend == "auto" and _docker_says("image", "inspect", IMAGE):
        return "docker"
    if backend == "docker" and not _docker_says("version"):
        raise ServingError(
            "docker does not run here; start it, or choose the backend 'development'"
        )
    return "development" if backend == "auto" else backend


def _docker_says(*arguments: str) -> bool:
    """Whether a docker command succeeds."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["docker", *arguments], capture_output=True, timeout=20)
        return done.returncode == 0
    return False


def _run_development(
    server: DevelopmentServer,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    try:
        server.start()
        if on_ready is not None and not stop.is_set():
            on_ready(ServerInfo("development", server.address, server.models))
        stop.wait()
    finally:
        server.stop(grace)


def _run_tensorflow_serving(
    backend: str,
    models: dict[str, Path],
    port: int,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    port = port or _free_port()
    if _answers(port):
        raise ServingError(f"port {port} is taken by another program; choose another port")
    name = f"tfstyle-serving-{os.getpid()}-{port}"
    if backend == MODEL_SERVER:
        logger.warning("%s listens on all interfaces; keep the port behind a firewall", backend)
    with tempfile.TemporaryDirectory(prefix="tfstyle-serving-") as folder:
        file = Path(folder) / "models.config"
        if backend == "docker":
            places = {key: f"/models/{i}" for i, key in enumerate(models)}
            command = ["docker", "run", "--rm", "--init", "--name", name]
            command += ["--read-only", "--tmpfs", "/tmp", "--security-opt", "no-new-privileges"]
            command += ["--publish", f"{HOST}:{port}:8500", "--entrypoint", MODEL_SERVER]
            mounts = {str(file): "/models.config"}
            mounts |= {str(path): places[key] for key, path in models.items()}
            for source, target in mounts.items():
                command += ["--mount", f"type=bind,source={source},target={target},readonly"]
            command += [IMAGE, "--port=8500", "--model_config_file=/models.config"]
        else:
            places = {key: str(path) for key, path in models.items()}
            command = [MODEL_SERVER, f"--port={port}", f"--model_config_file={file}"]
        file.write_text(model_server_config(places), encoding="utf-8")
        logger.info("starting %s", " ".join(command))
        try:
            # Its own session, so that Ctrl-C in a terminal reaches it through this process alone.
            process = subprocess.Popen(command, start_new_session=True)
        except OSError as error:
            raise ServingError(
                f"{command[0]} cannot be started ({error.strerror or error})"
            ) from error
        try:
            with Client(f"{HOST}:{port}") as client:
                ready = False
                while process.poll() is None and not stop.is_set():
                    if ready:
                        stop.wait(0.1)
                        continue
                    # It opens its port only after the models are loaded.
                    with suppress(ServingError):
                        client.wait_until_ready(0.2)
                        ready = True
                        if on_ready is not None:
                            on_ready(ServerInfo(backend, f"{HOST}:{port}", models))
        finally:
            by_itself = process.poll() is not None
            _terminate(process, grace)
            if backend == "docker" and not by_itself:
                _docker_says("rm", "--force", name)
    if by_itself:
        raise ServingError(
            f"{backend} ended by itself with exit status {process.returncode}; its log above says "
            "why"
        )
    logger.info("%s stopped", backend)


def model_server_config(base_paths: Mapping[str, str]) -> str:
    """TensorFlow Serving's ``models.config``, in protobuf's text format.

    Args:
        base_paths: Model name to base path, as the server sees it.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name, path in base_paths.items():
        config.model_config_list.config.add(name=name, base_path=path, model_platform="tensorflow")
    return text_format.MessageToString(config, as_utf8=True)


def _terminate(process: subprocess.Popen, grace: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        logger.warning("%s did not end within %g s and is killed", process.pid, grace)
        process.kill()
        process.wait()


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second signal has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone; `stop` ends the server here
        return
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def handle(number: int, _frame: object) -> None:
        restore()
        logger.info("%s received, stopping", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) == 0
