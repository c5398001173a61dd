"""The two ways to a server, gRPC and REST: arrays in and out, every failure a StatusError.

Each transport has the same methods (``predict``, ``status``, ``metadata``, ``ready``, ``close``);
those of :class:`AioGrpcTransport` and :class:`ThreadedTransport` are coroutines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from tfstyle.errors import ArgumentError, InputFileError, ServingError
from tfstyle.serving import json_tensors
from tfstyle.serving.status import HTTP_STATUS, StatusError

if TYPE_CHECKING:
    import grpc

TRANSPORTS = ("grpc", "rest")
#: Options of gRPC channels and servers for messages of the size of images, which would otherwise
#: wait for the other side's leave every 64 kB.
LARGE_MESSAGES = (
    ("grpc.http2.lookahead_bytes", 4 * 2**20),
    ("grpc.http2.max_frame_size", 2**20),
)
_SCHEMES = {"grpc": ("grpc", False), "grpcs": ("grpc", True)}
_SCHEMES |= {"http": ("rest", False), "https": ("rest", True)}
# Codes by HTTP status; of several codes with one status the first that a client can meet.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES |= {400: "INVALID_ARGUMENT", 413: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "UNAVAILABLE"}
_DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "object",
}


@dataclass(frozen=True)
class Choice:
    """The model that calls are for, and which version of it."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class TensorFact:
    """What a server says about an input or output: dtype and sizes, None where free."""

    dtype: str
    sizes: tuple[int | None, ...] | None

    def __str__(self) -> str:
        dtype = "string" if self.dtype == "object" else self.dtype
        if self.sizes is None:
            return f"{dtype} of any shape"
        return f"{dtype} ({', '.join('?' if s is None else str(s) for s in self.sizes)})"


#: Signature name to ``{"inputs": {name: fact}, "outputs": {name: fact}}``.
Signatures = dict[str, dict[str, dict[str, TensorFact]]]


@dataclass(frozen=True)
class Address:
    """Where a server is and how to speak to it.

    Args:
        target: ``host:port``, or what gRPC takes for a target.
        transport: ``"grpc"`` or ``"rest"``.
        secure: TLS.
        ca_certificate: PEM file with the certificates to trust instead of the system's.
        client_certificate: PEM file with this client's certificate, where the server wants one.
        client_key: PEM file with its key.
        headers: Sent with every call: gRPC metadata, or HTTP headers.
        max_message_bytes: Largest message to send or accept (gRPC).
    """

    target: str
    transport: str = "grpc"
    secure: bool = False
    ca_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    max_message_bytes: int = 512 * 2**20

    @classmethod
    def parse(cls, target: str, transport: str | None, **settings: Any) -> Address:
        """From what a user gives: ``host:port``, or with ``grpc://``, ``grpcs://``, ``http://``.

        Raises:
            ArgumentError: It cannot be used, or contradicts `transport`.
            InputFileError: A certificate file is missing.
        """
        if not isinstance(target, str) or not target:
            raise ArgumentError(f"target: must be 'host:port', received {target!r}")
        if transport is not None and transport not in TRANSPORTS:
            raise ArgumentError(
                f"transport: unknown value {transport!r}; use one of {', '.join(TRANSPORTS)}"
            )
        scheme, separator, rest = target.partition("://")
        secure = False
        if separator and scheme.lower() in _SCHEMES:
            meant, secure = _SCHEMES[scheme.lower()]
            if transport not in (None, meant):
                raise ArgumentError(f"transport: {transport!r} contradicts the target {target!r}")
            transport, target = meant, rest.rstrip("/")
        if not target:
            raise ArgumentError("target: must be 'host:port', received a scheme alone")
        paths = {}
        for name in ("ca_certificate", "client_certificate", "client_key"):
            given = settings.pop(name, None)
            paths[name] = None if given is None else Path(given)
            if given is not None and not Path(given).is_file():
                raise InputFileError(given, f"is no file; {name} must name a PEM file")
        if (paths["client_certificate"] is None) != (paths["client_key"] is None):
            raise ArgumentError(
                "client_certificate: client_certificate and client_key belong together; give both"
            )
        secure = secure or any(path is not None for path in paths.values())
        return cls(target, transport or "grpc", secure, **paths, **settings)

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, where a proxy from the environment would only harm."""
        return self.target.startswith(("127.", "localhost:", "[::1]", "unix:"))


def connect(address: Address) -> GrpcTransport | RestTransport:
    """The transport for an address; nothing is sent yet."""
    return GrpcTransport(address) if address.transport == "grpc" else RestTransport(address)


def connect_async(address: Address) -> AioGrpcTransport | ThreadedTransport:
    """The same with coroutines."""
    if address.transport == "grpc":
        return AioGrpcTransport(address)
    return ThreadedTransport(RestTransport(address))


# -- gRPC ------------------------------------------------------------------------------------


def _grpc_options(address: Address) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", address.max_message_bytes),
        *LARGE_MESSAGES,
        ("grpc.max_receive_message_length", address.max_message_bytes),
        # Retries are this library's own: gRPC's would keep a copy of each message.
        ("grpc.enable_retries", 0),
    ]
    if address.is_local:
        options.append(("grpc.enable_http_proxy", 0))
    if address.target.startswith("dns:"):
        # A name with several addresses: calls are spread over all of them.
        options.append(("grpc.lb_policy_name", "round_robin"))
    return options


def _grpc_credentials(address: Address) -> grpc.ChannelCredentials:
    import grpc

    def read(path: Path | None) -> bytes | None:
        return None if path is None else path.read_bytes()

    return grpc.ssl_channel_credentials(
        read(address.ca_certificate), read(address.client_key), read(address.client_certificate)
    )


def _grpc_metadata(address: Address) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in address.headers.items()]


def _fill(spec: Any, choice: Choice) -> None:
    spec.name = choice.name
    if choice.version is not None:
        spec.version.value = choice.version
    elif choice.label is not None:
        spec.version_label = choice.label


def _predict_request(
    choice: Choice, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> Any:
    from tensorflow_serving.apis import predict_pb2

    from tfstyle.serving.tensors import encode_tensor

    request = predict_pb2.PredictRequest()
    _fill(request.model_spec, choice)
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        try:
            encode_tensor(request.inputs[name], value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name}: cannot be sent as a tensor ({error})") from None
    request.output_filter.extend(outputs)
    return request


def _predicted(response: Any) -> dict[str, np.ndarray]:
    from tfstyle.serving.tensors import decode_tensor

    arrays = {name: decode_tensor(proto) for name, proto in response.outputs.items()}
    # Users may write into what they get; the bytes of a message are read-only.
    return {name: a if a.flags.writeable else a.copy() for name, a in arrays.items()}


def _status_request(choice: Choice) -> Any:
    from tensorflow_serving.apis import get_model_status_pb2

    request = get_model_status_pb2.GetModelStatusRequest()
    _fill(request.model_spec, choice)
    return request


def _states(response: Any) -> dict[int, str]:
    from tensorflow_serving.apis import get_model_status_pb2

    names = get_model_status_pb2.ModelVersionStatus.State
    return {s.version: names.Name(s.state) for s in response.model_version_status}


def _metadata_request(choice: Choice) -> Any:
    from tensorflow_serving.apis import get_model_metadata_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest()
    _fill(request.model_spec, choice)
    request.metadata_field.append("signature_def")
    return request


def _signatures(response: Any) -> Signatures:
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_metadata_pb2

    def fact(info: Any) -> TensorFact:
        dtype = tf.dtypes.as_dtype(info.dtype)
        sizes = None
        if not info.tensor_shape.unknown_rank:
            sizes = tuple(None if d.size < 0 else d.size for d in info.tensor_shape.dim)
        return TensorFact("object" if dtype == tf.string else dtype.name, sizes)

    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    return {
        name: {
            "inputs": {k: fact(v) for k, v in definition.inputs.items()},
            "outputs": {k: fact(v) for k, v in definition.outputs.items()},
        }
        for name, definition in found.signature_def.items()
        if definition.inputs
    }


def _from_rpc_error(error: Any) -> StatusError:
    return StatusError(error.code().name, error.details() or "no details")


class GrpcTransport:
    """Blocking calls over gRPC. Thread-safe."""

    def __init__(self, address: Address):
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self._address = address
        self._metadata = _grpc_metadata(address)
        options = _grpc_options(address)
        if address.secure:
            credentials = _grpc_credentials(address)
            self._channel = grpc.secure_channel(address.target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address.target, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(self, choice, signature, inputs, outputs, timeout) -> dict[str, np.ndarray]:
        request = _predict_request(choice, signature, inputs, outputs)
        return _predicted(self._call(self._prediction.Predict, request, timeout))

    def status(self, choice, timeout) -> dict[int, str]:
        return _states(self._call(self._models.GetModelStatus, _status_request(choice), timeout))

    def metadata(self, choice, timeout) -> Signatures:
        request = _metadata_request(choice)
        return _signatures(self._call(self._prediction.GetModelMetadata, request, timeout))

    def ready(self, timeout: float) -> bool:
        import grpc

        try:
            grpc.channel_ready_future(self._channel).result(timeout)
        except grpc.FutureTimeoutError:
            return False
        return True

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout: float) -> Any:
        import grpc

        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _from_rpc_error(error) from error
        except ValueError as error:  # gRPC's way to say that the channel is closed
            raise _closed(self._address) from error


class AioGrpcTransport:
    """Coroutines over ``grpc.aio``, in the event loop of the first call."""

    def __init__(self, address: Address):
        self._address = address
        self._metadata = tuple(_grpc_metadata(address))
        self._stubs: tuple[Any, Any, Any] | None = None
        self._is_closed = False

    async def predict(self, choice, signature, inputs, outputs, timeout) -> dict[str, np.ndarray]:
        request = _predict_request(choice, signature, inputs, outputs)
        return _predicted(await self._call("prediction", "Predict", request, timeout))

    async def status(self, choice, timeout) -> dict[int, str]:
        request = _status_request(choice)
        return _states(await self._call("models", "GetModelStatus", request, timeout))

    async def metadata(self, choice, timeout) -> Signatures:
        request = _metadata_request(choice)
        return _signatures(await self._call("prediction", "GetModelMetadata", request, timeout))

    async def ready(self, timeout: float) -> bool:
        try:
            await asyncio.wait_for(self._connected()[0].channel_ready(), timeout)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._is_closed = True
        if self._stubs is not None:
            await self._stubs[0].close()

    def _connected(self) -> tuple[Any, Any, Any]:
        if self._is_closed:
            raise _closed(self._address)
        if self._stubs is None:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

            options = _grpc_options(self._address)
            target = self._address.target
            if self._address.secure:
                credentials = _grpc_credentials(self._address)
                channel = grpc.aio.secure_channel(target, credentials, options)
            else:
                channel = grpc.aio.insecure_channel(target, options)
            self._stubs = (
                channel,
                prediction_service_pb2_grpc.PredictionServiceStub(channel),
                model_service_pb2_grpc.ModelServiceStub(channel),
            )
        return self._stubs

    async def _call(self, service: str, method: str, request: Any, timeout: float) -> Any:
        import grpc

        _, prediction, models = self._connected()
        stub = prediction if service == "prediction" else models
        try:
            call = getattr(stub, method)
            return await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _from_rpc_error(error) from error
        except grpc.aio.UsageError as error:
            raise _closed(self._address) from error


def _closed(address: Address) -> ServingError:
    return ServingError(f"{address.target}: this client is closed")


# -- REST ------------------------------------------------------------------------------------


class RestTransport:
    """Blocking calls over TensorFlow Serving's REST API. Thread-safe.

    JSON says neither dtypes nor, for a single output, its name; both come from the model's
    metadata, which is asked for once.
    """

    def __init__(self, address: Address):
        import requests

        self._address = address
        self._base = f"{'https' if address.secure else 'http'}://{address.target}/v1/models"
        self._session: requests.Session | None = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=64)
        self._session.mount(self._base, adapter)
        self._session.headers.update(address.headers)
        if address.ca_certificate is not None:
            self._session.verify = str(address.ca_certificate)
        if address.client_certificate is not None:
            self._session.cert = (str(address.client_certificate), str(address.client_key))
        if address.is_local:
            self._session.trust_env = False
        self._known: dict[Choice, Signatures] = {}

    def predict(self, choice, signature, inputs, outputs, timeout) -> dict[str, np.ndarray]:
        deadline = time.monotonic() + timeout
        facts = self._outputs(choice, signature, timeout)
        values = {}
        for name, value in inputs.items():
            try:
                values[name] = json_tensors.to_json(name, value)
            except StatusError as error:
                raise ArgumentError(
                    f"{name}: cannot be sent as a tensor ({error.details})"
                ) from None
        body = json_tensors.dumps({"signature_name": signature, "inputs": values})
        url = f"{self._url(choice)}:predict"
        answer = self._call("POST", url, deadline - time.monotonic(), body)["outputs"]
        if len(facts) == 1:
            answer = {next(iter(facts)): answer}
        for name in outputs:
            if name not in facts:
                raise StatusError(
                    "INVALID_ARGUMENT", f"output tensor alias not found in signature: {name}"
                )
        return {
            name: json_tensors.to_array(name, value, np.dtype(facts[name].dtype))
            for name, value in answer.items()
            if not outputs or name in outputs
        }

    def status(self, choice, timeout) -> dict[int, str]:
        answer = self._call("GET", self._url(choice), timeout)
        return {int(s["version"]): s["state"] for s in answer["model_version_status"]}

    def metadata(self, choice, timeout) -> Signatures:
        answer = self._call("GET", f"{self._url(choice)}/metadata", timeout)

        def fact(info: Mapping) -> TensorFact:
            shape = info["tensor_shape"]
            sizes = None
            if not shape.get("unknown_rank"):
                numbers = [int(dim["size"]) for dim in shape.get("dim", ())]
                sizes = tuple(None if number < 0 else number for number in numbers)
            return TensorFact(_DTYPES.get(info["dtype"], info["dtype"]), sizes)

        found = answer["metadata"]["signature_def"]["signature_def"]
        return {
            name: {
                side: {k: fact(v) for k, v in (definition.get(side) or {}).items()}
                for side in ("inputs", "outputs")
            }
            for name, definition in found.items()
            if definition.get("inputs")
        }

    def ready(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            try:
                # Any answer will do, and every server has one for this.
                self._call("GET", self._base, max(0.05, deadline - time.monotonic()))
                return True
            except StatusError as error:
                if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _url(self, choice: Choice) -> str:
        url = f"{self._base}/{quote(choice.name, safe='')}"
        if choice.version is not None:
            return f"{url}/versions/{choice.version}"
        if choice.label is not None:
            return f"{url}/labels/{quote(choice.label, safe='')}"
        return url

    def _outputs(self, choice: Choice, signature: str, timeout: float) -> dict[str, TensorFact]:
        known = self._known.get(choice)
        if known is None or signature not in known:
            known = self._known[choice] = self.metadata(choice, timeout)
        if signature not in known:
            raise StatusError(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{signature}" not found in signature def',
            )
        return known[signature]["outputs"]

    def _call(self, method: str, url: str, timeout: float, body: bytes | None = None) -> Any:
        import requests

        session = self._session
        if session is None:
            raise _closed(self._address)
        if timeout <= 0:
            raise StatusError("DEADLINE_EXCEEDED", "the time was over before the call")
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            response = session.request(method, url, data=body, headers=headers, timeout=timeout)
        except requests.exceptions.SSLError as error:
            raise StatusError("UNAVAILABLE", f"TLS failed: {error}") from error
        except requests.exceptions.ConnectTimeout as error:
            raise StatusError("UNAVAILABLE", "no connection in time") from error
        except requests.exceptions.Timeout as error:
            raise StatusError("DEADLINE_EXCEEDED", "no answer in time") from error
        except requests.exceptions.RequestException as error:
            raise StatusError("UNAVAILABLE", f"no connection: {_reason(error)}") from error
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        details = answer.get("error") if isinstance(answer, dict) else None
        if response.status_code == 200:
            raise StatusError("INTERNAL", "the answer is not JSON; is this a model server?")
        if response.status_code == 413:
            details = "the request is larger than max"
        raise StatusError(
            _CODES.get(response.status_code, "UNKNOWN"),
            details or f"HTTP {response.status_code} {response.reason}",
        )


def _reason(error: BaseException) -> str:
    """The innermost sentence of a nest of network errors."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    reason = getattr(error, "reason", None)
    return str(reason or error).rsplit(": ", 1)[-1]


class ThreadedTransport:
    """Coroutines over a blocking transport, each call in a thread."""

    def __init__(self, inner: RestTransport):
        self._inner = inner

    async def predict(self, *arguments, **keywords) -> dict[str, np.ndarray]:
        return await asyncio.to_thread(self._inner.predict, *arguments, **keywords)

    async def status(self, *arguments, **keywords) -> dict[int, str]:
        return await asyncio.to_thread(self._inner.status, *arguments, **keywords)

    async def metadata(self, *arguments, **keywords) -> Signatures:
        return await asyncio.to_thread(self._inner.metadata, *arguments, **keywords)

    async def ready(self, timeout: float) -> bool:
        return await asyncio.to_thread(self._inner.ready, timeout)

    async def close(self) -> None:
        self._inner.close()
