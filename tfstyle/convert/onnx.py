"""ONNX: models for ONNX Runtime and anything else that reads the format."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from tfstyle._private.logs import errors_only
from tfstyle.convert.graph import PlainGraph
from tfstyle.convert.report import Runner
from tfstyle.errors import ConversionError, first_line

NAME = "ONNX"
PACKAGES = {"onnxruntime": "onnxruntime", "onnx": "onnx", "tf2onnx": "tf2onnx"}
#: Version of the operator set; ONNX Runtime 1.14 of 2023 and later run it.
OPSET = 18
#: Puts constants for shapes that are computed. With free sizes and one channel it gives outputs an
#: axis too many in some runs and not in others, as the order of its sets falls (tf2onnx 1.17).
_FAULTY_PASS = "reshape_optimizer"


def build(graph: PlainGraph, work: Path) -> tuple[Path, Counter[str]]:
    """Converts with tf2onnx; the file in `work`, and its operations."""
    import onnx

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
    path = work / "model.onnx"
    onnx.save(model, path)
    return path, Counter(node.op_type for node in model.graph.node)


def load(path: Path) -> Runner:
    """What runs a model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs))))
