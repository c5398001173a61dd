"""A local server that speaks TensorFlow Serving's gRPC protocol.

:func:`serve` runs until it is told to stop: with ``tensorflow_model_server`` where that is on
PATH, otherwise with :class:`EmbeddedServer`. The embedded server is meant for development, tests
and small sites: it listens on loopback unless told otherwise, has neither encryption nor
authentication, and loads the latest version of each model once, at its start.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tfstyle.errors import ArgumentError, ServingError
from tfstyle.serving.servable import Servable, resolve_models

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)

MODEL_SERVER = "tensorflow_model_server"
BACKENDS = ("auto", MODEL_SERVER, "embedded")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8500


@dataclass(frozen=True)
class Limits:
    """What the embedded server accepts.

    Args:
        message_bytes: Largest request; a larger one is refused with RESOURCE_EXHAUSTED.
        image_side: Largest height and width of an image in pixels; beyond it INVALID_ARGUMENT.
        pixels: Most pixels (images × rows × columns) of one input, INVALID_ARGUMENT beyond it.
            Memory grows with it: about 0.7 kB a pixel for the first layers of VGG, so 4 Mi pixels
            (sixteen 512 × 512 slices) take about 3 GB for the time of the request.
        running: Requests that run at the same time; more of them wait.
        waiting: Requests that may wait; beyond it RESOURCE_EXHAUSTED.

    Raises:
        ArgumentError: A value is no whole number of at least 1 (``waiting``: at least 0).
    """

    message_bytes: int = 256 * 2**20
    image_side: int = 4096
    pixels: int = 4 * 2**20
    running: int = 2
    waiting: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value, lowest = getattr(self, field.name), 0 if field.name == "waiting" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ArgumentError(
                    f"{field.name}: must be a whole number of at least {lowest}, received {value!r}"
                )


@dataclass(frozen=True)
class ServerInfo:
    """What :func:`serve` tells about the server that it started.

    Attributes:
        backend: ``"tensorflow_model_server"`` or ``"embedded"``.
        address: ``host:port`` for clients on this machine.
        models: Model name to base path.
    """

    backend: str
    address: str
    models: dict[str, Path]


class EmbeddedServer:
    """TensorFlow Serving's Predict, model metadata and model status, in this process.

    The graph runs through TensorFlow's session loader, not through the model's Python code, so
    what works here works in tensorflow_model_server. Use it as a context manager, or call
    :meth:`start` and :meth:`stop`.

    Args:
        models: Model name to base path, a folder of base paths, or one base path; see
            :func:`tfstyle.serving.resolve_models`. The latest version of each is loaded.
        host: Address to listen on. Anything but loopback lets others on the network in, without
            encryption or authentication.
        port: Port; 0 takes a free one, which :attr:`port` then tells.
        limits: Sizes and concurrency; the defaults of :class:`Limits` unless given.

    Raises:
        InputFileError: A model folder is missing, empty or damaged (on :meth:`start`: cannot be
            loaded).
        ArgumentError: ``port`` or ``models`` cannot be used.

    Example:
        >>> with EmbeddedServer("saved_models", port=0) as server:      # doctest: +SKIP
        ...     print(server.address)
        127.0.0.1:40123
    """

    def __init__(
        self,
        models: str | Path | Mapping[str, str | Path],
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        limits: Limits | None = None,
    ):
        self.models = resolve_models(models)
        self.host = host
        self.limits = limits or Limits()
        self._wanted_port = _checked_port(port)
        self._port: int | None = None
        self._server: grpc.Server | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._servables: list[Servable] = []
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port in use.

        Raises:
            ServingError: The server is not running.
        """
        if self._port is None:
            raise ServingError("the embedded server is not running; call start() first")
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` in use."""
        return _address(self.host, self.port)

    def start(self) -> EmbeddedServer:
        """Load the models and listen.

        Returns:
            The server itself.

        Raises:
            InputFileError: A model cannot be loaded.
            ServingError: The address cannot be bound, or the server runs already.
        """
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        from tfstyle.serving.services import ModelService, PredictionService, Registry

        with self._lock:
            if self._server is not None:
                raise ServingError(f"the embedded server already listens on {self.address}")
            limits = self.limits
            executor = ThreadPoolExecutor(limits.running, thread_name_prefix="tfstyle-serving")
            servables: list[Servable] = []
            try:
                server = grpc.server(
                    executor,
                    maximum_concurrent_rpcs=limits.running + limits.waiting,
                    options=[
                        ("grpc.max_receive_message_length", limits.message_bytes),
                        ("grpc.max_send_message_length", -1),
                        # Without this, a second server on the port would share its requests.
                        ("grpc.so_reuseport", 0),
                    ],
                )
                port = _bind(server, self.host, self._wanted_port)
                for name, base_path in self.models.items():
                    servables.append(Servable.load_latest(name, base_path))
                registry = Registry.of(servables)
                prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
                    PredictionService(registry, limits), server
                )
                model_service_pb2_grpc.add_ModelServiceServicer_to_server(
                    ModelService(registry), server
                )
                server.start()
            except BaseException:
                for servable in servables:
                    servable.close()
                executor.shutdown(wait=False)
                raise
            self._server, self._executor, self._servables = server, executor, servables
            self._port = port
        if not _is_loopback(self.host):
            logger.warning(
                "listening on %s without encryption or authentication: everyone who reaches this "
                "address can use the models",
                self.host,
            )
        logger.info("embedded server listening on %s", self.address)
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Refuse new requests, let those in progress finish, and release the models.

        Does nothing when the server is not running.

        Args:
            grace: Seconds that requests in progress may take; then they are cancelled.
        """
        with self._lock:
            server, executor, servables = self._server, self._executor, self._servables
            self._server = self._executor = self._port = None
            self._servables = []
        if server is None or executor is None:
            return
        server.stop(grace).wait()
        for servable in servables:
            servable.close()
        executor.shutdown(wait=True)
        logger.info("embedded server stopped")

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    models: str | Path | Mapping[str, str | Path] = "saved_models",
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    backend: str = "auto",
    limits: Limits | None = None,
    grace: float = 10.0,
    on_ready: Callable[[ServerInfo], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve models until SIGTERM, SIGINT (Ctrl-C) or ``stop``.

    Where ``tensorflow_model_server`` is on PATH it is started with a generated configuration and
    gets the termination signal forwarded; elsewhere :class:`EmbeddedServer` runs. The log says
    which. Note that tensorflow_model_server always listens on all interfaces; choose
    ``backend="embedded"`` where that is not wanted.

    Args:
        models: Model name to base path, a folder of base paths, or one base path; see
            :func:`tfstyle.serving.resolve_models`.
        host: Address to listen on (embedded server only).
        port: gRPC port; 0 takes a free one.
        backend: ``"auto"``, ``"tensorflow_model_server"`` or ``"embedded"``.
        limits: Sizes and concurrency of the embedded server.
        grace: Seconds that requests in progress may take after the signal.
        on_ready: Called once, when the server answers.
        stop: Set it to end the call, for example from another thread.

    Raises:
        ArgumentError: ``backend``, ``port`` or ``models`` cannot be used.
        InputFileError: A model folder is missing, empty or damaged.
        ServingError: The port is taken, or tensorflow_model_server is missing or ends by itself.

    Example:
        >>> serve("saved_models", port=8500)      # doctest: +SKIP
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"backend: unknown value {backend!r}; use one of {', '.join(BACKENDS)}")
    if grace < 0:
        raise ArgumentError(f"grace: must be at least 0 seconds, received {grace!r}")
    _checked_port(port)
    named = resolve_models(models)
    stop = stop or threading.Event()
    binary = shutil.which(MODEL_SERVER) if backend != "embedded" else None
    if backend == MODEL_SERVER and binary is None:
        raise ServingError(
            f"{MODEL_SERVER} is not on PATH; install it, use the tensorflow/serving container "
            "image (see serving/README.md), or choose the backend 'embedded'"
        )
    with _stop_on_signals(stop):
        if binary is not None:
            _run_model_server(binary, named, host, port, grace, on_ready, stop)
        else:
            _run_embedded(named, host, port, limits, grace, on_ready, stop)


def model_server_config(models: Mapping[str, Path]) -> str:
    """TensorFlow Serving's ``models.config`` for some models, in protobuf's text format.

    Args:
        models: Model name to base path.

    Returns:
        A ``tensorflow.serving.ModelServerConfig``.
    """
    from google.protobuf.text_encoding import CEscape

    lines = ["model_config_list {"]
    for name, base_path in models.items():
        lines += [
            "  config {",
            f'    name: "{CEscape(name, as_utf8=True)}"',
            f'    base_path: "{CEscape(str(Path(base_path).resolve()), as_utf8=True)}"',
            '    model_platform: "tensorflow"',
            "  }",
        ]
    return "\n".join([*lines, "}", ""])


def _run_embedded(
    models: dict[str, Path],
    host: str,
    port: int,
    limits: Limits | None,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    server = EmbeddedServer(models, host=host, port=port, limits=limits)
    try:
        server.start()
        if on_ready is not None and not stop.is_set():
            on_ready(ServerInfo("embedded", server.address, dict(models)))
        stop.wait()
    finally:
        server.stop(grace)


def _run_model_server(
    binary: str,
    models: dict[str, Path],
    host: str,
    port: int,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    port = port or _free_port()
    if _answers(port):
        raise ServingError(f"port {port} is taken by another program; choose another port")
    logger.info("starting %s on port %d", binary, port)
    if host != "0.0.0.0":
        logger.warning(
            "%s listens on all interfaces, not on %s alone; keep the port behind a firewall or "
            "choose the backend 'embedded'",
            MODEL_SERVER,
            host,
        )
    with tempfile.TemporaryDirectory(prefix="tfstyle-serving-") as folder:
        config = Path(folder) / "models.config"
        config.write_text(model_server_config(models), encoding="utf-8")
        try:
            # Its own session, so that Ctrl-C in a terminal reaches it through this process alone.
            process = subprocess.Popen(
                [binary, f"--port={port}", f"--model_config_file={config}"], start_new_session=True
            )
        except OSError as error:
            raise ServingError(f"{binary} cannot be started ({error.strerror or error})") from error
        try:
            ready = False
            while process.poll() is None and not stop.is_set():
                # It opens its port only after the models are loaded.
                if not ready and _answers(port):
                    ready = True
                    if on_ready is not None:
                        on_ready(ServerInfo(MODEL_SERVER, _address(DEFAULT_HOST, port), models))
                stop.wait(0.1)
        finally:
            ended_by_itself = process.poll() is not None
            _terminate(process, grace)
    if ended_by_itself:
        raise ServingError(
            f"{binary} ended by itself with exit status {process.returncode}; its log above says "
            "why"
        )
    logger.info("%s stopped", MODEL_SERVER)


def _terminate(process: subprocess.Popen, grace: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        logger.warning("%s did not end within %g s and is killed", MODEL_SERVER, grace)
        process.kill()
        process.wait()


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second signal has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone; `stop` ends the server here
        return
    previous = {}

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


def _bind(server: grpc.Server, host: str, port: int) -> int:
    problem = ServingError(
        f"{_address(host, port)} cannot be listened on: the port is taken or the address is not "
        "this machine's; choose another port or host"
    )
    try:
        bound = server.add_insecure_port(_address(host, port))
    except RuntimeError as error:
        raise problem from error
    if bound == 0:
        raise problem
    return bound


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _checked_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ArgumentError(f"port: must be a whole number in 0..65535, received {port!r}")
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((DEFAULT_HOST, 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((DEFAULT_HOST, port)) == 0
