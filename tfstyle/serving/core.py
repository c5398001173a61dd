"""What the embedded server does with a request, whatever port it came through.

Predict, model metadata, model status and config reload on the protocol's own messages, with
TensorFlow Serving's status codes and wording. Beyond it, dtypes, shapes and sizes are checked
before anything is decoded or run, and the message names the input.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from tfstyle.export.servable import DEFAULT_SIGNATURE
from tfstyle.serving.monitoring import Metrics
from tfstyle.serving.scheduler import Scheduler, Task
from tfstyle.serving.status import CODES, StatusError, from_exception, invalid
from tfstyle.serving.tensors import decode_tensor, encode_tensor
from tfstyle.serving.versions import ModelManager

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

    from tfstyle.serving.server import Limits

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_STATES = get_model_status_pb2.ModelVersionStatus.State


class Core:
    """The requests of TensorFlow Serving's two services.

    Args:
        manager: The models.
        scheduler: Where Predict runs.
        limits: Sizes of images.
        metrics: Where requests are counted.
    """

    def __init__(
        self, manager: ModelManager, scheduler: Scheduler, limits: Limits, metrics: Metrics
    ):
        self.manager = manager
        self.metrics = metrics
        self._scheduler = scheduler
        self._limits = limits

    def predict(
        self,
        request: predict_pb2.PredictRequest,
        *,
        entrypoint: str = "GRPC",
        timeout: float | None = None,
        on_task: Callable[[Task], None] | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one model.

        Args:
            request: The request.
            entrypoint: ``"GRPC"`` or ``"REST"``, for the metrics.
            timeout: Seconds that the caller waits; None for no limit.
            on_task: Called with the task once it is queued; abandoning it ends the wait.
            gone: Whether the client has left; asked from time to time.

        Raises:
            StatusError: The request cannot be answered.
        """
        begin = time.perf_counter()
        deadline = None if timeout is None else time.monotonic() + timeout
        # Names that clients make up must not become endless series.
        name = request.model_spec.name if request.model_spec.name in self.manager.models else ""
        try:
            response = self._predict(request, deadline, on_task, gone)
        except BaseException as error:
            status = from_exception(error)
            self.metrics.request_count.add(name, "INTERNAL" if status is None else status.code)
            if status is None:
                raise
            raise status from error
        self.metrics.request_count.add(name, "OK")
        api = "Predict" if entrypoint == "GRPC" else "predict"
        self.metrics.request_latency.observe(
            (time.perf_counter() - begin) * 1e6, name, api, entrypoint
        )
        return response

    def _predict(
        self,
        request: predict_pb2.PredictRequest,
        deadline: float | None,
        on_task: Callable[[Task], None] | None,
        gone: Callable[[], bool] | None,
    ) -> predict_pb2.PredictResponse:
        if not request.HasField("model_spec"):
            invalid("Missing ModelSpec")
        with self._scheduler.admit():
            lease = self.manager.acquire(request.model_spec)
            try:
                servable = lease.servable
                signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
                signature = servable.signatures.get(signature_name)
                if signature is None:
                    raise StatusError(
                        "FAILED_PRECONDITION",
                        f'Serving signature key "{signature_name}" not found.',
                    )
                _check_input_names(signature, request)
                outputs = _checked_outputs(signature, request)
                inputs = {
                    name: _decode(name, request.inputs[name], info, self._limits)
                    for name, info in sorted(signature.inputs.items())
                }
            except BaseException:
                lease.release()
                raise
            task = Task(lease, signature_name, inputs, outputs, deadline)
            self._scheduler.submit(task, signature)
            if on_task is not None:
                on_task(task)
            values = task.wait(gone)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature_name
        for name, value in values.items():
            encode_tensor(response.outputs[name], value)
        return response

    def require_room(self) -> None:
        """Refuses early what :meth:`predict` would have no place for.

        Raises:
            StatusError: RESOURCE_EXHAUSTED or UNAVAILABLE.
        """
        with self._scheduler.admit():
            pass

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of a model.

        Raises:
            StatusError: The request cannot be answered.
        """
        if not request.HasField("model_spec"):
            invalid("Missing ModelSpec")
        if not request.metadata_field:
            invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                invalid(f"Metadata field {field} is not supported")
        with self.manager.acquire(request.model_spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.all_signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of a model's versions.

        Raises:
            StatusError: The model or version is not known.
        """
        if not request.HasField("model_spec"):
            invalid("Missing ModelSpec")
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, state, error in self.manager.states(request.model_spec):
            entry = response.model_version_status.add()
            entry.version = number
            entry.state = _STATES.Value(state)
            entry.status.error_code = 0 if error is None else CODES.index(error.code)
            entry.status.error_message = "" if error is None else error.details
        return response

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Makes a configuration the one in effect.

        Raises:
            StatusError: It is refused; the old one stays.
        """
        self.manager.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_message = ""
        return response


def answered(method: str, function: Callable[[], _T]) -> _T:
    """Runs a request; whatever goes wrong becomes a status, and the server goes on.

    Args:
        method: Its name, for the log.
        function: The request.

    Raises:
        StatusError: The status to answer.
    """
    try:
        return function()
    except Exception as error:
        status = from_exception(error)
        if status is None:
            logger.exception("%s failed", method)
            status = StatusError("INTERNAL", "internal error; the server's log says more")
        logger.info("%s refused: %s: %s", method, status.code, status.details)
        raise status from error


def _check_input_names(signature: SignatureDef, request: predict_pb2.PredictRequest) -> None:
    sent, wanted = set(request.inputs), set(signature.inputs)
    if sent == wanted:
        return
    invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} "
        f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(wanted))}}}). "
        f"Sent extra: {{{','.join(sorted(sent - wanted))}}}. "
        f"Missing but required: {{{','.join(sorted(wanted - sent))}}}."
    )


def _checked_outputs(signature: SignatureDef, request: predict_pb2.PredictRequest) -> list[str]:
    names = list(request.output_filter)
    for position, name in enumerate(names):
        if name not in signature.outputs:
            invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if name in names[:position]:
            invalid(f"duplicate output tensor alias: {name}")
    return names or sorted(signature.outputs)


def _decode(name: str, proto: TensorProto, info: TensorInfo, limits: Limits) -> np.ndarray:
    """An input as an array, after every check that can be made without decoding it.

    The order matters: a tensor of few bytes may claim any shape (a single value stands for all),
    so its size is judged before memory is taken for it.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    received = f"{_dtype_name(proto.dtype)} {_shape_text(shape)}"
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        invalid(f"{name}: its shape is not fully given")
    wanted = f"{_dtype_name(info.dtype)} {_shape_text(_dims(info))}"
    if proto.dtype != info.dtype or not _fits(shape, info):
        invalid(f"{name}: expected {wanted}, received {received}")
    pixels = 1
    for size in shape[:3] if len(shape) == 4 else shape:
        pixels *= size
    if len(shape) == 4 and max(shape[1:3]) > limits.image_side:
        invalid(
            f"{name}: image side {max(shape[1:3])} is over this server's limit of "
            f"{limits.image_side} pixels"
        )
    if pixels > limits.pixels:
        invalid(
            f"{name}: {pixels} pixels (images x rows x columns) are over this server's limit of "
            f"{limits.pixels} in one request; send fewer images at a time"
        )
    try:
        return decode_tensor(proto)
    except (TypeError, ValueError) as error:
        raise StatusError("INVALID_ARGUMENT", f"tensor parsing error: {name}") from error


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
