"""The function :func:`convert`, and its report."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfstyle._private.files import temporary_beside, write_atomically
from tfstyle._private.images import one_of
from tfstyle.convert.comparison import (
    Difference,
    Paths,
    find_scans,
    measure_difference,
    signature_inputs,
)
from tfstyle.convert.graph import chosen_signature, plain_graph
from tfstyle.errors import InputFileError, OutputError, require_packages, writing
from tfstyle.export import (
    Servable,
    export_stylize,
    export_unet,
    read_metadata,
    saved_model_folder,
)

logger = logging.getLogger(__name__)

#: Target to its precisions.
TARGETS = {"tflite": ("float32", "float16"), "onnx": ("float32",)}
#: Pairs of slices to compare on.
COMPARISON_PAIRS = 6
FORMAT = "tfstyle-conversion/4"


@dataclass(frozen=True)
class ConversionReport:
    """The report that is written beside a converted model as ``<model>.json``.

    Attributes:
        target: ``"tflite"`` or ``"onnx"``.
        precision: ``"float32"`` or ``"float16"``.
        signature: Signature of the SavedModel.
        size: Side of the images that the model takes; None for any height and width.
        model: Of the converted model: ``"file"``, ``"bytes"``, ``"sha256"``, ``"inputs"`` and
            ``"outputs"``.
        source: What the export recorded of its model; None for a SavedModel of other origin.
        dropped: Checks of the SavedModel that the converted model lacks, and how many.
        difference: See :class:`Difference`.
    """

    target: str
    precision: str
    signature: str
    size: int | None
    model: dict
    source: dict | None
    dropped: dict
    difference: Difference

    def as_dict(self) -> dict:
        """The report as plain types, with its format."""
        return {"format": FORMAT, **asdict(self)}


def convert(
    model: Any,
    output: str | os.PathLike,
    *,
    to: str,
    signature: str | None = None,
    precision: str = "float32",
    size: int | None = None,
    compare: Paths = (),
    overwrite: bool = False,
) -> ConversionReport:
    """Converts one signature of a model for another runtime.

    ``"tflite"`` gives a model for LiteRT with built-in operations alone (no "flex"), ``"onnx"``
    one for any runtime with operator set 18. It takes and gives what the signature does under the
    same names, float32 in either precision, and does not check its input.

    Args:
        model: Version folder of an export, or its base folder for the latest version; or a model
            that :func:`tfstyle.export.export_stylize` or ``export_unet`` takes. A SavedModel is a
            program: convert only those whose origin you trust.
        output: File to write, ending in ``.tflite`` or ``.onnx``; must not exist. The report is
            written beside it as ``<output>.json``.
        to: ``"tflite"`` or ``"onnx"``.
        signature: Name of the signature. Defaults to ``"stylize"``, or the model's only one.
        precision: ``"float32"``, or for TFLite ``"float16"``: half precision for all constants,
            half the size, and float32 for what is computed.
        size: Takes one image of `size` x `size` pixels at a time, as GPU and NPU delegates want.
            Defaults to any number and size.
        compare: Scans to compare on, files or folders. Defaults to the CT slices of the package
            pydicom-data, or of pydicom.
        overwrite: Replace a model and its report that exist already; they are refused by default.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument cannot be used, or the model has no such signature.
        InputFileError: No SavedModel, or scans that cannot be read.
        MissingPackageError: The extra ``tflite`` or ``onnx`` is not installed.
        ConversionError: The signature cannot be converted, or not in this precision.
        OutputError: The output exists or cannot be written.

    Example:
        >>> convert("saved_models/stylize", "stylize.onnx", to="onnx")     # doctest: +SKIP
    """
    one_of("to", to, TARGETS)
    one_of("precision", precision, TARGETS[to])
    half = {"half": True} if precision == "float16" else {}
    converter = importlib.import_module(f"tfstyle.convert.{to}")
    require_packages(converter.PACKAGES, to, f"conversion to {to}")
    output = Path(output)
    beside = output.with_name(f"{output.name}.json")
    if output.suffix != f".{to}":
        raise OutputError(output, f"the model's file ends in .{to}; choose such a name.")
    if not output.parent.is_dir():
        raise OutputError(output, "its folder does not exist; make it first.")
    if not overwrite:
        _check_free(output, beside)
    scans = find_scans(compare)
    with writing(output), temporary_beside(output, folder=True) as work:
        folder = _saved_model(model, work)
        if signature is None:
            signature = chosen_signature(folder)
        graph = plain_graph(folder, signature, size)
        path = converter.build(graph, work, **half)
        with Servable(folder) as servable:
            samples = signature_inputs(servable, graph.inputs, scans, COMPARISON_PAIRS, size)
            run = partial(servable.run, signature)
            difference = measure_difference(run, converter.load(path), samples)
        content = path.read_bytes()
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
            },
            source=source,
            dropped=graph.dropped,
            difference=difference,
        )
        if not overwrite:
            _check_free(output, beside)
        write_atomically(beside, (json.dumps(report.as_dict(), indent=2) + "\n").encode())
        try:  # both, or neither
            os.replace(path, output)
        except OSError:
            beside.unlink()
            raise
    logger.info("converted %s to %s", folder, output)
    return report


def _check_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(path, "exists already; choose another name, or set overwrite.")


def _saved_model(model: Any, work: Path) -> Path:
    if isinstance(model, (str, os.PathLike)):
        return saved_model_folder(model)
    export = export_unet if callable(getattr(model, "probabilities", None)) else export_stylize
    return export(model, work / "exported", warm_up_size=0)
