"""Conversion of models for other runtimes: TFLite and ONNX.

:func:`convert` takes one signature of any exported model to another runtime, compares the two on
real CT slices and writes a :class:`ConversionReport` beside the result. The file needs
``ai-edge-litert`` or ``onnxruntime`` alone, neither tfstyle nor TensorFlow.
"""

from tfstyle.convert.comparison import Difference
from tfstyle.convert.conversion import ConversionReport, convert

__all__ = ["ConversionReport", "Difference", "convert"]
