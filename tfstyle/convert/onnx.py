"""ONNX: models for ONNX Runtime and anything else that reads the format."""

from __future__ import annotations

import logging
from pathlib import Path

from tfstyle._private.logs import errors_only
from tfstyle.convert.comparison import Runner
from tfstyle.convert.graph import PlainGraph
from tfstyle.errors import ConversionError, first_line

PACKAGES = {"onnxruntime": "onnxruntime", "onnx": "onnx", "tf2onnx": "tf2onnx"}
#: Version of the operator set; ONNX Runtime 1.14 of 2023 and later run it.
OPSET = 18
#: Puts constants for shapes that are computed. With free sizes and one channel it gives outputs an
#: axis too many in some runs and not in others, as the order of its sets falls (tf2onnx 1.17).
_FAULTY_PASS = "reshape_optimizer"


def build(graph: PlainGraph, work: Path) -> Path:
    """Converts with tf2onnx; the file in `work`."""
    import onnx

    function = graph.function
    inputs = {one.name: name for name, one in zip(graph.inputs, function.inputs)}
    outputs = {function.structured_outputs[name].name: name for name in graph.outputs}
    with errors_only(logging.getLogger()):  # the converters' progress and advice
        import tensorflow as tf
        from tf2onnx import optimizer, tf_loader, tfonnx

        names = list(inputs), list(outputs)
        graph_def = function.graph.as_graph_def()
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
                    tensors_to_rename=inputs | outputs,
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
    return path


def load(path: Path) -> Runner:
    """What runs a model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs))))
