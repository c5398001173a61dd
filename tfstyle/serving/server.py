"""A minimal development server: TensorFlow Serving's protocol over gRPC, on loopback."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle._private.images import checked_whole
from tfstyle.errors import (
    SERVING_PACKAGES,
    ArgumentError,
    InputFileError,
    ServingError,
    require_packages,
)
from tfstyle.export.servable import DEFAULT_SIGNATURE, Servable, list_versions, saved_model_folder
from tfstyle.serving.client import LARGE_MESSAGES, describe_tensor

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_PREDICTION = "tensorflow.serving.PredictionService"
_MODELS = "tensorflow.serving.ModelService"
# gRPC sends the message in the trailing metadata, which clients limit to 8 KiB.
_MAX_DETAILS = 1024


@dataclass(frozen=True)
class Limits:
    """What the development server accepts.

    Args:
        message_bytes: Largest request; a larger one is refused with RESOURCE_EXHAUSTED.
        image_side: Largest height and width of an image in pixels; beyond it INVALID_ARGUMENT.
        pixels: Most pixels (images × rows × columns) of one input, INVALID_ARGUMENT beyond it.
            Memory grows with it: about 0.7 kB a pixel for the first layers of VGG, so 4 Mi pixels
            (sixteen 512 × 512 slices) take about 3 GB for the time of the request.
        running: Calls that are answered at the same time; more of them wait.
        waiting: Calls that may wait; beyond it RESOURCE_EXHAUSTED.

    Raises:
        ArgumentError: A value is not a whole number of at least 1 (``waiting``: at least 0).
    """

    message_bytes: int = 256 * 2**20
    image_side: int = 4096
    pixels: int = 4 * 2**20
    running: int = 2
    waiting: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checked_whole(name, value, 0 if name == "waiting" else 1)


def resolve_models(models: str | Path | Mapping[str, str | Path]) -> dict[str, Path]:
    """Model names and their absolute base paths, from what a user would naturally give.

    `models` is a mapping of model name to base path; a base path itself (a folder with version
    folders: the model gets the folder's name); or a folder of base paths, such as ``saved_models``.

    Raises:
        InputFileError: A folder is missing, has no version, or its latest version is empty.
        ArgumentError: ``models`` is an empty mapping, or a model name is not usable.
    """
    if isinstance(models, Mapping):
        named = {name: Path(path) for name, path in models.items()}
    elif list_versions(models):
        named = {Path(models).resolve().name: Path(models)}
    elif not Path(models).is_dir():
        raise InputFileError(models, "is not a folder; export a model with `tfstyle export`.")
    else:
        named = {p.name: p for p in sorted(Path(models).iterdir()) if list_versions(p)}
        if not named:
            raise InputFileError(
                models,
                "has no model: expected <model>/<version>/saved_model.pb, for example "
                "stylize/1/saved_model.pb; export one with `tfstyle export`.",
            )
    if not named or any(not isinstance(n, str) or not n or "/" in n for n in named):
        raise ArgumentError(
            f"models: must have names, without '/', and at least one, received {list(named)!r}."
        )
    for path in named.values():
        if saved_model_folder(path) == path:
            raise InputFileError(path, f"is a version folder; give the folder of {path.name}.")
    return {name: path.resolve() for name, path in named.items()}


class DevelopmentServer:
    """Predict, GetModelMetadata, GetModelStatus and gRPC's health service, in this process.

    For demos, tests and machines without Docker. It serves the latest version of each model that is
    there when it starts; batching, REST and metrics are TensorFlow Serving's own. The graph runs
    through TensorFlow's session loader, not through the model's Python code, so what works here
    works in TensorFlow Serving; statuses and their words are its own. It listens on loopback alone,
    for there is neither encryption nor authentication. Use it as a context manager, or call
    :meth:`start` and :meth:`stop`.

    Args:
        models: See :func:`resolve_models`. A SavedModel is a program: serve only those whose
            origin you trust.
        port: Port; 0 takes a free one, which :attr:`port` then tells.
        limits: Sizes and concurrency. Defaults to those of :class:`Limits`.

    Attributes:
        models: Model name to base path.
        limits: What it accepts.

    Raises:
        InputFileError: A model folder is missing or empty (on :meth:`start`: cannot be loaded).
        ArgumentError: ``port`` or ``models`` cannot be used.
        MissingPackageError: The extra ``serving`` is not installed.

    Example:
        >>> with DevelopmentServer("saved_models", port=0) as server:      # doctest: +SKIP
        ...     print(server.address)
        127.0.0.1:40123
    """

    def __init__(
        self,
        models: str | Path | Mapping[str, str | Path],
        *,
        port: int = 8500,
        limits: Limits | None = None,
    ):
        require_packages(SERVING_PACKAGES, "serving", "the development server")
        checked_whole("port", port, 0, 65535)
        self.models = resolve_models(models)
        self.limits = limits or Limits()
        self._wanted_port = port
        self._port: int | None = None
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port in use.

        Raises:
            ServingError: The server is not running.
        """
        if self._port is None:
            raise ServingError("the development server is not running; call start() first")
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` for clients on this machine."""
        return f"{HOST}:{self.port}"

    def start(self) -> DevelopmentServer:
        """Load the models and listen.

        Returns:
            The server itself.

        Raises:
            InputFileError: A model cannot be loaded.
            ServingError: The port is taken, or the server runs already.
        """
        with self._lock:
            if self._port is not None:
                raise ServingError(f"the development server already listens on {self.address}")
            self._port = self._start()
        logger.info("development server listening on %s", self.address)
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Refuse new requests, let those in progress finish, and release the models.

        Does nothing when the server is not running.

        Args:
            grace: Seconds that requests in progress may take; then they are canceled.
        """
        with self._lock:
            if self._port is None:
                return
            self._port = None
            self._health.enter_graceful_shutdown()
            self._server.stop(grace).wait()
            self._parts.close()
        logger.info("development server stopped")

    def __enter__(self) -> DevelopmentServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _start(self) -> int:
        import grpc
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._servables: dict[str, tuple[int, Servable]] = {}
        with ExitStack() as parts:
            threads = ThreadPoolExecutor(self.limits.running, thread_name_prefix="tfstyle-grpc")
            parts.callback(threads.shutdown)
            options = [
                ("grpc.max_receive_message_length", self.limits.message_bytes),
                ("grpc.max_send_message_length", -1),
                *LARGE_MESSAGES,
                # Without this, a second server on the port would share its requests.
                ("grpc.so_reuseport", 0),
            ]
            calls = self.limits.running + self.limits.waiting
            self._server = grpc.server(threads, maximum_concurrent_rpcs=calls, options=options)
            parts.callback(self._server.stop, None)
            self._server.add_generic_rpc_handlers(self._handlers())
            self._health = health.HealthServicer()
            for service in ("", _PREDICTION, _MODELS):
                self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            try:
                port = self._server.add_insecure_port(f"{HOST}:{self._wanted_port}")
            except RuntimeError:
                port = 0
            if port == 0:
                raise ServingError(
                    f"{HOST}:{self._wanted_port} cannot be listened on; choose another port"
                )
            for name, path in self.models.items():
                folder = saved_model_folder(path)
                servable = parts.enter_context(Servable(folder))  # closing it cancels what runs
                self._servables[name] = int(folder.name), servable
            self._server.start()
            self._parts = parts.pop_all()
        return port

    # -- requests --------------------------------------------------------------------------

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        """The methods; gRPC answers UNIMPLEMENTED for all others."""
        import grpc
        from tensorflow_serving.apis import get_model_metadata_pb2 as metadata
        from tensorflow_serving.apis import get_model_status_pb2 as status
        from tensorflow_serving.apis import predict_pb2 as predict

        def handler(name: str, method: Callable, messages: Any) -> grpc.RpcMethodHandler:
            request = getattr(messages, f"{name}Request")
            response = getattr(messages, f"{name}Response")

            def answer(message: Any, context: grpc.ServicerContext) -> Any:
                return _answer(method, message, response(), context)

            return grpc.unary_unary_rpc_method_handler(
                answer, request.FromString, response.SerializeToString
            )

        methods = (
            (_PREDICTION, "Predict", self._predict, predict),
            (_PREDICTION, "GetModelMetadata", self._metadata, metadata),
            (_MODELS, "GetModelStatus", self._status, status),
        )
        return [
            grpc.method_handlers_generic_handler(service, {name: handler(name, method, messages)})
            for service, name, method, messages in methods
        ]

    def _find(self, request: Any) -> tuple[int, Servable]:
        """The model that a request is for, in TensorFlow Serving's words where there is none."""
        spec = request.model_spec
        _require(request.HasField("model_spec"), "Missing ModelSpec")
        _require(spec.name, "ModelSpec has no name specified.")
        version, servable = self._servables.get(spec.name, (0, None))
        wanted = f"Latest({spec.name})"
        if spec.HasField("version"):
            wanted = f"Specific({spec.name}, {spec.version.value})"
        found = servable is not None and spec.version.value in (0, version)
        _require(found, f"Servable not found for request: {wanted}", "NOT_FOUND")
        label = spec.version_label
        _require(not label, f"Unrecognized servable version label: {label}")
        assert servable is not None
        return version, servable

    def _predict(self, request: Any, response: Any, context: grpc.ServicerContext) -> None:
        import tensorflow as tf

        _require(context.is_active(), "the client has left", "CANCELLED")  # while it waited
        version, servable = self._find(request)
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = servable.signatures.get(key)
        _require(signature, f'Serving signature key "{key}" not found.', "FAILED_PRECONDITION")
        assert signature is not None
        _check_names(request, signature)
        inputs = {
            name: _decode(name, request.inputs[name], info, self.limits)
            for name, info in sorted(signature.inputs.items())
        }
        left = context.time_remaining()
        if left is not None and left > 3e7:
            left = None  # a year and more is some gRPC versions' way to say so
        values = servable.run(key, inputs, list(request.output_filter), timeout=left)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = key
        for name, value in values.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))

    def _metadata(self, request: Any, response: Any, context: grpc.ServicerContext) -> None:
        from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

        version, servable = self._find(request)
        wanted = list(request.metadata_field)
        _require(wanted, "GetModelMetadataRequest must specify at least one metadata_field")
        for name in wanted:
            _require(name == "signature_def", f"Metadata field {name} is not supported")
        signatures = SignatureDefMap()
        for key, signature in servable.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(signatures)

    def _status(self, request: Any, response: Any, context: grpc.ServicerContext) -> None:
        version, _ = self._find(request)
        entry = response.model_version_status.add(version=version)
        entry.state = entry.AVAILABLE
        entry.status.SetInParent()


class _RefusedError(Exception):
    """Ends a request with a gRPC status and what went wrong, for the caller."""

    def __init__(self, details: str, code: str):
        super().__init__(details)
        self.details, self.code = details, code


def _require(condition: Any, details: str, code: str = "INVALID_ARGUMENT") -> None:
    if not condition:
        raise _RefusedError(details, code)


def _answer(method: Callable, request: Any, response: Any, context: grpc.ServicerContext) -> Any:
    """Runs a request; any error becomes a status, and the server continues."""
    import grpc

    try:
        method(request, response, context)
        return response
    except Exception as error:
        code, details = _status_of(error)
        if code == "INTERNAL":
            logger.exception("a request failed")
    if len(details) > _MAX_DETAILS:
        details = f"{details[: _MAX_DETAILS - 1]}…"
    logger.info("request refused: %s: %s", code, details)
    return context.abort(getattr(grpc.StatusCode, code), details)


def _status_of(error: Exception) -> tuple[str, str]:
    """The name of a gRPC status, and the details."""
    import grpc

    if isinstance(error, _RefusedError):
        return error.code, error.details
    if isinstance(error, MemoryError):
        return "RESOURCE_EXHAUSTED", "not enough memory for this request"
    number = getattr(error, "error_code", None)  # of a tf.errors.OpError
    for status in grpc.StatusCode:
        if number and status.value[0] == number:
            return status.name, _clean_message(getattr(error, "message", ""))
    return "INTERNAL", "internal error; the server's log says more"


def _clean_message(message: str) -> str:
    """The first sentence of a TensorFlow error, without names of graph nodes."""
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and line != "Graph execution error:"]
    # "2 root error(s) found." is followed by "(0) INVALID_ARGUMENT: the message".
    if lines and re.match(r"\d+ root error\(s\) found", lines[0]):
        lines = [re.sub(r"^\(\d+\) [A-Z_]+: ", "", line) for line in lines[1:]]
    text = lines[0] if lines else message
    text = re.sub(r"\{\{[a-z_]*node [^}]*\}\}|\s*\[\[.*?\]\]", "", text).strip()
    text = re.sub(r"^assertion failed: \[([^\]]*)\]", r"\1", text)
    return text.strip() or message.strip()


def _check_names(request: Any, signature: Any) -> None:
    sent, wanted = set(request.inputs), set(signature.inputs)
    _require(
        sent == wanted,
        f"input size does not match signature: {len(sent)}!={len(wanted)}. Sent extra: "
        f"{{{','.join(sorted(sent - wanted))}}}. Missing but required: "
        f"{{{','.join(sorted(wanted - sent))}}}.",
    )
    names = list(request.output_filter)
    for position, name in enumerate(names):
        _require(
            name in signature.outputs,
            f"output tensor alias not found in signature: {name} Outputs expected to be in the "
            f"set {{{','.join(sorted(signature.outputs))}}}.",
        )
        _require(name not in names[:position], f"duplicate output tensor alias: {name}")


def _decode(name: str, proto: Any, info: Any, limits: Limits) -> np.ndarray:
    """An input as an array; a few bytes may claim any shape, which is judged before decoding."""
    import tensorflow as tf

    shape = [dim.size for dim in proto.tensor_shape.dim]
    given = not proto.tensor_shape.unknown_rank and min(shape, default=0) >= 0
    _require(given, f"{name}: its shape is not fully given")
    sizes = [dim.size for dim in info.tensor_shape.dim]
    fits = info.tensor_shape.unknown_rank or (
        len(sizes) == len(shape) and all(a in (-1, b) for a, b in zip(sizes, shape))
    )
    _require(
        fits and proto.dtype == info.dtype,
        f"{name}: expected {describe_tensor(info)}, received {describe_tensor(proto)}",
    )
    is_image = len(shape) == 4
    side = max(shape[1:3]) if is_image else 0
    _require(
        side <= limits.image_side,
        f"{name}: image side {side} is over this server's limit of {limits.image_side} pixels",
    )
    pixels = math.prod(shape[:3] if is_image else shape)
    _require(
        pixels <= limits.pixels,
        f"{name}: {pixels} pixels (images x rows x columns) are over this server's limit of "
        f"{limits.pixels} in one request; send fewer images at a time",
    )
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise _RefusedError(f"tensor parsing error: {name}", "INVALID_ARGUMENT") from error
