# ruff: noqa: N802 - the protocol names the methods
"""TensorFlow Serving's gRPC services: PredictionService and ModelService over a :class:`Core`.

What tensorflow_model_server offers besides (Classify, Regress, MultiInference) is answered
UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfstyle.serving.core import Core, answered
from tfstyle.serving.status import StatusError

_T = TypeVar("_T")
# A deadline this far away is the way some gRPC versions say "none"; seconds.
_NO_DEADLINE = 86400.0 * 365


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """``tensorflow.serving.PredictionService``."""

    def __init__(self, core: Core):
        self._core = core

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one model."""
        remaining = context.time_remaining()
        if remaining is None or remaining > _NO_DEADLINE:
            remaining = None
        return _answer(
            context,
            "Predict",
            lambda: self._core.predict(
                request,
                timeout=remaining,
                on_task=lambda task: context.add_callback(task.abandon) or task.abandon(),
            ),
        )

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of a model."""
        return _answer(context, "GetModelMetadata", lambda: self._core.metadata(request))

    def Classify(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "Classify")

    def Regress(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "Regress")

    def MultiInference(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Not offered."""
        _unimplemented(context, "MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """``tensorflow.serving.ModelService``."""

    def __init__(self, core: Core):
        self._core = core

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of a model's versions."""
        return _answer(context, "GetModelStatus", lambda: self._core.status(request))

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Makes a configuration the one in effect."""
        return _answer(context, "HandleReloadConfigRequest", lambda: self._core.reload(request))


def _answer(context: grpc.ServicerContext, method: str, function: Callable[[], _T]) -> _T:
    try:
        return answered(method, function)
    except StatusError as error:
        context.abort(getattr(grpc.StatusCode, error.code), error.details)
        raise AssertionError("context.abort raises") from None


def _unimplemented(context: grpc.ServicerContext, method: str) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, unimplemented(method))
    raise AssertionError("context.abort raises")


def unimplemented(method: str) -> str:
    """What is said of a call that this server does not offer."""
    return f"{method} is not offered by tfstyle's embedded server; use tensorflow_model_server"
