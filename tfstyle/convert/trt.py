"""TF-TRT: a SavedModel whose graph runs in TensorRT's engines, for TensorFlow on NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfstyle.convert.conversion import Conversion, Converted, Paths, Source, convert
from tfstyle.convert.graph import operation_counts
from tfstyle.convert.report import ConversionReport, Runner
from tfstyle.errors import ArgumentError, ConversionError, first_line
from tfstyle.export.servable import Servable
from tfstyle.logs import quiet_tensorflow

#: NVIDIA's last image with TensorFlow, 2.17: the last version that is built with TensorRT.
CONTAINER_IMAGE = "nvcr.io/nvidia/tensorflow:25.02-tf2-py3"
SCRIPT = "serving/tensorrt/convert.sh"
_MODES = {"float32": "FP32", "float16": "FP16", "int8": "INT8"}


def to_trt(
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
    """Converts one signature to a SavedModel with TensorRT engines, by TensorFlow's own TF-TRT.

    Works where TensorFlow was built with TensorRT, which its packages are no longer since version
    2.18, and with an NVIDIA GPU; ``serving/tensorrt/convert.sh`` calls it in NVIDIA's container.
    The engines are for the kind of GPU that made them. The model does not check its input.

    Args:
        saved_model: Version folder of an export, or its base folder for the latest version.
        output: Folder to write, such as ``models/stylize/1``; must not exist. The report is
            written beside it as ``<output>.json``.
        signature: Name of the signature.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``; TensorRT chooses where it applies.
        size: Takes one image of `size` x `size` pixels at a time; needed for ``"int8"``. Unless
            given, engines are made for the range of sizes in `compare`.
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
        ConversionError: TensorFlow was built without TensorRT, there is no GPU, or TensorRT can
            do nothing with the signature.
        OutputError: The output exists or cannot be written.

    Example:
        >>> to_trt("saved_models/stylize", "trt/stylize/1", precision="float16")  # doctest: +SKIP

    Reference: NVIDIA, "Accelerating inference in TensorFlow with TensorRT user guide".
    """
    _require_tensorrt()
    if precision == "int8" and size is None:
        raise ArgumentError("size: int8 for TensorRT is calibrated on images of one size; give it.")
    wanted = Conversion(
        "trt", saved_model, output, signature, precision, size, calibrate, compare, allow_file_ops
    )
    return convert(wanted, "", lambda source: _build(source, wanted))


def _require_tensorrt() -> None:
    import tensorflow as tf

    if not _built_with_tensorrt():
        raise ConversionError(
            f"conversion with TF-TRT: TensorFlow {tf.__version__} was built without TensorRT, as "
            f"all its packages since 2.18. Use the container image {CONTAINER_IMAGE} on a machine "
            f"with an NVIDIA GPU; {SCRIPT} does all of it."
        )
    if not tf.config.list_physical_devices("GPU"):
        raise ConversionError(
            "conversion with TF-TRT: TensorFlow sees no NVIDIA GPU; start the container with "
            "--gpus all on a machine that has one."
        )


def _built_with_tensorrt() -> bool:
    try:
        from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils
    except ImportError:
        return False
    return bool(_pywrap_py_utils.is_tensorrt_enabled())


def _build(source: Source, wanted: Conversion) -> Converted:
    from tensorflow.python.compiler.tensorrt import trt_convert

    plain, path = source.work / "saved_model", source.work / "model"
    with quiet_tensorflow():
        source.graph.save(plain)
    converter = trt_convert.TrtGraphConverterV2(
        input_saved_model_dir=str(plain),
        input_saved_model_signature_key=wanted.signature,
        precision_mode=_MODES[wanted.precision],
        use_dynamic_shape=wanted.size is None,
        dynamic_shape_profile_strategy="Range",
    )
    try:
        if wanted.precision == "int8":
            converter.convert(calibration_input_fn=lambda: _feeds(source.calibration))
        else:
            converter.convert()
        converter.build(input_fn=lambda: _feeds(source.samples))
        converter.save(str(path))
    except (RuntimeError, ValueError) as error:
        raise ConversionError(
            f"the signature {wanted.signature!r} cannot be converted with TF-TRT: "
            f"{first_line(error)}"
        ) from error
    operations = operation_counts(path)
    if "TRTEngineOp" not in operations:
        raise ConversionError(
            f"TensorRT can run no part of the signature {wanted.signature!r}; use the SavedModel."
        )
    method = {"converter": "trt_convert.TrtGraphConverterV2", "mode": _MODES[wanted.precision]}
    if source.calibration:
        method["calibration_pairs"] = len(source.calibration)

    def load(threads: int) -> Runner:
        # What TF-TRT wrote reads its engines from a file.
        servable = Servable("trt", 0, path, intra_op_threads=threads, allow_file_ops=True)

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return servable.run(wanted.signature, inputs)

        return run

    return Converted(path, load, operations, method)


def _feeds(samples: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict]:
    import tensorflow as tf

    for inputs in samples:
        yield {name: tf.constant(value) for name, value in inputs.items()}
