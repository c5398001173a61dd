"""An experiment: a TensorRT engine from an ONNX model, for the GPU of this machine.

    pip install '.[onnx,tensorrt]'
    tfstyle convert saved_models/stylize --to onnx --size 512 -o stylize.onnx
    python serving/tensorrt/engine.py stylize.onnx stylize.engine --float16

An engine is for the kind of GPU and the version of TensorRT that made it. Without ``--size`` at the
conversion, give the sizes of images here: ``--sizes 256 512 1024`` (lowest, usual, highest side).
Not run by the authors, for want of a machine with a GPU and these packages. Compare what the engine
gives with the ONNX model before use, for example with NVIDIA's ``polygraphy run``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build(source: Path, float16: bool, sizes: list[int]) -> bytes:
    """The serialized engine."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise SystemExit(f"{source}: TensorRT cannot read it: {problems}")
    config = builder.create_builder_config()
    if float16:
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shape = tuple(tensor.shape)
        if -1 in shape:
            # A free batch becomes 1, a free height or width one of the sizes.
            shapes = [
                tuple((1 if i == 0 else side) if n < 0 else n for i, n in enumerate(shape))
                for side in sizes
            ]
            profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit(f"{source}: TensorRT can build no engine; its messages above say why")
    return bytes(engine)


def main() -> None:
    """Builds and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--float16", action="store_true")
    parser.add_argument("--sizes", type=int, nargs=3, default=[128, 512, 1024])
    options = parser.parse_args()
    if options.output.exists():
        sys.exit(f"{options.output}: exists already; choose another name")
    options.output.write_bytes(build(options.source, options.float16, options.sizes))


if __name__ == "__main__":
    main()
