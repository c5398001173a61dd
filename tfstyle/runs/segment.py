"""Whole scans in, masks out. The command ``tfstyle segment`` is a thin layer over this."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfstyle import __version__
from tfstyle._private.files import write_atomically
from tfstyle.data import Scan, Window, read_scans
from tfstyle.data.dicom.segmentation import DESCRIPTION, write_dicom_seg
from tfstyle.data.layouts import is_result
from tfstyle.data.nifti import write_labels
from tfstyle.data.png import described
from tfstyle.errors import ArgumentError, OutputError
from tfstyle.runs.folder import RunFolder, files_digest
from tfstyle.runs.sources import free_name
from tfstyle.segmentation.scans import DEFAULT, Segmenter

FORMATS = ("auto", "nifti", "dicom-seg", "png")
_ENDINGS = {"nifti": (".nii.gz", ".nii"), "dicom-seg": (".dcm",), "png": (".png",)}
#: Settings and journal of a run, in its folder.
RECORD, JOURNAL = "segment.json", "segment.jsonl"


@dataclass(frozen=True)
class SegmentedScan:
    """What was found in one scan.

    Attributes:
        source: Name of the scan.
        file: The mask written.
        slices: Number of slices.
        size: Rows and columns.
        window: Window through which the model saw it, in the scan's units.
        harmonized: Whether its gray scale was changed to that of the training.
        confidence: Of the tone transfer, from 0 to 1; None where it was not used.
        pixels: Number of pixels of each label.
        milliliters: Volume of each label; None for pictures, whose spacing is unknown.
        seconds: Time of the segmentation, without reading and writing.
    """

    source: str
    file: str
    slices: int
    size: tuple[int, int]
    window: Window
    harmonized: bool
    confidence: float | None
    pixels: dict[str, int]
    milliliters: dict[str, float] | None
    seconds: float

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)


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
    progress: Callable[[int, int, str], None] | None = None,
) -> list[SegmentedScan]:
    """Segments scans and writes a mask for each, on the grid of its source.

    A folder of masks resumes: what an earlier run with the same settings finished stays.

    Args:
        model: A :class:`tfstyle.segmentation.Segmenter`, or what its ``open`` takes: a preset of
            ``UNet``, its folder, or a ``.keras`` file.
        inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them.
        output: Folder for the masks ``NAME_seg.nii.gz``; for one scan also a file name.
        reference: See ``Segmenter.open``.
        harmonize: Whether to bring scans to the gray scale that the model was trained on, by the
            tone transfer. Defaults to doing so where they are not in HU and there is a style.
        window: Window of scans in HU. Defaults to the model's.
        spacing: Pixel spacing in mm that the model wants. Defaults to the model's own.
        series: Only this series of the inputs, see :func:`tfstyle.data.read_scans`.
        output_format: ``"auto"``: NIfTI, and PNG for PNG; ``"nifti"``; ``"dicom-seg"`` for DICOM
            input, which carries patient and study of its source; ``"png"``.
        batch_size: Slices a call of the model.
        overwrite: Begin again, and replace masks that tfstyle wrote under these names.
        progress: Called as ``progress(done, total, name)``, counting slices.

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
    if output_format not in FORMATS:
        raise ArgumentError(
            f"output_format: must be one of {', '.join(FORMATS)}, received {output_format!r}."
        )
    if not inputs:
        raise ArgumentError("inputs: at least one input scan is needed.")
    if not isinstance(model, Segmenter):
        model = Segmenter.open(model, reference=reference, window=window, spacing_mm=spacing)
    elif (reference, window, spacing) != (None, None, None):
        raise ArgumentError("model: a Segmenter has its reference, window and spacing already.")
    output = Path(output)
    scans = [scan for path in inputs for scan in read_scans(path, series=series, lazy=True)]
    kinds = [_kind(scan, output_format) for scan in scans]
    for scan in scans:
        model.harmonizes(scan, harmonize)  # refused before any work
    total, done = sum(map(len, scans)), 0

    def run(scan: Scan, kind: str, target: Path) -> SegmentedScan:
        nonlocal done
        if progress is not None:
            progress(done, total, scan.name)
        result = _segment(model, scan, kind, target, harmonize, batch_size)
        done += len(scan)
        if progress is not None:
            progress(done, total, scan.name)
        return result

    if output.name.lower().endswith(sum(_ENDINGS.values(), ())) and not output.is_dir():
        _check_file(output, scans, kinds[0], overwrite)
        return [run(scans[0], kinds[0], output)]
    taken: set[str] = set()
    names = []
    for scan, kind in zip(scans, kinds):
        ending = _ENDINGS[kind][0]
        names.append(free_name(f"{_file_name(scan.name)}_seg", taken, ending) + ending)
        taken.add(names[-1])
    settings = {"model": model.name, "digest": model.digest, "harmonize": harmonize}
    with RunFolder(
        output,
        {**settings, "tfstyle": __version__, "format": output_format},
        record=RECORD,
        journal=JOURNAL,
        what="run of tfstyle segment",
        overwrite=names if overwrite else None,
    ) as folder:
        found = {
            row["job"]: row["result"] for row in folder.rows if {"job", "result"} <= row.keys()
        }
        results = []
        for scan, kind, name in zip(scans, kinds, names):
            job = files_digest(scan.files, scan.name, [frame.index for frame in scan.frames], name)
            if job in found and (output / name).is_file():
                results.append(_again(found[job]))
                done += len(scan)
                continue
            results.append(run(scan, kind, output / name))
            folder.add({"job": job, "result": results[-1].as_dict()})
    return results


def _segment(
    model: Segmenter, scan: Scan, kind: str, target: Path, harmonize: bool | None, batch_size: int
) -> SegmentedScan:
    scan = scan.load()
    begin = time.perf_counter()
    labels, window, confidence = model.segment(scan, harmonize, batch_size)
    seconds = time.perf_counter() - begin
    if kind == "dicom-seg":
        write_dicom_seg(
            labels, scan, target, names=model.labels, model=model.name, version=__version__
        )
    elif kind == "nifti":
        write_labels(labels, scan, target, description=DESCRIPTION)
    else:
        import tensorflow as tf

        with tf.device("CPU"):
            data = tf.io.encode_png(labels[0][..., None]).numpy()
        write_atomically(target, described(data, DESCRIPTION))
    counts = np.bincount(labels.ravel())
    numbers = range(1, max(len(counts), *(number + 1 for number in model.labels), 2))
    pixels = {
        model.labels.get(n, f"label {n}"): int(counts[n]) if n < len(counts) else 0 for n in numbers
    }
    volume = float(np.prod(scan.spacing)) / 1000
    return SegmentedScan(
        source=scan.name,
        file=str(target),
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


def _again(facts: dict) -> SegmentedScan:
    """A result of the journal."""
    return SegmentedScan(
        **{**facts, "window": Window(**facts["window"]), "size": tuple(facts["size"])}
    )


def _kind(scan: Scan, output_format: str) -> str:
    """What the mask of a scan is written as."""
    picture = scan.units == "gray"
    kind = output_format
    if kind == "auto":
        kind = "png" if picture else "nifti"
    if kind == "dicom-seg" and not scan.frames:
        raise ArgumentError(
            f"output_format: {scan.name} was not read from DICOM, which a DICOM SEG refers to; use "
            "'nifti' or 'png'."
        )
    if kind == "nifti" and picture:
        raise ArgumentError(f"output_format: {scan.name} is a picture without geometry; use 'png'.")
    if kind == "png" and len(scan) > 1:
        raise ArgumentError(f"output_format: {scan.name} has {len(scan)} slices; use 'nifti'.")
    return kind


def _check_file(output: Path, scans: Sequence[Scan], kind: str, overwrite: bool) -> None:
    """Refuses an output file that does not suit, or is there."""
    if len(scans) > 1:
        raise OutputError(output, f"is one file, but there are {len(scans)} scans; give a folder.")
    if not output.name.lower().endswith(_ENDINGS[kind]):
        raise OutputError(
            output, f"does not end in {' or '.join(_ENDINGS[kind])}; choose another format or name."
        )
    if output.exists() and not (overwrite and is_result(output)):
        raise OutputError(
            output,
            "is not a result of tfstyle; choose another name."
            if overwrite
            else "exists already and is not overwritten; choose another name, or overwrite it.",
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(output, error) from error


def _file_name(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")
    return safe or "scan"


__all__ = ["DEFAULT", "FORMATS", "SegmentedScan", "segment_scans"]
