"""TensorFlow Serving's REST API over a :class:`Core`, on the WSGI server waitress.

Reference: TensorFlow Serving, "RESTful API": model status, model metadata and predict in row and
column format. Besides, Prometheus' page under ``/monitoring/prometheus/metrics``.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from tfstyle.errors import ServingError
from tfstyle.export.servable import DEFAULT_SIGNATURE
from tfstyle.serving import json_tensors
from tfstyle.serving.core import Core, answered
from tfstyle.serving.monitoring import CONTENT_TYPE
from tfstyle.serving.services import unimplemented
from tfstyle.serving.status import HTTP_STATUS, StatusError, invalid
from tfstyle.serving.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from tensorflow_serving.apis.model_pb2 import ModelSpec

    from tfstyle.serving.server import Limits

logger = logging.getLogger(__name__)

METRICS_PATH = "/monitoring/prometheus/metrics"

_NAME = r"(?P<name>[^/:]+)"
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/{_NAME}{_CHOICE}:(?P<method>classify|regress|predict)", re.I)
_GET = re.compile(rf"/v1/models(?:/{_NAME})?{_CHOICE}(?P<metadata>/metadata)?", re.I)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    429: "Too Many Requests",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_LARGEST_VERSION = 2**63 - 1


class RestApi:
    """The WSGI application.

    Args:
        core: What answers.
        timeout: Seconds that a predict request may take.
        pixels: Most pixels of one input.
    """

    def __init__(self, core: Core, timeout: float, pixels: int):
        self._core = core
        self._timeout = timeout
        # Two images, each pixel a list of up to three numbers in lists of rows.
        self._values = 10 * pixels + 2**16
        self._lock = threading.Lock()
        self._active = 0

    @property
    def active(self) -> int:
        """Requests in progress."""
        return self._active

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        with self._lock:
            self._active += 1
        try:
            status, kind, body = self._respond(environ)
        finally:
            with self._lock:
                self._active -= 1
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{status} {_REASONS[status]}", headers)
        return [body]

    def _respond(self, environ: dict) -> tuple[int, str, bytes]:
        method = environ["REQUEST_METHOD"]
        # The path as it was sent: an encoded slash belongs to the name that it is in.
        path = environ.get("REQUEST_URI") or environ["PATH_INFO"]
        path = path.split("?", 1)[0]
        if method == "GET" and path == METRICS_PATH:
            return 200, CONTENT_TYPE, self._core.metrics.page().encode()
        if not path.lower().startswith("/v1/"):
            return 404, "text/plain; charset=utf-8", b"Not Found\n"
        try:
            body = answered(f"{method} {path}", lambda: self._answer(method, path, environ))
            return 200, "application/json", body
        except StatusError as error:
            status = HTTP_STATUS[error.code]
            return status, "application/json", json_tensors.error_body(error.details)

    def _answer(self, method: str, path: str, environ: dict) -> bytes:
        if method == "POST" and (match := _POST.fullmatch(path)):
            if match["method"].lower() != "predict":
                raise StatusError("UNIMPLEMENTED", unimplemented(match["method"].capitalize()))
            return self._predict(match, environ)
        if method == "GET" and (match := _GET.fullmatch(path)):
            if not match["name"]:
                invalid("Missing model name in request.")
            return self._metadata(match) if match["metadata"] else self._status(match)
        return invalid(f"Malformed request: {method} {path}")

    def _predict(self, match: re.Match, environ: dict) -> bytes:
        self._core.require_room()  # before the work of reading JSON
        body = json_tensors.parse(environ["wsgi.input"].read(), self._values)
        request = predict_pb2.PredictRequest()
        _fill(request.model_spec, match)
        signature_name = body.get("signature_name", "")
        if not isinstance(signature_name, str):
            invalid("JSON Value: not formatted correctly. 'signature_name' key must be a string.")
        request.model_spec.signature_name = signature_name
        inputs, rows = json_tensors.read_inputs(body, self._dtypes(request.model_spec))
        for name, value in inputs.items():
            encode_tensor(request.inputs[name], value)
        del body, inputs
        response = self._core.predict(
            request,
            entrypoint="REST",
            timeout=self._timeout,
            gone=environ.get("waitress.client_disconnected"),
        )
        outputs = {name: decode_tensor(proto) for name, proto in response.outputs.items()}
        return json_tensors.dumps(json_tensors.write_outputs(outputs, rows))

    def _dtypes(self, spec: ModelSpec) -> dict[str, np.dtype]:
        """What the signature wants; JSON does not say."""
        name = spec.signature_name or DEFAULT_SIGNATURE
        with self._core.manager.acquire(spec) as servable:
            signature = servable.signatures.get(name)
        if signature is None:
            invalid(f'Serving signature name: "{name}" not found in signature def')
        return {
            key: np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
            for key, info in signature.inputs.items()
        }

    def _status(self, match: re.Match) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest()
        _fill(request.model_spec, match)
        return _proto_json(self._core.status(request)).encode()

    def _metadata(self, match: re.Match) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        _fill(request.model_spec, match)
        request.metadata_field.append("signature_def")
        response = self._core.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        value = {
            "model_spec": json.loads(_proto_json(response.model_spec)),
            "metadata": {"signature_def": json.loads(_proto_json(signatures))},
        }
        return json.dumps(value, indent=1).encode()


def _fill(spec: ModelSpec, match: re.Match) -> None:
    spec.name = _unquoted("model name", match["name"])
    if match["version"]:
        if int(match["version"][:30]) > _LARGEST_VERSION:
            invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = _unquoted("model version label", match["label"])


def _unquoted(what: str, text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return invalid(f"Failed to decode {what}: {text}")


def _proto_json(message: Any) -> str:
    return json_format.MessageToJson(
        message,
        indent=1,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


class RestServer:
    """waitress with the application, in a thread of its own.

    Args:
        core: What answers.
        listener: A bound socket, which the server closes.
        limits: Sizes, concurrency and time.

    Raises:
        ServingError: The socket cannot be listened on.
    """

    def __init__(self, core: Core, listener: socket.socket, limits: Limits):
        from waitress import create_server

        # "Task queue depth" is said of every request beyond the first; the metrics tell it better.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._api = RestApi(core, limits.rest_seconds, limits.pixels)
        self._map: dict = {}
        places = limits.running + limits.waiting
        try:
            self._server = create_server(
                self._api,
                map=self._map,
                sockets=[listener],
                # All who may run or wait, and a few for status and metrics.
                threads=places + 4,
                connection_limit=2 * places + 100,
                # A connection on which nothing moves is closed after this time.
                channel_timeout=60,
                cleanup_interval=10,
                # Sees that a client has left while its request waits.
                channel_request_lookahead=1,
                max_request_body_size=limits.message_bytes,
                inbuf_overflow=limits.message_bytes,
                outbuf_overflow=limits.message_bytes,
                ident="tfstyle",
            )
        except OSError as error:
            raise ServingError(
                f"the REST port cannot be listened on ({error.strerror or error})"
            ) from error
        self._ends_at: float | None = None
        self._thread = threading.Thread(target=self._loop, name="tfstyle-rest", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.effective_port)

    def start(self) -> None:
        """Serves until :meth:`stop`."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Accepts no more, lets requests in progress finish, and closes every connection.

        Args:
            grace: Seconds that they may take.
        """
        self._ends_at = time.monotonic() + grace
        self._server.pull_trigger()
        self._thread.join()
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=5)

    def _loop(self) -> None:
        from waitress import wasyncore

        accepting = True
        while True:
            wasyncore.loop(timeout=0.2, use_poll=True, map=self._map, count=1)
            if self._ends_at is None:
                continue
            if accepting:
                accepting = False
                self._server.del_channel(self._map)
                self._server.socket.close()
            if time.monotonic() >= self._ends_at or not self._busy():
                break
        wasyncore.close_all(self._map)

    def _busy(self) -> bool:
        if self._api.active:
            return True
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
