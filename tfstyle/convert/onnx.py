"""ONNX: models for ONNX Runtime and whatever else reads the format."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.logs import errors_only
from tfstyle.convert.conversion import WIDE, Converted, Source
from tfstyle.convert.report import Runner
from tfstyle.errors import ConversionError, first_line, require_packages

#: Version of the operator set; ONNX Runtime 1.14 of 2023 and later run it.
OPSET = 18
#: Puts constants for shapes that are computed. With free sizes and one channel it gives outputs an
#: axis too many in some runs and not in others, as the order of its sets falls (tf2onnx 1.17).
_FAULTY_PASS = "reshape_optimizer"
_RUNTIME = {"onnxruntime": "onnxruntime"}
_CONVERTER = {"onnx": "onnx", "tf2onnx": "tf2onnx"}


def require(precision: str) -> None:
    """Makes sure that the packages for a conversion are there."""
    require_packages({**_CONVERTER, **_RUNTIME}, "onnx", f"conversion to ONNX in {precision}")


def build(source: Source) -> Converted:
    """Converts with tf2onnx, and quantizes with ONNX Runtime."""
    import onnx

    model = _converted(source)
    method: dict[str, Any] = {"converter": "tf2onnx", "opset": OPSET}
    path = source.work / "model.onnx"
    if source.precision == "float16":
        method["float16"] = f"{_halve_weights(model)} weights, as they are stored"
    onnx.save(model, path)
    if source.precision == "int8":
        quantized, method["int8"] = _quantized(source, model, path)
        method["calibration_pairs"] = len(source.calibration)
        path = quantized
        model = onnx.load(path)
    operations = Counter(node.op_type for node in model.graph.node)
    return Converted(path, _runner(path), operations, method)


def _runner(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs))))


def _converted(source: Source) -> Any:
    graph = source.graph
    graph_def, inputs, outputs = graph.frozen()
    with errors_only(logging.getLogger()):  # the converters' progress and advice
        import tensorflow as tf
        from tf2onnx import optimizer, tf_loader, tfonnx

        names = list(inputs.values()), list(outputs.values())
        passes = {
            name: one for name, one in optimizer._get_optimizers().items() if name != _FAULTY_PASS
        }
        try:
            with tf.Graph().as_default() as whole:
                tf.import_graph_def(tf_loader.tf_optimize(*names, graph_def), name="")
                draft = tfonnx.process_tf_graph(
                    whole,
                    opset=OPSET,
                    input_names=names[0],
                    output_names=names[1],
                    tensors_to_rename={t: name for name, t in (inputs | outputs).items()},
                )
                model = optimizer.optimize_graph(draft, optimizers=passes).make_model(
                    graph.signature
                )
        except Exception as error:
            raise ConversionError(
                f"the signature {graph.signature!r} cannot be converted to ONNX: "
                f"{first_line(error)}"
            ) from error
    return model


def _halve_weights(model: Any) -> int:
    """Stores the kernels of convolutions in half precision, in place; returns their number."""
    from onnx import TensorProto, helper, numpy_helper

    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in kernels or tensor.data_type != TensorProto.FLOAT:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(casts)


def _quantized(source: Source, model: Any, path: Path) -> tuple[Path, str]:
    """The model with its wide convolutions in 8 bits, and how that was done."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(source.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    wide = [
        node.name
        for node in model.graph.node
        # (channels out, channels in, rows, columns)
        if node.op_type == "Conv" and min(shapes.get(node.input[1], (0, 0))[:2]) >= WIDE
    ]
    if not wide:
        raise ConversionError(
            f"the signature {source.graph.signature!r} has no convolution of {WIDE} channels or "
            "more; int8 would gain nothing."
        )
    quantized = path.with_name("quantized.onnx")
    with errors_only(logging.getLogger()):  # the converters' progress and advice
        quantize_static(
            path,
            quantized,
            Samples(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=wide,
            per_channel=True,
            # The pair for which processors have instructions.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return quantized, (
        f"{len(wide)} convolutions of {WIDE} channels and more, weights and activations"
    )
