"""ONNX: models for ONNX Runtime and whatever else reads the format."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle.convert.conversion import (
    Conversion,
    Converted,
    Paths,
    Source,
    checked_inputs,
    convert,
    require,
)
from tfstyle.convert.report import ConversionReport
from tfstyle.convert.tflite import WIDE
from tfstyle.errors import ConversionError, InputFileError, first_line
from tfstyle.logs import errors_only

#: Version of the operator set; ONNX Runtime 1.14 of 2023 and later run it.
OPSET = 18
#: Puts constants for shapes that are computed. With free sizes and one channel it gives outputs an
#: axis too many in some runs and not in others, as the order of its sets falls (tf2onnx 1.17).
_FAULTY_PASS = "reshape_optimizer"
_EXTRA = "onnx"
_PACKAGES = {"onnx": "onnx", "tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"}


def to_onnx(
    saved_model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    signature: str = "stylize",
    precision: str = "float32",
    size: int | None = None,
    calibrate: Paths = (),
    compare: Paths = (),
    allow_file_ops: bool = False,
) -> ConversionReport:
    """Converts one signature to ONNX with tf2onnx, for any runtime with operator set 18.

    The model takes and gives what the signature does under the same names, float32 in every
    precision. It does not check its input; :class:`OnnxModel` does.

    - ``"float32"``: as the SavedModel.
    - ``"float16"``: weights in half precision; a runtime turns them into float32 once, when it
      loads the model.
    - ``"int8"``: convolutions between quantise and dequantise operations, with ranges seen on
      `calibrate`, which a runtime joins into 8-bit convolutions; all else in float32.

    Args:
        saved_model: Version folder of an export, or its base folder for the latest version.
        output: File to write, ending in ``.onnx``; must not exist. The report is written beside
            it as ``<output>.json``.
        signature: Name of the signature.
        precision: See above.
        size: Takes one image of `size` x `size` pixels at a time; any number and size unless given.
        calibrate: Scans to calibrate on, files or folders; for ``"int8"``, which needs them.
        compare: Scans to compare on; the CT slices of the package pydicom-data, or of pydicom,
            unless given.
        allow_file_ops: Convert a SavedModel even if it can reach for files or run code beyond its
            graph, see :mod:`tfstyle.export.file_operations`.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument cannot be used, or the SavedModel has no such signature.
        InputFileError: No SavedModel, or scans that cannot be read.
        ConversionError: A package is missing, or the signature cannot be converted.
        OutputError: The output exists or cannot be written.

    Example:
        >>> to_onnx("saved_models/stylize", "stylize.onnx")                 # doctest: +SKIP
    """
    require(_PACKAGES, _EXTRA, "conversion to ONNX")
    wanted = Conversion(
        "onnx", saved_model, output, signature, precision, size, calibrate, compare, allow_file_ops
    )
    return convert(wanted, ".onnx", lambda source: _build(source, precision))


class OnnxModel:
    """A ``.onnx`` file, run by ONNX Runtime on the CPU. Thread-safe.

    Args:
        path: The file.
        threads: Threads within an operation; ONNX Runtime's own choice unless given.

    Attributes:
        inputs: Input name to shape; None where a size is free.
        outputs: Names of the outputs.

    Raises:
        ConversionError: ONNX Runtime is not installed.
        InputFileError: The file is missing or damaged.

    Example:
        >>> model = OnnxModel("stylize.onnx")                               # doctest: +SKIP
        >>> model({"content": content, "style": style})["generated"]        # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        require({"onnxruntime": "onnxruntime"}, _EXTRA, "running an ONNX model")
        import onnxruntime

        if not Path(path).is_file():
            raise InputFileError(path, "no such file.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Threads that wait in a loop would take the time of whatever else runs in the process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise InputFileError(
                path, f"is no ONNX model that can be run ({first_line(error)})."
            ) from error
        self.inputs = {
            value.name: tuple(n if isinstance(n, int) else None for n in value.shape)
            for value in self._session.get_inputs()
        }
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            inputs: float32 arrays by name.

        Raises:
            ArgumentError: Names, shapes or values that it cannot take.
        """
        values = self._session.run(list(self.outputs), checked_inputs(inputs, self.inputs))
        return dict(zip(self.outputs, values))


def _build(source: Source, precision: str) -> Converted:
    import onnx

    model = _converted(source)
    method: dict[str, Any] = {"converter": "tf2onnx", "opset": OPSET}
    path = source.work / "model.onnx"
    if precision == "float16":
        method["float16"] = f"{_halve_weights(model)} weights, as they are stored"
    onnx.save(model, path)
    if precision == "int8":
        quantized, method["int8"] = _quantized(source, model, path)
        method["calibration_pairs"] = len(source.calibration)
        path = quantized
        model = onnx.load(path)
    operations = Counter(node.op_type for node in model.graph.node)
    return Converted(path, lambda threads: OnnxModel(path, threads), operations, method)


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
