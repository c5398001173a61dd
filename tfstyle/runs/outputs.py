"""Writers of stylized scans and slices, the processes they work in, and what is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from tfstyle.data.dicom import Frame
from tfstyle.data.dicom.write import DerivedSeries, write_derived_series
from tfstyle.data.layouts import DESCRIPTION
from tfstyle.data.nifti import write_nifti
from tfstyle.data.png import write_png
from tfstyle.data.read import read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import OutputError
from tfstyle.runs.folder import append_row

#: Slices from which on other processes decode and write. Starting them takes about a second.
MANY_SLICES = 32

#: Slices of a scan that are measured, at most, evenly spread.
MEASURED_SLICES = 16


class InThisProcess(Executor):
    """Runs every call at once, in the thread that submits it."""

    def submit(self, function, /, *arguments, **options) -> Future:
        """See ``concurrent.futures.Executor.submit``."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def start_workers(slices: int, workers: int | None = None) -> Executor:
    """Processes that decode and write slices, or this process itself.

    Decoding and writing hold Python's lock, so that threads would only take turns.

    Args:
        slices: How many slices there are to do.
        workers: Number of processes; 0 works in this process. None chooses by the number of
            slices and of CPUs.

    Returns:
        An executor to be used in a ``with`` statement.
    """
    if workers is None:
        workers = min(os.cpu_count() or 1, 8) if slices >= MANY_SLICES else 0
    if workers == 0:
        return InThisProcess()
    from loky import ProcessPoolExecutor

    # Unlike multiprocessing's, these processes do not run the caller's main module again.
    return ProcessPoolExecutor(
        max_workers=workers, timeout=60, initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """Ends this worker soon after its parent, which may be killed without a word."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# What a worker does with one slice ---------------------------------------------------------------


class DicomSlices:
    """Writes slices of a derived DICOM series; see :class:`tfstyle.data.dicom.write.DerivedSeries`.

    Args:
        frames: Source frames, in slice order.
        window: Window of the content.
        identity: Of an earlier run that is to be continued.
        deidentify: See :func:`tfstyle.data.write_derived_series`.
        uid_key: See :func:`tfstyle.data.write_derived_series`.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        window: Window,
        identity: dict | None = None,
        deidentify: str = "keep",
        uid_key: str | None = None,
    ):
        self.frames = frames
        self.series = DerivedSeries(
            window,
            description=DESCRIPTION,
            identity=identity,
            deidentify=deidentify,
            uid_key=uid_key,
        )
        self.state = self.series.identity
        self.names = [self.series.file_name(i + 1) for i in range(len(frames))]

    def task(self, index: int) -> tuple:
        """A picklable function and its arguments before (image, path)."""
        return _write_dicom, self.series, self.frames[index], index + 1


def _write_dicom(
    series: DerivedSeries, frame: Frame, number: int, image: np.ndarray, path: str
) -> tuple[float, float]:
    import pydicom

    series.write(frame, image, number, path)
    dataset = pydicom.dcmread(path)  # as a viewer would read it
    slope = float(dataset.RescaleSlope)
    stored = dataset.pixel_array * slope + float(dataset.RescaleIntercept)
    return slope, float(np.abs(series.window.to_unit(stored) - image).max())


class PngSlices:
    """Writes slices as PNG files.

    Args:
        count: Number of slices.
        window: Window of the content.
        bits: 8 or 16.
    """

    state: dict = {}  # noqa: RUF012 - nothing to remember

    def __init__(self, count: int, window: Window, bits: int):
        width = max(4, len(str(count)))
        self.names = [f"{i:0{width}d}.png" for i in range(1, count + 1)]
        self.window, self.bits = window, bits

    def task(self, index: int) -> tuple:
        """A picklable function and its arguments before (image, path)."""
        return _write_png, self.window.width, self.bits


def _write_png(width: float, bits: int, image: np.ndarray, path: str) -> tuple[float, float]:
    write_png(image, path, bits=bits, description=DESCRIPTION)
    levels = 2**bits - 1
    return width / levels, 0.5 / levels


def finish_slice(
    task: tuple, image: np.ndarray, path: Path, journal: Path, facts: dict, measured: tuple | None
) -> dict:
    """Writes one slice under a temporary name, renames it, and notes it; runs in a worker.

    The worker itself notes in the journal that the slice is finished, so that nothing finished is
    lost if the main process is killed.

    Args:
        task: A writer's.
        image: Generated image, float32 (rows, columns) in [0, 1].
        path: The slice's file.
        journal: Of the run.
        facts: What is known of the slice already.
        measured: None, or (pixels, window, units, styles) for :func:`measure`.

    Raises:
        OutputError: If the file cannot be written.
    """
    function, *arguments = task
    # Hidden, and of this process alone: a worker of a killed run may be at the same slice still.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        step, error = function(*arguments, image, str(temporary))
        facts = {**facts, "file": path.name, "step": step, "error": error}
        if measured is not None:
            facts.update(measure(measured[0], image, *measured[1:]))
        os.replace(temporary, path)
        append_row(journal, facts)
    except OSError as problem:
        raise OutputError.of(path, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)
    return facts


def measure(
    pixels: np.ndarray,
    generated: np.ndarray,
    window: Window,
    units: str,
    styles: Sequence[np.ndarray],
) -> dict:
    """How near one slice came to the style, and how much structure stayed.

    Args:
        pixels: The content (rows, columns) in `units`.
        generated: Float (rows, columns) in [0, 1].
        window: The content's.
        units: See :class:`tfstyle.data.Scan`.
        styles: Gray levels of the styles, any shape; distances need exactly one.

    Returns:
        ``before`` and ``after`` (histogram distances to the style) and ``structure``, each only
        where it is defined.
    """
    from tfstyle.metrics.preservation import body_mask, structure_similarity
    from tfstyle.metrics.style import histogram_distance

    content, found = window.to_unit(pixels), {}
    if min(content.shape) >= 11:
        mask = body_mask(pixels) if units == "HU" else None
        structure = structure_similarity(content, generated, mask)
        if np.isfinite(structure):
            found["structure"] = structure
    if len(styles) == 1:
        found["before"] = histogram_distance(content, styles[0])
        found["after"] = histogram_distance(generated, styles[0])
    return found


def measure_scan(
    scan: Scan, window: Window, generated: np.ndarray, styles: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """:func:`measure` for up to ``MEASURED_SLICES`` slices of a scan; their medians.

    Args:
        scan: The source.
        window: The window through which it became [0, 1].
        generated: Float (slices, rows, columns) in [0, 1].
        styles: Gray levels of the styles, any shape; distances need exactly one.

    Returns:
        ``before``, ``after`` and ``structure``, None where undefined.
    """
    found = [
        measure(scan.pixels[i], generated[i], window, scan.units, styles)
        for i in sorted(measured_slices(len(scan)))
    ]
    return {key: median(found, key) for key in ("before", "after", "structure")}


def measured_slices(count: int) -> set[int]:
    """Slices that are measured: up to ``MEASURED_SLICES``, evenly spread."""
    return set(np.linspace(0, count - 1, MEASURED_SLICES).round().astype(int).tolist())


def median(facts: Sequence[dict], key: str) -> float | None:
    """Median of what the slices say under `key`; None if none says anything."""
    values = [one[key] for one in facts if key in one]
    return float(np.median(values)) if values else None


def write_generated(
    scan: Scan,
    generated: np.ndarray,
    window: Window,
    kind: str,
    target: Path,
    deidentify: str = "keep",
    uid_key: str | None = None,
) -> list[Path]:
    """Writes generated images as a scan of the source's kind and geometry, in this process.

    Args:
        scan: The source.
        generated: Float (slices, rows, columns) in [0, 1].
        window: The window through which the source became [0, 1].
        kind: ``"dicom"``, ``"nifti"`` or ``"png"``.
        target: A new or empty folder for DICOM and for PNG of several slices, else a file.
        deidentify: For DICOM, see :func:`tfstyle.data.write_derived_series`.
        uid_key: For DICOM, see :func:`tfstyle.data.write_derived_series`.

    Returns:
        The files written, in slice order; none of them half.

    Raises:
        OutputError: If they cannot be written.
    """
    if kind == "dicom":
        return write_derived_series(
            scan,
            generated,
            window,
            target,
            description=DESCRIPTION,
            deidentify=deidentify,
            uid_key=uid_key,
        )
    if kind == "nifti":
        write_nifti(generated, scan, window, target, description=DESCRIPTION)
        return [target]
    files = [target]
    if len(generated) > 1:
        target.mkdir(parents=True, exist_ok=True)
        files = [target / name for name in PngSlices(len(generated), window, 8).names]
    for image, file in zip(generated, files):
        write_png(image, file, bits=picture_bits(scan), description=DESCRIPTION)
    return files


class OneFile:
    """A volume or picture in one file, gathered in memory and written at the end.

    Args:
        scan: The source.
        window: Its window.
        kind: ``"nifti"`` or ``"png"``.
    """

    def __init__(self, scan: Scan, window: Window, kind: str):
        self.scan, self.window, self.kind = scan, window, kind
        self.unit = np.empty(scan.pixels.shape, np.float32)

    def write(self, path: Path) -> tuple[float, float]:
        """Writes the file; returns the step between values, and the round trip's error."""
        if self.kind == "png":
            return _write_png(self.window.width, picture_bits(self.scan), self.unit[0], str(path))
        write_nifti(self.unit, self.scan, self.window, path, description=DESCRIPTION)
        (back,) = read_scans(path)
        step = 1.0 if back.pixels.dtype.kind in "iu" else 0.0
        return step, float(np.abs(self.window.to_unit(back.pixels) - self.unit).max())


def picture_bits(scan: Scan) -> int:
    """Depth of the PNG files made from a scan."""
    return 16 if scan.units == "gray" and scan.pixels.dtype == np.uint16 else 8


__all__ = [
    "MANY_SLICES",
    "DicomSlices",
    "InThisProcess",
    "OneFile",
    "PngSlices",
    "finish_slice",
    "measure",
    "measure_scan",
    "measured_slices",
    "median",
    "picture_bits",
    "start_workers",
    "write_generated",
]
