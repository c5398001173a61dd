"""TFLite: models for LiteRT, which runs them on phones, in browsers and on small machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfstyle._private.logs import held_stderr, quiet_tensorflow
from tfstyle.convert.comparison import Runner
from tfstyle.convert.graph import PlainGraph
from tfstyle.errors import ConversionError, first_line

PACKAGES = {"ai_edge_litert": "ai-edge-litert"}


def build(graph: PlainGraph, work: Path, half: bool = False) -> Path:
    """Converts with TensorFlow's converter; the file in `work`."""
    import tensorflow as tf

    folder, path = work / "saved_model", work / "model.tflite"
    with quiet_tensorflow():
        graph.save(folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(folder), signature_keys=[graph.signature]
        )
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            content = converter.convert()
        except Exception as error:
            raise ConversionError(
                f"the signature {graph.signature!r} cannot be converted to TFLite: "
                f"{first_line(error)}"
            ) from error
    path.write_bytes(content)
    return path


def load(path: Path) -> Runner:
    """What runs a model."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with held_stderr():  # LiteRT names its delegate at the first call
            return runner(**inputs)

    return run
