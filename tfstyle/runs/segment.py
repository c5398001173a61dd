"""Whole scans in, masks out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tfstyle import __version__
from tfstyle._private.images import one_of
from tfstyle.data import Scan, Window
from tfstyle.data.dicom.segmentation import DESCRIPTION, write_dicom_seg
from tfstyle.data.nifti import write_labels
from tfstyle.data.png import write_pixels
from tfstyle.errors import ArgumentError
from tfstyle.runs.folder import files_digest
from tfstyle.runs.outputs import output_kind
from tfstyle.runs.results import Account, Progress, Task, plan, run_tasks
from tfstyle.runs.sources import OnFailure, raising, read_inputs
from tfstyle.segmentation.scans import Segmenter

FORMATS = ("auto", "nifti", "dicom-seg", "png")
#: Kind of a mask to the endings of its file.
_FILES = {"nifti": (".nii.gz", ".nii"), "dicom-seg": (".dcm",), "png": (".png",)}


@dataclass(frozen=True, kw_only=True)
class SegmentedScan(Account):
    """What was found in one scan.

    Attributes:
        file: The mask written.
        harmonized: Whether its gray scale was changed to that of the training.
        confidence: Of the tone transfer, from 0 to 1; None where it was not used.
        pixels: Number of pixels of each label.
        milliliters: Volume of each label; None for pictures, whose spacing is unknown.
        seconds: Time of the segmentation, without reading and writing.
    """

    file: str
    harmonized: bool
    confidence: float | None
    pixels: dict[str, int]
    milliliters: dict[str, float] | None
    seconds: float

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.file,)


def segment_scans(
    model: Segmenter | str | os.PathLike,
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    reference: str | os.PathLike | None = None,
    harmonize: bool | None = None,
    window: str | Window | None = None,
    spacing: float | None = None,
    series: str | None = None,
    output_format: str = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_failure: OnFailure | None = None,
) -> list[SegmentedScan]:
    """Segments scans and writes a mask for each, on the grid of its source.

    A run that was stopped resumes: masks that the same model and options made of the same files
    stay, see :func:`tfstyle.runs.stylize_scans`.

    Args:
        model: A :class:`tfstyle.segmentation.Segmenter`, or what its ``open`` takes: a preset of
            ``UNet``, its folder, or a ``.keras`` file.
        inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them.
        output: Folder for the masks ``NAME_seg.nii.gz``, at the places of their scans among the
            inputs; for one scan also a file name.
        reference: See ``Segmenter.open``.
        harmonize: Whether to bring scans to the gray scale that the model was trained on, by the
            tone transfer. Defaults to doing so where they are not in HU and there is a style.
        window: Window of scans in HU. Defaults to the model's.
        spacing: Pixel spacing in mm that the model wants. Defaults to the model's own.
        series: Only this series of the inputs, see :func:`tfstyle.data.read_scans`.
        output_format: ``"auto"``: NIfTI, and PNG for PNG; ``"nifti"``; ``"dicom-seg"`` for DICOM
            input, which carries patient and study of its source; ``"png"``.
        batch_size: Slices a call of the model.
        overwrite: Replace other masks that tfstyle wrote under these names.
        progress: Called as ``progress(done, total, name)``, counting slices.
        on_failure: Called as ``on_failure(path, error)`` with each input that is damaged, and the
            others continue. Defaults to raising the error.

    Returns:
        One account for each scan, in reading order.

    Raises:
        ArgumentError: An option that does not suit the scans or the model.
        InputFileError: A file that cannot be read.
        WeightsError: A preset that cannot be used.
        OutputError: An output that exists already or cannot be written.

    Example:
        >>> done = segment_scans("unet_spine", ["ct/"], "labels/")
    """
    one_of("output_format", output_format, FORMATS)
    if not isinstance(model, Segmenter):
        model = Segmenter.open(model, reference=reference, window=window, spacing_mm=spacing)
    elif (reference, window, spacing) != (None, None, None):
        raise ArgumentError("model: a Segmenter has its reference, window and spacing already.")
    on_failure = on_failure or raising
    found = read_inputs(inputs, Path(output), series, on_failure)
    wanted = []
    for scan, name in found:
        model.harmonizes(scan, harmonize)  # refused before any work
        kind = output_kind(scan, output_format, "png" if scan.units == "gray" else "nifti")
        if kind == "png" and len(scan) > 1:
            raise ArgumentError(f"output_format: {scan.name} has many slices; use 'nifti'.")
        wanted.append((scan, f"{name}_seg", _FILES[kind][0], kind, None))

    def job(scan: Scan, kind: str, window: Window | None) -> str:
        facts = __version__, model.name, model.digest, harmonize, kind
        return files_digest(scan.files, *facts, [frame.index for frame in scan.frames])

    return run_tasks(
        plan(Path(output), wanted, _FILES, job),
        SegmentedScan,
        partial(_segment, model, harmonize, batch_size),
        overwrite=overwrite,
        progress=progress,
        on_failure=on_failure,
    )


def _segment(
    model: Segmenter,
    harmonize: bool | None,
    batch_size: int,
    task: Task,
    folder: Path,
    advance: Callable[[int], None],
) -> tuple[Path, SegmentedScan]:
    scan, made = task.scan.load(), folder / task.target.name
    begin = time.perf_counter()
    labels, window, confidence = model.segment(scan, harmonize, batch_size)
    seconds = time.perf_counter() - begin
    if task.kind == "dicom-seg":
        write_dicom_seg(
            labels, scan, made, names=model.labels, model=model.name, version=__version__
        )
    elif task.kind == "nifti":
        write_labels(labels, scan, made, description=DESCRIPTION)
    else:
        write_pixels(labels[0][..., None], made, DESCRIPTION)
    counts = np.bincount(labels.ravel(), minlength=max([1, *model.labels]) + 1)
    pixels = {model.labels.get(n, f"label {n}"): int(counts[n]) for n in range(1, len(counts))}
    volume = float(np.prod(scan.spacing)) / 1000
    advance(len(scan))
    return made, SegmentedScan(
        source=scan.name,
        file=str(task.target),
        slices=len(scan),
        size=scan.shape[1:],
        window=window,
        harmonized=model.harmonizes(scan, harmonize),
        confidence=confidence,
        pixels=pixels,
        milliliters=None
        if scan.units == "gray"
        else {name: round(count * volume, 3) for name, count in pixels.items()},
        seconds=seconds,
    )
