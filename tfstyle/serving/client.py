"""A client for TensorFlow Serving's gRPC protocol: NumPy arrays in and out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfstyle.errors import ArgumentError, ServingError
from tfstyle.images import as_batch
from tfstyle.serving.servable import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    import numpy.typing as npt

_T = TypeVar("_T")

STYLIZE = "stylize"
STYLIZE_STRENGTH = "stylize_strength"
STYLIZE_PLAIN = "stylize_plain"
STYLIZE_PLAIN_STRENGTH = "stylize_plain_strength"


class Client:
    """Calls models served over gRPC by tfstyle or by TensorFlow Serving.

    Thread-safe. Use it as a context manager, or call :meth:`close` at the end. Nothing is sent
    before the first call.

    Args:
        target: ``host:port`` of the server.
        model_name: Model that :meth:`stylize`, :meth:`predict`, :meth:`status` and
            :meth:`metadata` ask for.
        timeout: Seconds that a call may take, unless the call says otherwise.
        version: Version to ask for; the latest unless given.
        max_message_bytes: Largest message to send or accept.
        max_request_pixels: Most content pixels (images × rows × columns) that :meth:`stylize`
            sends in one request; a larger batch goes in several. The default, four 512 × 512
            slices, takes some ten seconds on one core.

    Raises:
        ArgumentError: An argument cannot be used.

    Example:
        >>> with Client("127.0.0.1:8500") as client:               # doctest: +SKIP
        ...     generated = client.stylize(content, style)
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8500",
        model_name: str = "stylize",
        *,
        timeout: float = 120.0,
        version: int | None = None,
        max_message_bytes: int = 512 * 2**20,
        max_request_pixels: int = 2**20,
    ):
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        if not isinstance(target, str) or not target:
            raise ArgumentError(f"target: must be 'host:port', received {target!r}")
        if not isinstance(model_name, str) or not model_name:
            raise ArgumentError(f"model_name: must be a name, received {model_name!r}")
        for name, value in (
            ("max_message_bytes", max_message_bytes),
            ("max_request_pixels", max_request_pixels),
        ):
            if value < 1:
                raise ArgumentError(f"{name}: must be at least 1, received {value!r}")
        self.target = target
        self.model_name = model_name
        self.timeout = _checked_timeout(timeout)
        self.version = version
        self._max_request_pixels = max_request_pixels
        options: list[tuple[str, int]] = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
        ]
        if _is_local(target):
            options.append(("grpc.enable_http_proxy", 0))
        self._channel = grpc.insecure_channel(target, options=options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def stylize(
        self,
        content: npt.ArrayLike,
        style: npt.ArrayLike,
        strength: float = 1.0,
        *,
        detail: str = "guided",
        timeout: float | None = None,
    ) -> np.ndarray:
        """Give `content` the gray-scale style of `style`.

        The same as ``StyleTransfer.stylize`` on the served model.

        Args:
            content: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            style: One image (H', W') or (H', W', 1), or a batch (1 or B, H', W', 1).
            strength: In [0, 1]. 0 keeps the content's features, 1 takes the style's statistics
                in full. Values under 1 use the signature ``stylize_strength``.
            detail: ``"guided"`` or ``"plain"``; the latter uses ``stylize_plain…``.
            timeout: Seconds for each request; the client's unless given.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: Shapes, values or strength that cannot be used; nothing is sent.
            ServingError: The server cannot be reached or refused the request.
        """
        contents, shape = as_batch(content, "content")
        styles, _ = as_batch(style, "style")
        if len(styles) not in (1, len(contents)):
            raise ArgumentError(
                f"style: batch of {len(styles)} for {len(contents)} contents; give one style, or "
                "one for each content"
            )
        if not 0.0 <= strength <= 1.0:
            raise ArgumentError(f"strength: must lie in [0, 1], received {strength!r}")
        if detail not in ("guided", "plain"):
            raise ArgumentError(f"detail: unknown value {detail!r}; use one of 'guided', 'plain'")
        signature, extra = STYLIZE if detail == "guided" else STYLIZE_PLAIN, {}
        if strength < 1.0:
            signature = STYLIZE_STRENGTH if detail == "guided" else STYLIZE_PLAIN_STRENGTH
            extra = {"strength": np.float32(strength)}
        pixels = max(contents[0].size, styles[0].size if len(styles) > 1 else 1)
        step = max(1, self._max_request_pixels // pixels)
        parts = []
        for start in range(0, len(contents), step):
            part = contents[start : start + step]
            part_styles = styles if len(styles) == 1 else styles[start : start + step]
            answer = self.predict(
                {"content": part, "style": part_styles, **extra}, signature, timeout=timeout
            )
            parts.append(self._generated(answer, part.shape))
        return np.concatenate(parts).reshape(shape)

    def predict(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        signature: str = DEFAULT_SIGNATURE,
        *,
        outputs: list[str] | tuple[str, ...] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Call any signature of the model, with no conversion of shapes or dtypes.

        Args:
            inputs: Input name to array.
            signature: Signature name.
            outputs: Names of the outputs wanted; all unless given.
            timeout: Seconds; the client's unless given.

        Returns:
            Output name to array.

        Raises:
            ArgumentError: An input is not an array, or too large for one message.
            ServingError: The server cannot be reached or refused the request.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            try:
                request.inputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(value)))
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"{name}: cannot be sent as a tensor ({error})") from None
        request.output_filter.extend(outputs or ())
        response = self._call(self._prediction.Predict, request, timeout)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def status(self, *, timeout: float | None = None) -> dict[int, str]:
        """State of each version of the model that the server knows.

        Returns:
            Version to ``"START"``, ``"LOADING"``, ``"AVAILABLE"``, ``"UNLOADING"`` or ``"END"``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec)
        response = self._call(self._models.GetModelStatus, request, timeout)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {s.version: states.Name(s.state) for s in response.model_version_status}

    def metadata(self, *, timeout: float | None = None) -> dict[str, dict[str, dict[str, str]]]:
        """Signatures of the model.

        Returns:
            Signature name to ``{"inputs": {name: "float32 (?, ?, ?, 1)"}, "outputs": {…}}``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        self._fill(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: {
                "inputs": {k: _tensor_text(v) for k, v in definition.inputs.items()},
                "outputs": {k: _tensor_text(v) for k, v in definition.outputs.items()},
            }
            for name, definition in signatures.signature_def.items()
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

        try:
            grpc.channel_ready_future(self._channel).result(_checked_timeout(timeout))
        except grpc.FutureTimeoutError as error:
            raise ServingError(f"{self.target}: no server answered within {timeout:g} s") from error

    def close(self) -> None:
        """Close the connection. Calls in progress fail."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _fill(self, spec: Any) -> None:
        spec.name = self.model_name
        if self.version is not None:
            spec.version.value = self.version

    def _call(self, method: Callable[..., _T], request: Any, timeout: float | None) -> _T:
        import grpc

        seconds = self.timeout if timeout is None else _checked_timeout(timeout)
        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            raise ServingError(self._explain(error, seconds)) from error
        except ValueError as error:  # gRPC's way to say that the channel is closed
            raise ServingError(f"{self.target}: this client is closed") from error

    def _explain(self, error: Any, seconds: float) -> str:
        import grpc

        code, details = error.code(), error.details() or "no details"
        version = "" if self.version is None else f" version {self.version}"
        sentences = {
            grpc.StatusCode.UNAVAILABLE: (
                f"no server can be reached there ({details}); start one with `tfstyle serve` or "
                "check the address"
            ),
            grpc.StatusCode.DEADLINE_EXCEEDED: (
                f"no answer within {seconds:g} s; raise the timeout or send fewer pixels"
            ),
            grpc.StatusCode.NOT_FOUND: (
                f"the server does not have the model '{self.model_name}'{version} ({details})"
            ),
            grpc.StatusCode.INVALID_ARGUMENT: f"the server refused the request: {details}",
            grpc.StatusCode.FAILED_PRECONDITION: f"the server refused the request: {details}",
            grpc.StatusCode.RESOURCE_EXHAUSTED: (
                f"too large or too many requests for the server's or the client's limits "
                f"({details}); send fewer or smaller images at a time"
            ),
            grpc.StatusCode.UNIMPLEMENTED: f"the server does not offer this call ({details})",
        }
        return f"{self.target}: {sentences.get(code, f'the call failed, {code.name}: {details}')}"

    def _generated(self, answer: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        generated = answer.get("generated")
        if generated is None or generated.shape != shape or generated.dtype != np.float32:
            received = (
                sorted(answer) if generated is None else f"{generated.dtype} {generated.shape}"
            )
            raise ServingError(
                f"{self.target}: the model '{self.model_name}' is not a stylize servable: expected "
                f"'generated' as float32 {shape}, received {received}"
            )
        return generated


def _checked_timeout(timeout: float) -> float:
    if not (math.isfinite(timeout) and timeout > 0):
        raise ArgumentError(f"timeout: must be a number of seconds above 0, received {timeout!r}")
    return float(timeout)


def _is_local(target: str) -> bool:
    """Whether a target is this machine, where a proxy from the environment would only harm."""
    return target.startswith(("127.", "localhost:", "[::1]", "unix:"))


def _tensor_text(info: Any) -> str:
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(info.dtype).name
    if info.tensor_shape.unknown_rank:
        return f"{dtype} of any shape"
    sizes = ("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)
    return f"{dtype} ({', '.join(sizes)})"
