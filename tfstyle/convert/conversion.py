"""The function :func:`convert`, and what the converters have in common."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.files import temporary_beside
from tfstyle.convert import report as reports
from tfstyle.convert.graph import PlainGraph, chosen_signature, plain_graph
from tfstyle.convert.report import ConversionReport, Runner
from tfstyle.convert.samples import Paths, find_scans, image_pairs, signature_inputs
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.export import (
    Servable,
    export_stylize,
    export_unet,
    read_metadata,
    saved_model_folder,
)
from tfstyle.export.saved_model import package_versions

logger = logging.getLogger(__name__)

TARGETS = ("tflite", "onnx")
PRECISIONS = tuple(reports.GOALS)
PACKAGES = ("tensorflow", "ai-edge-litert", "litert-quantizer", "tf2onnx", "onnx", "onnxruntime")
#: Pairs of slices to calibrate on, and to compare on.
CALIBRATION_PAIRS = 16
COMPARISON_PAIRS = 6
#: Narrower convolutions, of the image's few channels, stay in float32 under int8: 8 bits are few
#: for gray levels, and there is little to gain.
WIDE = 16


@dataclass(frozen=True)
class Source:
    """What a converter works on.

    Attributes:
        graph: The signature without checks.
        precision: One of ``PRECISIONS``.
        calibration: Inputs by name, to calibrate on; empty unless the precision is int8.
        work: A folder for files in between; gone afterwards.
    """

    graph: PlainGraph
    precision: str
    calibration: list[dict[str, np.ndarray]]
    work: Path


@dataclass(frozen=True)
class Converted:
    """What a converter gives.

    Attributes:
        path: The model, a file in :attr:`Source.work`.
        run: Runs it.
        operations: Its operations and how often each is there.
        method: How it was made, for the report.
    """

    path: Path
    run: Runner
    operations: Mapping[str, int]
    method: dict = field(default_factory=dict)


def convert(
    model: Any,
    output: str | os.PathLike,
    *,
    to: str,
    signature: str | None = None,
    precision: str = "float32",
    size: int | None = None,
    calibrate: Paths = (),
    compare: Paths = (),
    overwrite: bool = False,
) -> ConversionReport:
    """Converts one signature of a model for another runtime.

    ``"tflite"`` gives a model for LiteRT with built-in operations alone (no "flex"), ``"onnx"``
    one for any runtime with operator set 18. It takes and gives what the signature does under the
    same names, float32 in every precision, and does not check its input.

    - ``"float32"``: as the SavedModel.
    - ``"float16"``: the weights of convolutions in half precision, computed with in float32.
    - ``"int8"``: convolutions in 8-bit integers, with ranges seen on `calibrate`; statistics,
      tone curves and all else in float32.

    Args:
        model: Version folder of an export, or its base folder for the latest version; or a model
            that :func:`tfstyle.export.export_stylize` or ``export_unet`` takes. A SavedModel is a
            program: convert only those whose origin you trust.
        output: File to write, ending in ``.tflite`` or ``.onnx``; must not exist. The report is
            written beside it as ``<output>.json``.
        to: ``"tflite"`` or ``"onnx"``.
        signature: Name of the signature. Defaults to ``"stylize"``, or the model's only one.
        precision: See above.
        size: Takes one image of `size` x `size` pixels at a time, as GPU and NPU delegates want.
            Defaults to any number and size.
        calibrate: Scans to calibrate on, files or folders; for ``"int8"``, which needs them.
        compare: Scans to compare on. Defaults to the CT slices of the package pydicom-data, or of
            pydicom.
        overwrite: Replace a model and its report that exist already; they are refused by default.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument cannot be used, or the model has no such signature.
        InputFileError: No SavedModel, or scans that cannot be read.
        MissingPackageError: The extra ``tflite`` or ``onnx`` is not installed.
        ConversionError: The signature cannot be converted.
        OutputError: The output exists or cannot be written.

    Example:
        >>> convert("saved_models/stylize", "stylize.onnx", to="onnx")     # doctest: +SKIP
    """
    for name, value, allowed in (("to", to, TARGETS), ("precision", precision, PRECISIONS)):
        if value not in allowed:
            raise ArgumentError(f"{name}: must be one of {', '.join(allowed)}, received {value!r}.")
    given = isinstance(calibrate, (str, os.PathLike)) or len(calibrate) > 0
    if given != (precision == "int8"):
        raise ArgumentError(
            "calibrate: must name scans like those that the model will see, for int8 and only for "
            f"it, received {calibrate!r}."
        )
    build = _converter(to, precision)
    output = Path(output)
    beside = output.with_name(f"{output.name}.json")
    if output.suffix != f".{to}":
        raise OutputError(output, f"the model's file ends in .{to}; choose such a name.")
    if not output.parent.is_dir():
        raise OutputError(output, "its folder does not exist; make it first.")
    if not overwrite:
        _check_free(output, beside)
    scans = find_scans(compare)
    calibration_scans = find_scans(calibrate) if given else []
    try:
        with temporary_beside(output, folder=True) as work:
            folder = _saved_model(model, work)
            if signature is None:
                signature = chosen_signature(folder)
            graph = plain_graph(folder, signature, size)
            with Servable(folder) as servable:
                samples, calibration = (
                    signature_inputs(servable, graph.inputs, image_pairs(*found, size))
                    for found in (
                        (scans, COMPARISON_PAIRS),
                        (calibration_scans, CALIBRATION_PAIRS if given else 0),
                    )
                )
                converted = build(Source(graph, precision, calibration, work))
                difference = reports.measure_difference(
                    lambda inputs: servable.run(signature, inputs), converted.run, samples
                )
            content = converted.path.read_bytes()
            try:
                source = read_metadata(folder)["model"]
            except InputFileError:
                source = None  # a SavedModel of other origin
            report = ConversionReport(
                target=to,
                precision=precision,
                signature=signature,
                size=size,
                model={
                    "file": output.name,
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "inputs": {
                        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
                        for name, spec in graph.inputs.items()
                    },
                    "outputs": list(graph.outputs),
                    "operations": dict(sorted(converted.operations.items())),
                },
                source=source,
                method=dict(converted.method),
                dropped=graph.dropped,
                difference=difference,
                reached=reports.goal_reached(precision, difference),
                versions=package_versions(PACKAGES),
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )
            note = work / "report.json"
            note.write_bytes(report.to_json())
            if not overwrite:
                _check_free(output, beside)
            # Both, or neither.
            os.replace(note, beside)
            try:
                os.replace(converted.path, output)
            except OSError:
                beside.unlink()
                raise
    except OSError as error:
        raise OutputError.of(output, error) from error
    logger.info("converted %s to %s", folder, output)
    return report


def _converter(to: str, precision: str) -> Callable[[Source], Converted]:
    """The converter for a target, behind the check of its packages."""
    module = importlib.import_module(f"tfstyle.convert.{to}")
    module.require(precision)
    return module.build


def _check_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(path, "exists already; choose another name, or overwrite it.")


def _saved_model(model: Any, work: Path) -> Path:
    if isinstance(model, (str, os.PathLike)):
        return saved_model_folder(model)
    export = export_unet if callable(getattr(model, "probabilities", None)) else export_stylize
    return export(model, work / "exported", warm_up_size=0)
