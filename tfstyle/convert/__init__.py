"""Conversion of exported models for other runtimes: TFLite, ONNX, TF-TRT.

One function each, :func:`to_tflite`, :func:`to_onnx` and :func:`to_trt`, with the same arguments
and the same :class:`ConversionReport`: size, difference from the SavedModel on real CT slices, and
time beside it. :class:`TFLiteModel` and :class:`OnnxModel` run what comes out.

Converters work on signatures of SavedModels alone, so they convert any model that was exported.
Nothing here imports Keras; each name is loaded when it is first used.

Example:
    >>> from tfstyle.convert import to_tflite
    >>> report = to_tflite("saved_models/stylize", "stylize.tflite", size=256)   # doctest: +SKIP
    >>> report.difference.psnr_db, report.latency.ratio                          # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.convert.onnx import OnnxModel, to_onnx
    from tfstyle.convert.report import ConversionReport, Difference, Latency
    from tfstyle.convert.tflite import TFLiteModel, to_tflite
    from tfstyle.convert.trt import to_trt

_MODULES = {
    "ConversionReport": "report",
    "Difference": "report",
    "Latency": "report",
    "OnnxModel": "onnx",
    "TFLiteModel": "tflite",
    "to_onnx": "onnx",
    "to_tflite": "tflite",
    "to_trt": "trt",
}

__all__ = [
    "ConversionReport",
    "Difference",
    "Latency",
    "OnnxModel",
    "TFLiteModel",
    "to_onnx",
    "to_tflite",
    "to_trt",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
