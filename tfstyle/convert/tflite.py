"""TFLite: models for LiteRT, which runs them on phones, in browsers and on small machines."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tfstyle._private.logs import quiet_tensorflow
from tfstyle.convert.conversion import WIDE, Converted, Source
from tfstyle.convert.report import Runner
from tfstyle.errors import ConversionError, first_line, require_packages

_RUNTIME = {"ai_edge_litert": "ai-edge-litert"}
_QUANTIZER = {"litert_quantizer": "litert-quantizer"}


def require(precision: str) -> None:
    """Makes sure that the packages for a conversion are there."""
    packages = _RUNTIME if precision == "float32" else {**_RUNTIME, **_QUANTIZER}
    require_packages(packages, "tflite", f"conversion to TFLite in {precision}")


def build(source: Source) -> Converted:
    """Converts with TensorFlow's converter, and quantizes with LiteRT's."""
    content = _converted(source)
    method: dict[str, Any] = {"converter": "tf.lite.TFLiteConverter"}
    if source.precision != "float32":
        content, quantized = _quantized(content, source)
        method |= quantized
    path = source.work / "model.tflite"
    path.write_bytes(content)
    operations = Counter(name for name, _ in _operators(content))
    foreign = [name for name in operations if name.startswith("CUSTOM")]
    if foreign:
        raise ConversionError(f"the TFLite model has operations that are not LiteRT's: {foreign}.")
    return Converted(path, _runner(path), operations, method)


def _runner(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda inputs: run(**inputs)


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


def _quantized(content: bytes, source: Source) -> tuple[bytes, dict]:
    """The model with its convolutions in a lower precision, and how that was done."""
    from litert_quantizer import qtyping
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.quantizer import Quantizer

    convolution = qtyping.TFLOperationName.CONV_2D
    quantizer = Quantizer(bytearray(content))
    method: dict[str, Any] = {"quantizer": "litert-quantizer"}
    if source.precision == "float16":
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
