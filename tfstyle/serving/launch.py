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

from tfstyle._private.images import one_of
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.serving.client import Client
from tfstyle.serving.server import HOST, DevelopmentServer

logger = logging.getLogger(__name__)

MODEL_SERVER = "tensorflow_model_server"
#: The release of the TensorFlow that writes the SavedModels.
IMAGE = "tensorflow/serving:2.21.0"
BACKENDS = ("auto", MODEL_SERVER, "docker", "development")


@dataclass(frozen=True)
class ServerInfo:
    """What :func:`serve` tells of the server that it started.

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
    where Docker runs and has it; else :class:`DevelopmentServer` runs in this process.
    tensorflow_model_server listens on all interfaces, the others on loopback. For REST, batching,
    labels and metrics see ``serving/``.

    Args:
        models: A model name to base path, a folder of base paths, or one base path, see
            :func:`tfstyle.serving.resolve_models`.
        port: gRPC port; 0 takes a free one.
        backend: ``"auto"``, ``"tensorflow_model_server"``, ``"docker"`` (which fetches the image
            if need be) or ``"development"``.
        grace: Seconds that requests in progress may take after the signal.
        on_ready: Called once, when the server answers, and told which it is.
        stop: Set it to end the call, for example from another thread.

    Raises:
        ArgumentError: ``backend``, ``port``, ``grace`` or ``models`` cannot be used.
        InputFileError: A model folder is missing, empty or damaged.
        MissingPackageError: The extra ``serving`` is not installed.
        ServingError: The port is taken, or the server is missing or ends by itself.

    Example:
        >>> serve("saved_models", port=8500)                      # doctest: +SKIP
    """
    one_of("backend", backend, BACKENDS)
    if not grace >= 0:
        raise ArgumentError(f"grace: must be at least 0 seconds, received {grace!r}.")
    server = DevelopmentServer(models, port=port)  # checks its arguments
    stop = stop or threading.Event()
    chosen = _choose(backend)
    with _stop_on_signals(stop):
        if chosen != "development":
            _run_tensorflow_serving(chosen, server.models, port, grace, on_ready, stop)
            return
        try:
            server.start()
            if on_ready is not None and not stop.is_set():
                on_ready(ServerInfo(chosen, server.address, server.models))
            while not stop.wait(0.5):  # a signal that another thread gets does not end a long wait
                pass
        finally:
            server.stop(grace)


def _choose(backend: str) -> str:
    if backend != "auto":
        return backend
    if shutil.which(MODEL_SERVER):
        return MODEL_SERVER
    with suppress(OSError, subprocess.TimeoutExpired):  # the image is not fetched unasked
        asked = subprocess.run(
            ["docker", "image", "inspect", IMAGE], capture_output=True, timeout=20
        )
        if asked.returncode == 0:
            return "docker"
    return "development"


def _run_tensorflow_serving(
    backend: str,
    models: dict[str, Path],
    port: int,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    try:  # TensorFlow Serving would share the port of another server
        with socket.create_server((HOST, port)) as probe:
            address = f"{HOST}:{probe.getsockname()[1]}"
    except OSError as error:
        raise ServingError(f"port {port} is taken ({error.strerror}); choose another") from error
    name = f"tfstyle-serving-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tfstyle-serving-") as folder:
        config = Path(folder, "models.config")
        command = _command(backend, models, address, config, name)
        logger.info("starting %s", " ".join(command))
        try:
            # Its own session, so that Ctrl-C in a terminal reaches it through this process alone.
            process = subprocess.Popen(command, start_new_session=True)
        except OSError as error:
            raise ServingError(f"{command[0]} cannot be started ({error.strerror})") from error
        try:
            ready = False
            with Client(address) as client:
                while process.poll() is None and not stop.is_set():
                    if ready:
                        stop.wait(0.1)
                        continue
                    with suppress(ServingError):  # it opens its port when the models are loaded
                        client.wait_until_ready(0.2)
                        ready = True
                        if on_ready is not None:
                            on_ready(ServerInfo(backend, address, models))
        finally:
            by_itself = process.poll()
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end within %g s and is killed", backend, grace)
                process.kill()
                process.wait()
                if backend == "docker":  # the container lives on without its client
                    subprocess.run(["docker", "rm", "--force", name], capture_output=True)
    if by_itself is not None:
        raise ServingError(f"{backend} ended by itself with exit status {by_itself}")


def _command(
    backend: str, models: Mapping[str, Path], address: str, config: Path, name: str
) -> list[str]:
    """The command line of a server; writes its ``models.config``."""
    if backend == MODEL_SERVER:
        config.write_text(model_server_config(models), encoding="utf-8")
        return [MODEL_SERVER, f"--port={address.split(':')[1]}", f"--model_config_file={config}"]
    inside = {key: Path(f"/models/{number}") for number, key in enumerate(models)}
    config.write_text(model_server_config(inside), encoding="utf-8")
    command = ["docker", "run", "--rm", "--init", "--name", name, "--publish", f"{address}:8500"]
    command += ["--read-only", "--tmpfs", "/tmp", "--security-opt", "no-new-privileges"]
    mounts = [(config, "/models.config"), *((models[key], path) for key, path in inside.items())]
    for source, target in mounts:
        command += ["--mount", f"type=bind,source={source},target={target},readonly"]
    command += ["--entrypoint", MODEL_SERVER, IMAGE]
    return [*command, "--port=8500", "--model_config_file=/models.config"]


def model_server_config(base_paths: Mapping[str, Path]) -> str:
    """TensorFlow Serving's ``models.config``; base paths are those that the server sees."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name, path in base_paths.items():
        entry = config.model_config_list.config.add(name=name, base_path=str(path))
        entry.model_platform = "tensorflow"
    return text_format.MessageToString(config, as_utf8=True)


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
