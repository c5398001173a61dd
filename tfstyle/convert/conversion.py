"""What every conversion has in common: checks, real slices, measurement, files that are whole."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tfstyle.convert import report as reports
from tfstyle.convert.graph import PlainGraph, plain_graph, saved_model_folder
from tfstyle.convert.report import PRECISIONS, ConversionReport, Runner
from tfstyle.convert.samples import image_pairs, packaged_scans, read_all, signature_inputs
from tfstyle.errors import ArgumentError, ConversionError, InputFileError, OutputError
from tfstyle.export.saved_model import read_metadata
from tfstyle.export.servable import Servable

logger = logging.getLogger(__name__)

#: Pairs of slices to calibrate on, and to compare on.
CALIBRATION_PAIRS = 16
COMPARISON_PAIRS = 6

Paths = str | os.PathLike | Sequence[str | os.PathLike]


@dataclass(frozen=True)
class Conversion:
    """What is asked for.

    Attributes:
        target: ``"tflite"``, ``"onnx"`` or ``"trt"``.
        saved_model: Version folder, or base folder.
        output: File or folder to write.
        signature: Name of the signature.
        precision: One of ``PRECISIONS``.
        size: Side of the images, or None.
        calibrate: Scans to calibrate on.
        compare: Scans to compare on.
        allow_file_ops: Take a SavedModel that can reach for files.
    """

    target: str
    saved_model: str | os.PathLike
    output: str | os.PathLike
    signature: str
    precision: str
    size: int | None
    calibrate: Paths
    compare: Paths
    allow_file_ops: bool = False


@dataclass(frozen=True)
class Source:
    """What a converter works on.

    Attributes:
        folder: The SavedModel's version folder.
        graph: Its signature without checks.
        calibration: Inputs by name, to calibrate on; empty unless the precision is int8.
        samples: Inputs by name, that the models will be compared on.
        work: A folder for files in between; gone afterwards.
    """

    folder: Path
    graph: PlainGraph
    calibration: list[dict[str, np.ndarray]]
    samples: list[dict[str, np.ndarray]]
    work: Path


@dataclass(frozen=True)
class Converted:
    """What a converter gives.

    Attributes:
        path: The model, a file or folder in :attr:`Source.work`.
        load: Loads it: takes the number of threads, gives what runs it.
        operations: Its operations and how often each is there.
        method: How it was made, for the report.
    """

    path: Path
    load: Callable[[int], Runner]
    operations: Mapping[str, int]
    method: dict = field(default_factory=dict)


def convert(
    wanted: Conversion, suffix: str, build: Callable[[Source], Converted]
) -> ConversionReport:
    """Converts, measures, and writes model and report.

    Args:
        wanted: What is asked for.
        suffix: What the output's name ends in; ``""`` for a folder.
        build: The converter.

    Raises:
        ArgumentError: A setting that cannot be used.
        InputFileError: No SavedModel, or scans that cannot be read.
        ConversionError: The signature cannot be converted.
        OutputError: The output exists, or cannot be written.
    """
    output = Path(wanted.output)
    beside = output.with_name(f"{output.name}.json")
    _check(wanted, output, beside, suffix)
    folder = saved_model_folder(wanted.saved_model)
    scans = read_all(wanted.compare) if _given(wanted.compare) else packaged_scans()
    calibration_scans = read_all(wanted.calibrate) if wanted.precision == "int8" else []
    graph = plain_graph(folder, wanted.signature, wanted.size, allow_file_ops=wanted.allow_file_ops)
    threads = reports.threads()
    servable = Servable(
        "saved_model",
        0,
        folder,
        intra_op_threads=threads,
        allow_file_ops=wanted.allow_file_ops,
    )
    work = output.parent / f".convert-{uuid.uuid4().hex}"
    try:
        samples, calibration = (
            signature_inputs(
                servable,
                wanted.signature,
                graph.inputs,
                image_pairs(given, count, wanted.size) if given else [],
            )
            for given, count in (
                (scans, COMPARISON_PAIRS),
                (calibration_scans, CALIBRATION_PAIRS),
            )
        )
        work.mkdir()
        converted = build(Source(folder, graph, calibration, samples, work))
        report = _report(wanted, output, servable, graph, converted, samples, threads)
        _publish(converted.path, report, output, beside)
    except OSError as error:
        raise OutputError.of(output, error) from error
    finally:
        servable.close()
        shutil.rmtree(work, ignore_errors=True)
    logger.info("converted %s to %s", folder, output)
    return report


def require(packages: Mapping[str, str], extra: str, target: str) -> None:
    """Makes sure that modules are there before the work begins.

    Args:
        packages: Module to the name of its package.
        extra: The extra of tfstyle that brings them.
        target: What needs them, in words.

    Raises:
        ConversionError: One is missing; the message has the command that installs it.
    """
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise ConversionError(
            f"{target} needs {' and '.join(missing)}: pip install 'tfstyle[{extra}]'."
        )


def checked_inputs(
    inputs: Mapping[str, np.ndarray], expected: Mapping[str, Sequence[int | None]]
) -> dict[str, np.ndarray]:
    """Inputs as float32 arrays, behind the checks that the converted graph itself has lost.

    Args:
        inputs: Arrays by name.
        expected: Name to shape; None or -1 where a size is free.

    Raises:
        ArgumentError: Other names or shapes, or values that are not finite numbers.
    """
    if set(inputs) != set(expected):
        raise ArgumentError(
            f"inputs: the model takes {', '.join(sorted(expected))}; received "
            f"{', '.join(sorted(inputs)) or 'none'}."
        )
    checked = {}
    for name, shape in expected.items():
        try:
            array = np.asarray(inputs[name], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name}: not a numeric array ({error}).") from None
        free = [n is None or n < 0 for n in shape]
        fits = array.ndim == len(shape) and array.size > 0
        if not fits or any(not f and a != n for f, a, n in zip(free, array.shape, shape)):
            wanted = ", ".join("any" if f else str(n) for f, n in zip(free, shape))
            raise ArgumentError(f"{name}: shape {array.shape} is not ({wanted}).")
        if not np.isfinite(array).all():
            raise ArgumentError(f"{name}: holds NaN or infinite values; replace them first.")
        checked[name] = array
    return checked


def _given(paths: Paths) -> bool:
    return isinstance(paths, (str, os.PathLike)) or len(paths) > 0


def _check(wanted: Conversion, output: Path, beside: Path, suffix: str) -> None:
    if wanted.precision not in PRECISIONS:
        raise ArgumentError(
            f"precision: unknown value {wanted.precision!r}; use one of {', '.join(PRECISIONS)}."
        )
    if wanted.precision == "int8" and not _given(wanted.calibrate):
        raise ArgumentError(
            "calibrate: int8 needs scans to calibrate on; name some like those that the model "
            "will see."
        )
    if wanted.precision != "int8" and _given(wanted.calibrate):
        raise ArgumentError(f"calibrate: only int8 is calibrated, not {wanted.precision}.")
    if suffix and output.suffix != suffix:
        raise OutputError(output, f"the model's file ends in {suffix}; choose such a name.")
    for path in (output, beside):
        if path.exists():
            raise OutputError(path, "exists already; choose another name.")
    if not output.parent.is_dir():
        raise OutputError(output, "its folder does not exist; make it first.")


def _report(
    wanted: Conversion,
    output: Path,
    servable: Servable,
    graph: PlainGraph,
    converted: Converted,
    samples: list[dict[str, np.ndarray]],
    threads: int,
) -> ConversionReport:
    def saved_model(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return servable.run(wanted.signature, inputs)

    run = converted.load(threads)
    difference = reports.measure_difference(saved_model, run, samples)
    reached = reports.checked(wanted.precision, difference)
    shapes = [tuple(array.shape for array in inputs.values()) for inputs in samples]
    alike = [s for s, shape in zip(samples, shapes) if shape == max(shapes, key=shapes.count)]
    latency = reports.measure_latency(saved_model, run, alike)
    size, sha256 = reports.digest(converted.path)
    source_size, source_sha256 = reports.digest(servable.path)
    try:
        exported = read_metadata(servable.path)["model"]
    except InputFileError:
        exported = None  # a SavedModel of other origin
    return ConversionReport(
        target=wanted.target,
        precision=wanted.precision,
        signature=wanted.signature,
        size=wanted.size,
        model={
            "file": output.name,
            "bytes": size,
            "sha256": sha256,
            "inputs": {name: _described(spec) for name, spec in graph.inputs.items()},
            "outputs": list(graph.outputs),
            "operations": dict(sorted(converted.operations.items())),
        },
        saved_model={"bytes": source_size, "sha256": source_sha256, "model": exported},
        method=dict(converted.method),
        dropped=graph.dropped,
        difference=difference,
        latency=latency,
        reached=reached,
        versions=reports.versions(),
        created=reports.now(),
    )


def _described(spec) -> dict:
    return {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}


def _publish(path: Path, report: ConversionReport, output: Path, beside: Path) -> None:
    """Puts model and report in their places: both, or neither."""
    note = path.with_name("report.json")
    note.write_bytes(report.to_json())
    for target in (output, beside):
        if target.exists():
            raise OutputError(target, "exists already; choose another name.")
    os.rename(note, beside)
    try:
        os.rename(path, output)
    except OSError:
        beside.unlink()
        raise
