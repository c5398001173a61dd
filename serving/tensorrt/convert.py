"""An experiment: TF-TRT in NVIDIA's container. What ``convert.sh`` runs inside.

TensorFlow up to 2.17 was built with TensorRT; its packages are no longer. This script has not been
run by the authors, for want of such a GPU. ``engine.py`` beside it goes by ONNX instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tfstyle.convert.comparison import find_scans, measure_difference, signature_inputs
from tfstyle.convert.graph import chosen_signature, plain_graph
from tfstyle.errors import TfstyleError
from tfstyle.export import Servable, saved_model_folder

MODES = {"float32": "FP32", "float16": "FP16"}


def convert(options: argparse.Namespace) -> dict:
    """Writes a SavedModel with TensorRT engines; returns how far it is from the source."""
    import tensorflow as tf
    from tensorflow.python.compiler.tensorrt import trt_convert

    folder = saved_model_folder(options.saved_model)
    signature = options.signature or chosen_signature(folder)
    graph = plain_graph(folder, signature, options.size)
    scans = find_scans(options.compare)
    with Servable(folder) as servable, tempfile.TemporaryDirectory() as work:
        samples = signature_inputs(servable, graph.inputs, scans, 6, options.size)
        graph.save(Path(work))
        converter = trt_convert.TrtGraphConverterV2(
            input_saved_model_dir=work,
            input_saved_model_signature_key=signature,
            precision_mode=MODES[options.precision],
            use_dynamic_shape=options.size is None,
            dynamic_shape_profile_strategy="Range",
        )
        converter.convert()
        converter.build(
            input_fn=lambda: (
                {name: tf.constant(value) for name, value in inputs.items()} for inputs in samples
            )
        )
        converter.save(options.output)
        with Servable(options.output) as engines:
            difference = measure_difference(
                lambda inputs: servable.run(signature, inputs),
                lambda inputs: engines.run(signature, inputs),
                samples,
            )
    return vars(difference)


def main() -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert.sh", description=__doc__.split("\n")[0])
    parser.add_argument("saved_model")
    parser.add_argument("output")
    parser.add_argument("--signature")
    parser.add_argument("--precision", default="float32", choices=MODES)
    parser.add_argument("--size", type=int)
    parser.add_argument("--compare", nargs="+", default=(), metavar="SCANS")
    try:
        print(json.dumps(convert(parser.parse_args()), indent=1))
    except TfstyleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
