# ruff: noqa: N802 - the protocol names the methods
"""TensorFlow Serving's gRPC services over servables that this process has loaded.

``PredictionService.Predict`` and ``GetModelMetadata``, and ``ModelService.GetModelStatus``, with
the status codes and wording of tensorflow_model_server. What it does not offer (Classify,
Regress, MultiInference, config reload) is answered UNIMPLEMENTED. Beyond TensorFlow Serving,
dtypes, shapes and sizes are checked before anything is decoded or run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfstyle.serving.servable import DEFAULT_SIGNATURE, Servable

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
    from tensorflow_serving.apis.model_pb2 import ModelSpec

    from tfstyle.serving.server import Limits

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# gRPC sends the message in the trailing metadata, which clients limit to 8 KiB.
_MAX_DETAILS = 1024
# A deadline this far away is the way some gRPC versions say "none"; seconds.
_NO_DEADLINE = 86400.0 * 365


class StatusError(Exception):
    """Ends a request with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code = code
        self.details = details


def _invalid(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, details)


def _not_found(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.NOT_FOUND, details)


@dataclass(frozen=True)
class Registry:
    """The servables that a server answers for, by name and version."""

    models: dict[str, dict[int, Servable]]

    @classmethod
    def of(cls, servables: Iterable[Servable]) -> Registry:
        """Registry of some servables."""
        models: dict[str, dict[int, Servable]] = {}
        for servable in servables:
            models.setdefault(servable.name, {})[servable.version] = servable
        return cls(models)

    def find(self, spec: ModelSpec) -> Servable:
        """The servable that a request asks for.

        Raises:
            StatusError: As TensorFlow Serving answers a spec without a name, an unknown name,
                version or version label.
        """
        if not spec.name:
            raise _invalid("ModelSpec has no name specified.")
        versions = self.models.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
        if choice == "version":
            number = spec.version.value
            if number not in versions:
                raise _not_found(f"Servable not found for request: Specific({spec.name}, {number})")
            return versions[number]
        if not versions:
            raise _not_found(f"Servable not found for request: Latest({spec.name})")
        return versions[max(versions)]

    def versions(self, spec: ModelSpec) -> list[int]:
        """The versions that a status request asks about, highest first.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        versions = self.models.get(spec.name, {})
        if spec.WhichOneof("version_choice") == "version":
            number = spec.version.value
            if number not in versions:
                raise _not_found(f"Could not find version {number} of model {spec.name}")
            return [number]
        if not versions:
            raise _not_found(f"Could not find any versions of model {spec.name}")
        return sorted(versions, reverse=True)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """``tensorflow.serving.PredictionService``."""

    def __init__(self, registry: Registry, limits: Limits):
        self._registry = registry
        self._limits = limits

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one model."""
        return _answer(context, "Predict", lambda: self._predict(request, context))

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of a model."""
        return _answer(context, "GetModelMetadata", lambda: self._metadata(request))

    def Classify(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "Classify")

    def Regress(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "Regress")

    def MultiInference(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "MultiInference")

    def _predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        servable = self._registry.find(request.model_spec)
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = servable.signatures.get(signature_name)
        if signature is None:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{signature_name}" not found.',
            )
        _check_input_names(signature, request)
        outputs = _checked_outputs(signature, request)
        inputs = {
            name: _decode(name, request.inputs[name], info, self._limits)
            for name, info in sorted(signature.inputs.items())
        }
        remaining = context.time_remaining()
        if remaining is None or remaining > _NO_DEADLINE:
            timeout = None
        elif remaining <= 0:
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the run began"
            )
        else:
            timeout = remaining
        values = servable.run(signature_name, inputs, outputs, timeout=timeout)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature_name
        for name, value in values.items():
            response.outputs[name].CopyFrom(_encode(value))
        return response

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise _invalid(f"Metadata field {field} is not supported")
        servable = self._registry.find(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.all_signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """``tensorflow.serving.ModelService``."""

    def __init__(self, registry: Registry):
        self._registry = registry

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of a model's versions."""
        return _answer(context, "GetModelStatus", lambda: self._status(request))

    def HandleReloadConfigRequest(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "HandleReloadConfigRequest")

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._registry.versions(request.model_spec):
            status = response.model_version_status.add()
            status.version = version
            status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            status.status.error_message = ""
        return response


def _answer(context: grpc.ServicerContext, method: str, function: Callable[[], _T]) -> _T:
    """Runs a request; whatever goes wrong becomes a gRPC status, and the server goes on."""
    try:
        return function()
    except StatusError as error:
        code, details = error.code, error.details
    except tf.errors.OpError as error:
        code = _GRPC_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        details = clean_message(error.message)
    except MemoryError:
        code, details = grpc.StatusCode.RESOURCE_EXHAUSTED, "not enough memory for this request"
    except Exception:
        logger.exception("%s failed", method)
        code, details = grpc.StatusCode.INTERNAL, "internal error; the server's log says more"
    if len(details) > _MAX_DETAILS:
        details = details[: _MAX_DETAILS - 1] + "…"
    logger.info("%s refused: %s: %s", method, code.name, details)
    context.abort(code, details)
    raise AssertionError("context.abort raises")


def _unimplemented(context: grpc.ServicerContext, method: str) -> NoReturn:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{method} is not offered by tfstyle's embedded server; use tensorflow_model_server",
    )
    raise AssertionError("context.abort raises")


def clean_message(message: str) -> str:
    """The sentence that matters in a TensorFlow error.

    Args:
        message: The error's message, which may hold several lines and names of graph nodes.

    Returns:
        The first line that says something, without the names of graph nodes.
    """
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and line != "Graph execution error:"]
    # "2 root error(s) found." is followed by "(0) INVALID_ARGUMENT: the message".
    if lines and re.match(r"\d+ root error\(s\) found", lines[0]):
        lines = [re.sub(r"^\(\d+\) [A-Z_]+: ", "", line) for line in lines[1:]]
    text = lines[0] if lines else message
    text = re.sub(r"\{\{[a-z_]*node [^}]*\}\}", "", text)
    text = re.sub(r"\s*\[\[.*?\]\]", "", text)
    text = re.sub(r"^assertion failed: \[([^\]]*)\]", r"\1", text.strip())
    return text.strip() or message.strip()


def _check_input_names(signature: SignatureDef, request: predict_pb2.PredictRequest) -> None:
    sent, wanted = set(request.inputs), set(signature.inputs)
    if sent == wanted:
        return
    raise _invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} "
        f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(wanted))}}}). "
        f"Sent extra: {{{','.join(sorted(sent - wanted))}}}. "
        f"Missing but required: {{{','.join(sorted(wanted - sent))}}}."
    )


def _checked_outputs(signature: SignatureDef, request: predict_pb2.PredictRequest) -> list[str]:
    names = list(request.output_filter)
    for position, name in enumerate(names):
        if name not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if name in names[:position]:
            raise _invalid(f"duplicate output tensor alias: {name}")
    return names or sorted(signature.outputs)


def _decode(name: str, proto: TensorProto, info: TensorInfo, limits: Limits) -> np.ndarray:
    """An input as an array, after every check that can be made without decoding it.

    The order matters: a tensor of few bytes may claim any shape (a single value stands for all),
    so its size is judged before memory is taken for it.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    received = f"{_dtype_name(proto.dtype)} {_shape_text(shape)}"
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise _invalid(f"{name}: its shape is not fully given")
    wanted = f"{_dtype_name(info.dtype)} {_shape_text(_dims(info))}"
    if proto.dtype != info.dtype or not _fits(shape, info):
        raise _invalid(f"{name}: expected {wanted}, received {received}")
    if len(shape) == 4:
        side, pixels = max(shape[1:3]), shape[0] * shape[1] * shape[2]
        if side > limits.image_side:
            raise _invalid(
                f"{name}: image side {side} is over this server's limit of {limits.image_side} "
                "pixels"
            )
    else:
        pixels = 1
        for size in shape:
            pixels *= size
    if pixels > limits.pixels:
        raise _invalid(
            f"{name}: {pixels} pixels (images x rows x columns) are over this server's limit of "
            f"{limits.pixels} in one request; send fewer images at a time"
        )
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise _invalid(f"tensor parsing error: {name}") from error


def _dims(info: TensorInfo) -> list[int] | None:
    if info.tensor_shape.unknown_rank:
        return None
    return [dim.size for dim in info.tensor_shape.dim]


def _fits(shape: list[int], info: TensorInfo) -> bool:
    dims = _dims(info)
    if dims is None:
        return True
    return len(dims) == len(shape) and all(d in (-1, s) for d, s in zip(dims, shape, strict=True))


def _shape_text(shape: list[int] | None) -> str:
    if shape is None:
        return "of any shape"
    return "(" + ", ".join("?" if size < 0 else str(size) for size in shape) + ")"


def _dtype_name(number: int) -> str:
    try:
        return tf.dtypes.as_dtype(number).name
    except (TypeError, ValueError):
        return f"dtype {number}"


def _encode(value: np.ndarray) -> TensorProto:
    return tf.make_tensor_proto(value)
