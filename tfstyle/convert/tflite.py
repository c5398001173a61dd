"""TFLite: models for LiteRT, which runs them on phones, in browsers and on small machines."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
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
from tfstyle.errors import ConversionError, InputFileError, first_line
from tfstyle.logs import quiet_tensorflow

_EXTRA = "tflite"
_RUNTIME = {"ai_edge_litert": "ai-edge-litert"}
#: Narrower convolutions, of the image's few channels, stay in float32: 8 bits are few for gray
#: levels, and there is little to gain.
WIDE = 16
_QUANTIZER = {"litert_quantizer": "litert-quantizer"}


def to_tflite(
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
    """Converts one signature to TFLite, with built-in operations alone.

    The file runs in any LiteRT interpreter, without TensorFlow's operations ("flex"). It takes
    and gives what the signature does under the same names, float32 in every precision. It does
    not check its input; :class:`TFLiteModel` does.

    - ``"float32"``: as the SavedModel.
    - ``"float16"``: the weights of convolutions in half precision, computed with in float32.
    - ``"int8"``: convolutions in 8-bit integers, with ranges seen on `calibrate`; the statistics
      of AdaIN, tone curves and all else in float32.

    LiteRT plans its memory for one size of images, so a model of a fixed `size` starts faster and
    holds its tables ready; without, it takes any.

    Args:
        saved_model: Version folder of an export, or its base folder for the latest version.
        output: File to write, ending in ``.tflite``; must not exist. The report is written beside
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
        >>> to_tflite("saved_models/stylize", "stylize.tflite", size=256)   # doctest: +SKIP
    """
    require(
        _RUNTIME if precision == "float32" else {**_RUNTIME, **_QUANTIZER},
        _EXTRA,
        f"conversion to TFLite in {precision}",
    )
    wanted = Conversion(
        "tflite",
        saved_model,
        output,
        signature,
        precision,
        size,
        calibrate,
        compare,
        allow_file_ops,
    )
    return convert(wanted, ".tflite", lambda source: _build(source, precision))


class TFLiteModel:
    """A ``.tflite`` file, run by LiteRT's interpreter. Not thread-safe.

    Args:
        path: The file.
        threads: Threads to use; LiteRT's own choice unless given.

    Attributes:
        inputs: Input name to shape; -1 where a size is free.
        outputs: Names of the outputs.

    Raises:
        ConversionError: LiteRT is not installed.
        InputFileError: The file is missing or no model with one signature.

    Example:
        >>> model = TFLiteModel("stylize.tflite")                           # doctest: +SKIP
        >>> model({"content": content, "style": style})["generated"]        # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        require(_RUNTIME, _EXTRA, "running a TFLite model")
        from ai_edge_litert.interpreter import Interpreter

        if not Path(path).is_file():
            raise InputFileError(path, "no such file.")
        try:
            self._interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
            self._run = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            reason = first_line(error) if str(error).strip() else "no reason given"
            raise InputFileError(
                path, f"is no TFLite model with a signature ({reason})."
            ) from error
        details = self._run.get_input_details()
        self.inputs = {n: tuple(map(int, d["shape_signature"])) for n, d in details.items()}
        self.outputs = tuple(self._run.get_output_details())

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            inputs: float32 arrays by name.

        Raises:
            ArgumentError: Names, shapes or values that it cannot take.
        """
        return self._run(**checked_inputs(inputs, self.inputs))


def _build(source: Source, precision: str) -> Converted:
    content = _converted(source)
    method: dict[str, Any] = {"converter": "tf.lite.TFLiteConverter"}
    if precision != "float32":
        content, quantized = _quantized(content, precision, source)
        method |= quantized
    path = source.work / "model.tflite"
    path.write_bytes(content)
    operations = Counter(name for name, _ in _operators(content))
    foreign = [name for name in operations if name.startswith("CUSTOM")]
    if foreign:
        raise ConversionError(f"the TFLite model has operations that are not LiteRT's: {foreign}.")
    return Converted(path, lambda threads: TFLiteModel(path, threads), operations, method)


def _converted(source: Source) -> bytes:
    import tensorflow as tf

    graph = source.graph
    folder = source.work / "saved_model"
    with quiet_tensorflow():
        graph.save(folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(folder), signature_keys=[graph.signature]
        )
        try:
            return converter.convert()
        except Exception as error:
            raise ConversionError(
                f"the signature {graph.signature!r} cannot be converted to TFLite: "
                f"{first_line(error)}"
            ) from error


def _operators(content: bytes) -> list[tuple[str, Any]]:
    """Every operation of a model: its name, and LiteRT's description of it."""
    from ai_edge_litert import schema_py_generated as schema

    names = {
        number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()
    }
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    codes = [
        names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes
    ]
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            outputs = [graph.tensors[i].name.decode() for i in operator.outputs]
            found.append((codes[operator.opcodeIndex], {"tensors": tensors, "outputs": outputs}))
    return found


def _quantized(content: bytes, precision: str, source: Source) -> tuple[bytes, dict]:
    """The model with its convolutions in a lower precision, and how that was done."""
    from litert_quantizer import qtyping
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.quantizer import Quantizer

    convolution = qtyping.TFLOperationName.CONV_2D
    quantizer = Quantizer(bytearray(content))
    method: dict[str, Any] = {"quantizer": "litert-quantizer"}
    if precision == "float16":
        # The converter's own float16 takes in all constants; small ones become 0.
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        quantizer.update_quantization_recipe(
            ".*",
            convolution,
            qtyping.OpQuantizationConfig(
                weight_tensor_config=half,
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            AlgorithmName.FLOAT_CASTING,
        )
        with _quiet():
            result = quantizer.quantize(enable_progress_report=False)
        return bytes(result.quantized_model), method | {"float16": "weights of convolutions"}
    wide = []
    for name, operator in _operators(content):
        # (channels out, rows, columns, channels in)
        if name == convolution.value and min(operator["tensors"][1].shape[::3]) >= WIDE:
            wide += operator["outputs"]
    for name in wide:
        quantizer.add_static_config(f"^{re.escape(name)};*$", convolution, 8, 8)
    if not wide:
        raise ConversionError(
            f"the signature {source.graph.signature!r} has no convolution of {WIDE} channels or "
            "more; int8 would gain nothing."
        )
    with _quiet():
        ranges = quantizer.calibrate({source.graph.signature: source.calibration}, num_threads=1)
        result = quantizer.quantize(ranges, enable_progress_report=False)
    return bytes(result.quantized_model), method | {
        "int8": f"{len(wide)} convolutions of {WIDE} channels and more, weights and activations",
        "calibration_pairs": len(source.calibration),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizer's progress bars, and its warning that calibration takes memory, away."""
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
