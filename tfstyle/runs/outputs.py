"""Writers of stylized scans and slices, the processes they work in, and what is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

import numpy as np

from tfstyle._private.logs import held_stderr
from tfstyle.data.dicom import Frame
from tfstyle.data.dicom.write import DerivedSeries, write_derived_series
from tfstyle.data.layouts import DESCRIPTION
from tfstyle.data.nifti import write_nifti
from tfstyle.data.png import write_png
from tfstyle.data.read import read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, writing

#: Slices from which on other processes decode and write. Starting them takes about a second.
MANY_SLICES = 32

#: Slices of a scan that are measured, at most, evenly spread.
MEASURED_SLICES = 16


class InThisProcess(Executor):
    """Runs every call at once, in the thread that submits it: a kill leaves one thing begun."""

    def submit(self, function, /, *arguments, **options) -> Future:
        """See ``concurrent.futures.Executor.submit``."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def start_workers(slices: int, workers: int | None = None) -> Executor:
    """Processes that decode and write slices, or for 0 workers this process itself.

    Decoding and writing hold Python's lock, so that threads would only take turns. None chooses by
    the number of slices and of CPUs.
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
    """Readies a worker, which ends soon after its parent: that may be killed without a word."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with held_stderr():  # slices are measured, and PNG encoded, with it; it has its say at import
        import tensorflow  # noqa: F401


#: Writes an image, float32 (rows, columns) in [0, 1], to a path; gives the step between two values
#: that the file can hold, and the largest error of the way back. Pickles.
Writer = Callable[[np.ndarray, str], tuple[float, float]]


def dicom_slices(
    frames: Sequence[Frame], window: Window, deidentify: str = "keep", uid_key: str | None = None
) -> tuple[list[str], list[Writer]]:
    """Names and writers of the slices of a derived DICOM series."""
    series = DerivedSeries(window, deidentify=deidentify, uid_key=uid_key)
    numbered = list(enumerate(frames, 1))
    names = [series.file_name(number) for number, _ in numbered]
    return names, [partial(_write_dicom, series, frame, number) for number, frame in numbered]


def _write_dicom(
    series: DerivedSeries, frame: Frame, number: int, image: np.ndarray, path: str
) -> tuple[float, float]:
    import pydicom

    series.write(frame, image, number, path)
    dataset = pydicom.dcmread(path)  # as a viewer would read it
    slope = float(dataset.RescaleSlope)
    stored = dataset.pixel_array * slope + float(dataset.RescaleIntercept)
    return slope, float(np.abs(series.window.to_unit(stored) - image).max())


def png_slices(count: int, window: Window, bits: int) -> tuple[list[str], list[Writer]]:
    """Names and writers of the slices of a scan as PNG files."""
    width = max(4, len(str(count)))
    names = [f"{number:0{width}d}.png" for number in range(1, count + 1)]
    return names, [partial(_write_png, window.width, bits)] * count


def _write_png(width: float, bits: int, image: np.ndarray, path: str) -> tuple[float, float]:
    write_png(image, path, bits=bits, description=DESCRIPTION)
    return _png_steps(width, bits)


def _png_steps(width: float, bits: int) -> tuple[float, float]:
    levels = 2**bits - 1
    return width / levels, 0.5 / levels


def finish_slice(writer: Writer, image: np.ndarray, path: Path, details: tuple) -> dict:
    """Writes one slice and measures it by :func:`facts_of` with `details`; runs in a worker."""
    with writing(path):
        step, error = writer(image, str(path))
    return {"step": step, "error": error} | facts_of(image, *details)


def facts_of(
    generated: np.ndarray,
    pixels: np.ndarray,
    window: Window,
    units: str,
    styles: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    """What the window clips of one slice, how near it came to the style, and what structure stayed.

    `pixels` are the content in `units`, `styles` gray levels, of which distances need exactly one;
    None measures nothing. Gives ``below`` and ``above`` (shares of the pixels), and where they are
    defined ``before`` and ``after`` (histogram distances to the style) and ``structure``.
    """
    from tfstyle.data.body import body_mask
    from tfstyle.metrics.preservation import structure_similarity
    from tfstyle.metrics.style import histogram_distance

    found = {
        "below": float(np.mean(pixels < window.lower)),
        "above": float(np.mean(pixels > window.upper)),
    }
    if styles is None:
        return found
    content = window.to_unit(pixels)
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
    """Medians of :func:`facts_of` over up to ``MEASURED_SLICES`` slices; None where undefined."""
    found = [
        facts_of(generated[i], scan.pixels[i], window, scan.units, styles)
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
) -> None:
    """Writes generated images as a scan of the source's kind and geometry, in this process.

    `kind` is ``"dicom"``, whose `target` is a new or empty folder, ``"nifti"``, or ``"png"`` for
    one slice. Nothing is left half-written. See :func:`tfstyle.data.write_derived_series`.
    """
    if kind == "dicom":
        write_derived_series(
            scan, generated, window, target, deidentify=deidentify, uid_key=uid_key
        )
    elif kind == "nifti":
        write_nifti(generated, scan, window, target, description=DESCRIPTION)
    else:
        write_png(generated[0], target, bits=picture_bits(scan), description=DESCRIPTION)


def write_file(
    scan: Scan, generated: np.ndarray, window: Window, kind: str, target: Path
) -> tuple[float, float]:
    """:func:`write_generated` for one file; the step between values, and the round trip's error."""
    write_generated(scan, generated, window, kind, target)
    if kind == "png":
        return _png_steps(window.width, picture_bits(scan))
    (back,) = read_scans(target)
    step = 1.0 if back.pixels.dtype.kind in "iu" else 0.0
    return step, float(np.abs(window.to_unit(back.pixels) - generated).max())


def picture_bits(scan: Scan) -> int:
    """Depth of the PNG files made from a scan."""
    return 16 if scan.units == "gray" and scan.pixels.dtype == np.uint16 else 8


def source_kind(scan: Scan) -> str:
    """``"png"``, ``"nifti"`` or ``"dicom"``, by the files that a scan came from."""
    if scan.units == "gray":
        return "png"
    first = scan.files[0].lower() if scan.files else ""
    return "nifti" if first.endswith((".nii", ".nii.gz")) else "dicom"


def output_kind(scan: Scan, output_format: str) -> str:
    """What a scan is written as; an ArgumentError if it cannot be written in that format."""
    source = source_kind(scan)
    kind = source if output_format == "auto" else output_format
    if kind == "dicom" and source != "dicom":
        raise ArgumentError(
            f"output_format: {scan.name} is not a DICOM file, so there is no header to derive one "
            "from; use 'auto', 'nifti' or 'png'."
        )
    if kind == "nifti" and source == "png":
        raise ArgumentError(
            f"output_format: {scan.name} is a picture without units and geometry; use 'png'."
        )
    return kind


def ending_of(scan: Scan, kind: str) -> str:
    """Ending of what a scan is written to; none for a folder."""
    return {"dicom": "", "nifti": ".nii.gz", "png": ".png" if len(scan) == 1 else ""}[kind]
