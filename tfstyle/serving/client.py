"""A client for TensorFlow Serving's protocol over gRPC: arrays or scans in and out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tfstyle._private.images import (
    as_batch,
    check_strength,
    check_style_count,
    checked_whole,
    named_styles,
)
from tfstyle.errors import SERVING_PACKAGES, ArgumentError, ServingError, require_packages
from tfstyle.export.servable import DEFAULT_SIGNATURE
from tfstyle.export.signatures import ENCODE_STYLE, STRENGTH_SUFFIX, STYLIZE, STYLIZE_WITH_CODE

if TYPE_CHECKING:
    import grpc
    import numpy.typing as npt
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

#: Largest message that a client sends or accepts.
MESSAGE_BYTES = 512 * 2**20
#: Options of gRPC channels and servers for messages of the size of images, which would otherwise
#: wait for the other side's leave every 64 kB.
LARGE_MESSAGES = (
    ("grpc.http2.lookahead_bytes", 4 * 2**20),
    ("grpc.http2.max_frame_size", 2**20),
)
# What servers say of a request that fewer images would have made small enough: gRPC of a message,
# TensorFlow Serving of a batch, the development server of pixels.
_TOO_LARGE = re.compile(r"larger than max|over this server's limit of \d+ in one request")
_SENTENCES = {
    "UNAVAILABLE": "no server can be reached there ({0}); start one with `tfstyle serve` or check "
    "the address",
    "DEADLINE_EXCEEDED": "no answer within {1:g} s; raise the timeout or send fewer pixels",
    "NOT_FOUND": "the server does not have the model {2} ({0})",
    "INVALID_ARGUMENT": "the server refused the request: {0}",
    "FAILED_PRECONDITION": "the server refused the request: {0}",
    "UNAUTHENTICATED": "the server wants to know who asks ({0}); see `headers`",
    "PERMISSION_DENIED": "the server does not allow it ({0})",
    "RESOURCE_EXHAUSTED": "too large or too many requests for the server's or the client's limits "
    "({0}); send fewer or smaller images at a time",
    "UNIMPLEMENTED": "the server does not offer this call ({0})",
}


class Client:
    """Calls models served over gRPC by TensorFlow Serving or the development server.

    Thread-safe; :class:`AsyncClient` is for ``asyncio``. Use it as a context manager, or call
    :meth:`close` at the end. Nothing is sent before the first call. A call that finds no server
    (status UNAVAILABLE) is tried again by gRPC's own policy, after growing pauses and within its
    timeout, and nothing else is; all calls here may be repeated without harm.

    Args:
        target: ``host:port`` of the server, or another target of gRPC such as ``dns:///name:port``
            for a name with several addresses, among which calls are spread. ``grpcs://host:port``
            uses TLS with the system's certificates.
        model_name: Model to ask for.
        timeout: Seconds that a request may take with all its attempts.
        version: Version to ask for. Defaults to the latest.
        version_label: Version label to ask for, such as ``"stable"``, instead of a version.
        retries: How often a call is repeated while no server can be reached, 0 to 4.
        credentials: For TLS with certificates of your own, from ``grpc.ssl_channel_credentials``.
        headers: Sent with every call as gRPC metadata, such as ``{"authorization": "Bearer …"}``.
        max_request_pixels: Most content pixels (images × rows × columns) that go in one request;
            a larger batch goes in several. The default, four 512 × 512 slices, takes some ten
            seconds on one core. Where the server refuses a request as too large, half of its
            images are tried, and the limit is remembered.

    Raises:
        ArgumentError: An argument cannot be used.
        MissingPackageError: The extra ``serving`` is not installed.

    Example:
        >>> with Client("127.0.0.1:8500") as client:               # doctest: +SKIP
        ...     code = client.encode_style(style)
        ...     generated = client.stylize(content, code)
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8500",
        model_name: str = "stylize",
        *,
        timeout: float = 120.0,
        version: int | None = None,
        version_label: str | None = None,
        retries: int = 3,
        credentials: grpc.ChannelCredentials | None = None,
        headers: Mapping[str, str] | None = None,
        max_request_pixels: int = 2**20,
    ):
        require_packages(SERVING_PACKAGES, "serving", "calling a served model")
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self.target, secure = _checked_target(target)
        if not isinstance(model_name, str) or not model_name:
            raise ArgumentError(f"model_name: must be a name, received {model_name!r}.")
        checked_whole("retries", retries, 0, 4)
        checked_whole("max_request_pixels", max_request_pixels, 1, 2**63)
        if version is not None:
            checked_whole("version", version, 0, 2**63 - 1)
            if version_label is not None:
                raise ArgumentError("version_label: must not be given beside a version.")
        self._metadata = []
        for name, value in (headers or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ArgumentError(f"headers: must map text to text, received {name!r}: {value!r}")
            self._metadata.append((name.lower(), value))
        self.model_name = model_name
        self.timeout = _checked_timeout(timeout)
        self.version = version
        self.version_label = version_label
        self._max_request_pixels = max_request_pixels
        self._closed = False
        options = _channel_options(self.target, retries)
        if secure or credentials is not None:
            credentials = credentials or grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(self.target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(self.target, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def stylize(
        self,
        content: npt.ArrayLike,
        style: npt.ArrayLike | Sequence[npt.ArrayLike],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int | None = None,
        *,
        timeout: float | None = None,
    ) -> np.ndarray:
        """Give `content` the gray-scale style of `style`, as the served model's ``stylize`` does.

        Args:
            content: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            style: One image (H', W') or (H', W', 1), or a batch (1 or B, H', W', 1); a code of
                :meth:`encode_style`, which saves the server work with every request; or a list of
                images and codes, whose generated images are averaged with `style_weights`.
            strength: In [0, 1]. Values under 1 use the signatures ``…_strength``.
            style_weights: One weight for each style of a list. Defaults to equal ones.
            batch_size: Images a request at most. Defaults to as many as `max_request_pixels`.
            timeout: Seconds for each request. Defaults to the client's.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: Shapes, values, weights or strength that cannot be used; nothing is
                sent.
            ServingError: The server cannot be reached or refused the request.
        """
        contents, shape = as_batch(content, "content")
        check_strength(strength)
        parts = [
            (np.float32(weight), *_style_or_code(one, argument, len(contents)))
            for weight, one, argument in named_styles(style, style_weights)
        ]
        # Averages of codes mean nothing to some models, and a client does not know which it calls.
        blend = sum(
            weight * self._generate(contents, name, styles, strength, batch_size, timeout)
            for weight, name, styles in parts
        )
        return np.clip(blend, 0.0, 1.0).reshape(shape)

    def _generate(
        self,
        contents: np.ndarray,
        name: str,
        styles: np.ndarray,
        strength: float,
        batch_size: int | None,
        timeout: float | None,
    ) -> np.ndarray:
        """Images for one style; `name` says whether `styles` are a ``"style"`` or a ``"code"``."""
        extra: dict[str, npt.ArrayLike] = {}
        if strength < 1.0:
            extra["strength"] = np.float32(strength)
        stem = STYLIZE if name == "style" else STYLIZE_WITH_CODE
        signature = f"{stem}{STRENGTH_SUFFIX if extra else ''}"

        def request(part: slice) -> np.ndarray:
            own = styles if len(styles) == 1 else styles[part]
            inputs = {"content": contents[part], name: own, **extra}
            answer = self.predict(inputs, signature, timeout=timeout)
            generated, wanted = answer.get("generated"), contents[part].shape
            if generated is None or generated.shape != wanted or generated.dtype != np.float32:
                self._unexpected(answer, f"'generated' as float32 {wanted}")
            return generated

        each = styles[0].size if name == "style" and len(styles) > 1 else 0
        pixels = max(contents[0].size, each)
        return np.concatenate([*self._in_parts(len(contents), pixels, request, batch_size)])

    def encode_style(self, style: npt.ArrayLike, *, timeout: float | None = None) -> np.ndarray:
        """All that the model takes from a style image, to keep and to give to :meth:`stylize`.

        Args:
            style: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            timeout: Seconds for each request. Defaults to the client's.

        Returns:
            float32 array (B, *code_shape), B = 1 for one image; only for the same model.

        Raises:
            ArgumentError: An image that cannot be used; nothing is sent.
            ServingError: The server cannot be reached or refused the request.
        """
        styles, _ = as_batch(style, "style")

        def request(part: slice) -> np.ndarray:
            answer = self.predict({"style": styles[part]}, ENCODE_STYLE, timeout=timeout)
            code = answer.get("code")
            if code is None or code.dtype != np.float32 or len(code) != len(styles[part]):
                self._unexpected(answer, "'code' as float32")
            return code

        return np.concatenate([*self._in_parts(len(styles), styles[0].size, request)])

    def predict(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        signature: str = DEFAULT_SIGNATURE,
        *,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Call any signature of the model, with no conversion of shapes or dtypes.

        Args:
            inputs: Input name to array.
            signature: Signature name.
            outputs: Names of the outputs wanted. Defaults to all.
            timeout: Seconds. Defaults to the client's.

        Returns:
            Output name to array.

        Raises:
            ArgumentError: An input is not an array.
            ServingError: The server cannot be reached or refused the request.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = self._for_model(predict_pb2.PredictRequest())
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            try:
                request.inputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(value)))
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"{name}: cannot be sent as a tensor ({error}).") from None
        request.output_filter.extend(outputs)
        response = self._call(self._prediction.Predict, request, timeout)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def status(self, *, timeout: float | None = None) -> dict[int, str]:
        """State of each version of the model that the server knows.

        Returns:
            Version to ``"START"``, ``"LOADING"``, ``"AVAILABLE"``, ``"UNLOADING"`` or ``"END"``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        from tensorflow_serving.apis import get_model_status_pb2 as status

        request = self._for_model(status.GetModelStatusRequest())
        response = self._call(self._models.GetModelStatus, request, timeout)
        names = status.ModelVersionStatus.State
        return {s.version: names.Name(s.state) for s in response.model_version_status}

    def metadata(self, *, timeout: float | None = None) -> dict[str, dict[str, dict[str, str]]]:
        """Signatures of the model.

        Returns:
            Signature name to ``{"inputs": {name: "float32 (?, ?, ?, 1)"}, "outputs": {…}}``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        from tensorflow_serving.apis import get_model_metadata_pb2 as metadata

        request = self._for_model(metadata.GetModelMetadataRequest())
        request.metadata_field.append("signature_def")
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        found = metadata.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return {
            name: {
                side: {key: describe_tensor(one) for key, one in getattr(definition, side).items()}
                for side in ("inputs", "outputs")
            }
            for name, definition in found.signature_def.items()
            if definition.inputs
        }

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait until a server answers at the target.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            ServingError: No server answered in that time.
        """
        import grpc

        self._check_open()
        try:
            grpc.channel_ready_future(self._channel).result(_checked_timeout(timeout))
        except grpc.FutureTimeoutError:
            raise ServingError(
                f"{self.target}: no server answered within {timeout:g} s", "UNAVAILABLE"
            ) from None

    def close(self) -> None:
        """Close the connection. Calls in progress fail."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- requests --------------------------------------------------------------------------

    def _for_model(self, request: Any) -> Any:
        request.model_spec.name = self.model_name
        if self.version is not None:
            request.model_spec.version.value = self.version
        elif self.version_label is not None:
            request.model_spec.version_label = self.version_label
        return request

    def _call(self, method: Callable, request: Any, timeout: float | None) -> Any:
        import grpc

        self._check_open()
        seconds = self.timeout if timeout is None else _checked_timeout(timeout)
        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except ValueError:  # gRPC's way to say that the channel is closed
            self._check_open()
            raise
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or "no details"
            model = f"'{self.model_name}'"
            if self.version is not None:
                model += f" version {self.version}"
            if self.version_label is not None:
                model += f" with the label '{self.version_label}'"
            sentence = _SENTENCES.get(code, f"the call failed, {code}: {{0}}")
            raise ServingError(
                f"{self.target}: {sentence.format(details, seconds, model)}", code
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise ServingError(f"{self.target}: this client is closed")

    def _in_parts(
        self, count: int, pixels: int, request: Callable[[slice], Any], most: int | None = None
    ) -> Iterator[Any]:
        """Results for images 0 to `count` in as few requests as client and server allow."""
        start = 0
        while start < count:
            size = min(max(1, self._max_request_pixels // pixels), count - start, most or count)
            try:
                yield request(slice(start, start + size))
            except ServingError as error:
                if size == 1 or not _TOO_LARGE.search(str(error)):
                    raise
                # Remembered, so that the next call does not try it again.
                self._max_request_pixels = max(1, size // 2) * pixels
            else:
                start += size

    def _unexpected(self, answer: dict[str, np.ndarray], expected: str) -> NoReturn:
        received = ", ".join(f"'{k}' as {v.dtype} {v.shape}" for k, v in sorted(answer.items()))
        raise ServingError(
            f"{self.target}: the model '{self.model_name}' is not a stylize servable: expected "
            f"{expected}, received {received or 'nothing'}"
        )


def describe_tensor(info: TensorInfo | TensorProto) -> str:
    """Dtype and shape in words, such as ``float32 (?, ?, ?, 1)``."""
    import tensorflow as tf

    try:
        dtype = tf.as_dtype(info.dtype).name
    except TypeError:
        dtype = f"dtype {info.dtype}"
    if info.tensor_shape.unknown_rank:
        return f"{dtype} of any shape"
    sizes = ("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)
    return f"{dtype} ({', '.join(sizes)})"


def _channel_options(target: str, retries: int) -> list[tuple[str, Any]]:
    """Messages of the size of images, retries, all addresses of a name."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        policy = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        *LARGE_MESSAGES,
        ("grpc.service_config", json.dumps(config)),
        # A larger message would not be tried again.
        ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES),
    ]
    if target.startswith(("127.", "localhost:", "[::1]", "unix:")):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy would only harm
    return options


def _checked_target(target: str) -> tuple[str, bool]:
    """A target of gRPC, and whether it wants TLS."""
    scheme, separator, rest = str(target).partition("://")
    if separator and scheme in ("grpc", "grpcs"):
        rest = rest.rstrip("/")
    else:
        scheme, rest = "", target
    if not isinstance(target, str) or not rest or rest.startswith(("http://", "https://")):
        raise ArgumentError(
            f"target: must be 'host:port' of the server's gRPC port, received {target!r}."
        )
    return rest, scheme == "grpcs"


def _style_or_code(style: Any, argument: str, contents: int) -> tuple[str, np.ndarray]:
    """``"style"`` with images or ``"code"`` with codes, one or as many as contents."""
    array = style if isinstance(style, np.ndarray) else np.asarray(style)
    if array.dtype.kind in "fiu" and array.ndim == 3 and array.shape[-1] > 1:
        name, styles = "code", array.astype(np.float32)
        if not np.isfinite(styles).all():
            raise ArgumentError(f"{argument}: must be a finite style code, received NaN or Inf.")
    else:
        name, styles = "style", as_batch(array, argument)[0]
    check_style_count(len(styles), contents, argument)
    return name, styles


def _checked_timeout(timeout: float) -> float:
    if not (math.isfinite(timeout) and timeout > 0):
        raise ArgumentError(f"timeout: must be a number of seconds above 0, received {timeout!r}.")
    return float(timeout)
