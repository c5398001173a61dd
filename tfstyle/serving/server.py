"""A local server that speaks TensorFlow Serving's protocol, over gRPC and REST.

:func:`serve` runs until it is told to stop: with ``tensorflow_model_server`` where that is on
PATH, otherwise with :class:`EmbeddedServer`. The embedded server is meant for development, tests
and small sites: it listens on loopback unless told otherwise and has neither encryption nor
authentication.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tfstyle.errors import ArgumentError, ServingError
from tfstyle.export.servable import Servable
from tfstyle.serving.monitoring import Metrics
from tfstyle.serving.scheduler import Batching, Scheduler
from tfstyle.serving.transports import LARGE_MESSAGES
from tfstyle.serving.versions import (
    PLATFORM,
    ModelManager,
    ServedModel,
    checked_seconds,
    served_models,
)

if TYPE_CHECKING:
    import grpc
    from grpc_health.v1 import health

    from tfstyle.serving.rest import RestServer

logger = logging.getLogger(__name__)

MODEL_SERVER = "tensorflow_model_server"
BACKENDS = ("auto", MODEL_SERVER, "embedded")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8500
DEFAULT_REST_PORT = 8501
# Services whose health is told, besides "" for the whole server.
_SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


@dataclass(frozen=True)
class Limits:
    """What the embedded server accepts.

    Args:
        message_bytes: Largest request; a larger one is refused with RESOURCE_EXHAUSTED (gRPC) or
            413 (REST).
        image_side: Largest height and width of an image in pixels; beyond it INVALID_ARGUMENT.
        pixels: Most pixels (images × rows × columns) of one input, INVALID_ARGUMENT beyond it.
            Memory grows with it: about 0.7 kB a pixel for the first layers of VGG, so 4 Mi pixels
            (sixteen 512 × 512 slices) take about 3 GB for the time of the request.
        running: Requests, or batches of them, that run at the same time; more of them wait.
        waiting: Requests that may wait; beyond it RESOURCE_EXHAUSTED.
        rest_seconds: Time that a REST request may take, as gRPC clients set their own; beyond it
            DEADLINE_EXCEEDED (504).

    Raises:
        ArgumentError: A value is no whole number of at least 1 (``waiting``: at least 0), or
            ``rest_seconds`` no number above 0.
    """

    message_bytes: int = 256 * 2**20
    image_side: int = 4096
    pixels: int = 4 * 2**20
    running: int = 2
    waiting: int = 64
    rest_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, lowest = getattr(self, field.name), 0 if field.name == "waiting" else 1
            if field.name == "rest_seconds":
                if not checked_seconds(field.name, value):
                    raise ArgumentError(f"{field.name}: must be above 0, received {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ArgumentError(
                    f"{field.name}: must be a whole number of at least {lowest}, received {value!r}"
                )


@dataclass(frozen=True)
class ServerInfo:
    """What :func:`serve` tells about the server that it started.

    Attributes:
        backend: ``"tensorflow_model_server"`` or ``"embedded"``.
        address: ``host:port`` of gRPC, for clients on this machine.
        models: Model name to base path.
        rest_address: ``host:port`` of REST; None where it is off.
    """

    backend: str
    address: str
    models: dict[str, Path]
    rest_address: str | None = None


class EmbeddedServer:
    """TensorFlow Serving's gRPC and REST services, in this process.

    PredictionService (Predict, GetModelMetadata), ModelService (GetModelStatus,
    HandleReloadConfigRequest), gRPC's health service, the REST API and Prometheus' page, under
    TensorFlow Serving's names and with its status codes. New versions are loaded when their
    folders appear and old ones released when their last request is done.

    The graph runs through TensorFlow's session loader, not through the model's Python code, so
    what works here works in tensorflow_model_server. Use it as a context manager, or call
    :meth:`start` and :meth:`stop`.

    Args:
        models: A ``models.config`` file with version policies and labels; or a model name to
            base path, a folder of base paths, or one base path, see
            :func:`tfstyle.export.resolve_models`, of which the latest version each is served.
        host: Address to listen on. Anything but loopback lets others on the network in, without
            encryption or authentication.
        port: gRPC port; 0 takes a free one, which :attr:`port` then tells.
        rest_port: REST port; 0 takes a free one, None leaves REST off.
        limits: Sizes and concurrency; the defaults of :class:`Limits` unless given.
        batching: Join requests to batches; None runs each alone.
        poll_seconds: Seconds between two looks for new versions; 0 never looks again.
        warm_up: Run a version's warm-up requests before it is available.
        allow_file_ops: Serve SavedModels even if they can reach for files or run code beyond
            their graph, see :mod:`tfstyle.export.file_operations`.

    Attributes:
        served: Model name to :class:`tfstyle.serving.versions.ServedModel`, as given.
        metrics: What Prometheus' page shows.

    Raises:
        InputFileError: A model folder is missing, empty or damaged (on :meth:`start`: cannot be
            loaded).
        ArgumentError: ``port``, ``rest_port``, ``poll_seconds`` or ``models`` cannot be used.

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
        rest_port: int | None = None,
        limits: Limits | None = None,
        batching: Batching | None = None,
        poll_seconds: float = 1.0,
        warm_up: bool = True,
        allow_file_ops: bool = False,
    ):
        self.served = served_models(models)
        self.host = host
        self.limits = limits or Limits()
        self.batching = batching
        self.metrics = Metrics()
        self._wanted_ports = (
            _checked_port(port),
            None if rest_port is None else _checked_port(rest_port, "rest_port"),
        )
        self._poll_seconds = checked_seconds("poll_seconds", poll_seconds)
        self._warm_up = warm_up
        self._load = partial(Servable, allow_file_ops=allow_file_ops)
        self._running: _Running | None = None
        self._lock = threading.Lock()

    @property
    def models(self) -> dict[str, Path]:
        """Model name to base path."""
        if self._running is not None:
            return self._running.manager.models
        return {name: model.base_path for name, model in self.served.items()}

    @property
    def port(self) -> int:
        """The gRPC port in use.

        Raises:
            ServingError: The server is not running.
        """
        return self._required().port

    @property
    def rest_port(self) -> int | None:
        """The REST port in use; None where REST is off.

        Raises:
            ServingError: The server is not running.
        """
        return self._required().rest_port

    @property
    def address(self) -> str:
        """``host:port`` of gRPC."""
        return _address(self.host, self.port)

    @property
    def rest_address(self) -> str | None:
        """``host:port`` of REST; None where REST is off."""
        return None if self.rest_port is None else _address(self.host, self.rest_port)

    def start(self) -> EmbeddedServer:
        """Load the models and listen.

        Returns:
            The server itself.

        Raises:
            InputFileError: A model cannot be loaded.
            ServingError: An address cannot be bound, or the server runs already.
        """
        with self._lock:
            if self._running is not None:
                raise ServingError(f"the embedded server already listens on {self.address}")
            self._running = self._start()
        if not _is_loopback(self.host):
            logger.warning(
                "listening on %s without encryption or authentication: everyone who reaches this "
                "address can use the models",
                self.host,
            )
        logger.info("embedded server listening on %s", self.address)
        if self.rest_address is not None:
            logger.info("REST on %s", self.rest_address)
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Refuse new requests, let those in progress finish, and release the models.

        Does nothing when the server is not running.

        Args:
            grace: Seconds that requests in progress may take; then they are cancelled.
        """
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return
        running.stop(grace)
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

    def _required(self) -> _Running:
        if self._running is None:
            raise ServingError("the embedded server is not running; call start() first")
        return self._running

    def _start(self) -> _Running:
        import grpc
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        from tfstyle.serving.core import Core
        from tfstyle.serving.rest import RestServer
        from tfstyle.serving.services import ModelService, PredictionService

        limits, places = self.limits, self.limits.running + self.limits.waiting
        with ExitStack() as undo:
            # Every request that runs or waits holds a thread; status and health want a few more,
            # so that they answer while all places are taken.
            executor = ThreadPoolExecutor(places + 16, thread_name_prefix="tfstyle-grpc")
            undo.callback(executor.shutdown, wait=False)
            server = grpc.server(
                executor,
                maximum_concurrent_rpcs=places + 16,
                options=[
                    ("grpc.max_receive_message_length", limits.message_bytes),
                    ("grpc.max_send_message_length", -1),
                    *LARGE_MESSAGES,
                    # Without this, a second server on the port would share its requests.
                    ("grpc.so_reuseport", 0),
                    # Finds connections whose other end is gone without a word.
                    ("grpc.keepalive_time_ms", 60_000),
                    ("grpc.keepalive_timeout_ms", 20_000),
                    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ],
            )
            wanted, wanted_rest = self._wanted_ports
            port = _bind(server, self.host, wanted)
            listener = None
            if wanted_rest is not None:
                listener = _listener(self.host, wanted_rest)
                undo.callback(listener.close)
            self.metrics = Metrics()
            scheduler = Scheduler(
                limits.running, limits.waiting, self.batching, limits.pixels, self.metrics
            )
            undo.callback(scheduler.stop)
            manager = ModelManager(
                self.served,
                poll_seconds=self._poll_seconds,
                warm_up=self._warm_up,
                metrics=self.metrics,
                load=self._load,
            )
            self.metrics.add_gauge(
                ":tfstyle:serving:queued_requests", "Requests that wait.", lambda: scheduler.queued
            )
            manager.start()
            undo.callback(manager.stop)
            core = Core(manager, scheduler, limits, self.metrics)
            prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
                PredictionService(core), server
            )
            model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)
            checks = health.HealthServicer()
            for service in ("", *_SERVICES):
                checks.set(service, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            rest = None if listener is None else RestServer(core, listener, limits)
            server.start()
            if rest is not None:
                rest.start()
            undo.pop_all()
        return _Running(
            server,
            executor,
            scheduler,
            manager,
            checks,
            rest,
            port,
            None if rest is None else rest.port,
        )


@dataclass(frozen=True)
class _Running:
    """The parts of a server that runs."""

    server: grpc.Server
    executor: ThreadPoolExecutor
    scheduler: Scheduler
    manager: ModelManager
    checks: health.HealthServicer
    rest: RestServer | None
    port: int
    rest_port: int | None

    def stop(self, grace: float) -> None:
        self.checks.enter_graceful_shutdown()
        refused = self.server.stop(grace)  # at once, and in the background
        if self.rest is not None:
            self.rest.stop(grace)
        refused.wait()
        self.scheduler.stop()
        self.manager.stop()  # which cancels what still runs
        self.scheduler.join()
        self.executor.shutdown(wait=True)


def serve(
    models: str | Path | Mapping[str, str | Path] = "saved_models",
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    rest_port: int | None = None,
    backend: str = "auto",
    limits: Limits | None = None,
    batching: Batching | None = None,
    poll_seconds: float = 1.0,
    allow_file_ops: bool = False,
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
        models: A ``models.config`` file; or a model name to base path, a folder of base paths, or
            one base path, see :func:`tfstyle.export.resolve_models`.
        host: Address to listen on (embedded server only).
        port: gRPC port; 0 takes a free one.
        rest_port: REST port; 0 takes a free one, None leaves REST off.
        backend: ``"auto"``, ``"tensorflow_model_server"`` or ``"embedded"``.
        limits: Sizes and concurrency of the embedded server.
        batching: Join requests to batches; None runs each alone.
        poll_seconds: Seconds between two looks for new versions; 0 never looks again.
        allow_file_ops: See :class:`EmbeddedServer`; tensorflow_model_server runs every model.
        grace: Seconds that requests in progress may take after the signal.
        on_ready: Called once, when the server answers.
        stop: Set it to end the call, for example from another thread.

    Raises:
        ArgumentError: ``backend``, ``port``, ``rest_port``, ``poll_seconds``, ``grace`` or
            ``models`` cannot be used.
        InputFileError: A model folder is missing, empty or damaged.
        ServingError: A port is taken, or tensorflow_model_server is missing or ends by itself.

    Example:
        >>> serve("saved_models", port=8500, rest_port=8501)      # doctest: +SKIP
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"backend: unknown value {backend!r}; use one of {', '.join(BACKENDS)}")
    if grace < 0:
        raise ArgumentError(f"grace: must be at least 0 seconds, received {grace!r}")
    server = EmbeddedServer(  # which checks its arguments; only started where it is wanted
        models,
        host=host,
        port=port,
        rest_port=rest_port,
        limits=limits,
        batching=batching,
        poll_seconds=poll_seconds,
        allow_file_ops=allow_file_ops,
    )
    stop = stop or threading.Event()
    binary = shutil.which(MODEL_SERVER) if backend != "embedded" else None
    if backend == MODEL_SERVER and binary is None:
        raise ServingError(
            f"{MODEL_SERVER} is not on PATH; install it, use the tensorflow/serving container "
            "image (see serving/README.md), or choose the backend 'embedded'"
        )
    with _stop_on_signals(stop):
        if binary is None:
            _run_embedded(server, grace, on_ready, stop)
            return
        files = {"model_config_file": model_server_config(server.served)}
        flags = {
            "allow_version_labels_for_unavailable_models": "true",
            "file_system_poll_wait_seconds": str(round(poll_seconds)),
        }
        if batching is not None:
            flags["enable_batching"] = "true"
            files["batching_parameters_file"] = batching_parameters(batching)
        if rest_port is not None:
            files["monitoring_config_file"] = MONITORING_CONFIG
        _run_model_server(
            binary, server.models, host, port, rest_port, flags, files, grace, on_ready, stop
        )


MONITORING_CONFIG = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def batching_parameters(batching: Batching) -> str:
    """TensorFlow Serving's ``BatchingParameters`` for the same batching, in text format."""
    return (
        f"max_batch_size {{ value: {batching.max_batch_size} }}\n"
        f"batch_timeout_micros {{ value: {round(batching.timeout * 1e6)} }}\n"
    )


def model_server_config(models: Mapping[str, ServedModel]) -> str:
    """TensorFlow Serving's ``models.config`` for some models, in protobuf's text format.

    Args:
        models: Model name to model.

    Returns:
        A ``tensorflow.serving.ModelServerConfig``.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for model in models.values():
        entry = config.model_config_list.config.add()
        entry.name = model.name
        entry.base_path = str(model.base_path.resolve())
        entry.model_platform = PLATFORM
        policy = entry.model_version_policy
        if model.specific:
            policy.specific.versions.extend(model.specific)
        elif model.latest is None:
            policy.all.SetInParent()
        elif model.latest != 1:
            policy.latest.num_versions = model.latest
        for label, version in model.labels.items():
            entry.version_labels[label] = version
    return text_format.MessageToString(config, as_utf8=True)


def _run_embedded(
    server: EmbeddedServer,
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    try:
        server.start()
        if on_ready is not None and not stop.is_set():
            on_ready(
                ServerInfo("embedded", server.address, dict(server.models), server.rest_address)
            )
        stop.wait()
    finally:
        server.stop(grace)


def _run_model_server(
    binary: str,
    models: dict[str, Path],
    host: str,
    port: int,
    rest_port: int | None,
    flags: dict[str, str],
    files: dict[str, str],
    grace: float,
    on_ready: Callable[[ServerInfo], None] | None,
    stop: threading.Event,
) -> None:
    ports = {"port": port or _free_port()}
    if rest_port is not None:
        ports["rest_api_port"] = rest_port or _free_port()
    for number in ports.values():
        if _answers(number):
            raise ServingError(f"port {number} is taken by another program; choose another port")
    logger.info("starting %s on port %d", binary, ports["port"])
    if host != "0.0.0.0":
        logger.warning(
            "%s listens on all interfaces, not on %s alone; keep the port behind a firewall or "
            "choose the backend 'embedded'",
            MODEL_SERVER,
            host,
        )
    with tempfile.TemporaryDirectory(prefix="tfstyle-serving-") as folder:
        flags = {**{name: str(number) for name, number in ports.items()}, **flags}
        for flag, text in files.items():
            path = Path(folder) / flag.removesuffix("_file")
            path.write_text(text, encoding="utf-8")
            flags[flag] = str(path)
        try:
            # Its own session, so that Ctrl-C in a terminal reaches it through this process alone.
            process = subprocess.Popen(
                [binary, *(f"--{flag}={value}" for flag, value in flags.items())],
                start_new_session=True,
            )
        except OSError as error:
            raise ServingError(f"{binary} cannot be started ({error.strerror or error})") from error
        try:
            ready = False
            while process.poll() is None and not stop.is_set():
                # It opens its ports only after the models are loaded.
                if not ready and all(map(_answers, ports.values())):
                    ready = True
                    if on_ready is not None:
                        addresses = [_address(DEFAULT_HOST, number) for number in ports.values()]
                        rest_address = addresses[1] if rest_port is not None else None
                        on_ready(ServerInfo(MODEL_SERVER, addresses[0], models, rest_address))
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


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket for REST."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Now, so that a port that another program listens on is found here.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServingError(
            f"{_address(host, port)} cannot be listened on for REST "
            f"({error.strerror or error}); choose another port or host"
        ) from error
    return listener


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _checked_port(port: int, name: str = "port") -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ArgumentError(f"{name}: must be a whole number in 0..65535, received {port!r}")
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((DEFAULT_HOST, 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((DEFAULT_HOST, port)) == 0
