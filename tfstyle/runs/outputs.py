"""Writers of stylized scans and slices, the processes they work in, and what is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.logs import held_stderr
from tfstyle.data.dicom.write import LEVELS, DerivedSeries, write_derived_series
from tfstyle.data.layouts import DESCRIPTION, NIFTI
from tfstyle.data.nifti import write_nifti
from tfstyle.data.png import write_png
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, writing

#: Slices from which on other processes decode and write. Starting them takes about a second.
MANY_SLICES = 32

#: Slices of a scan that are measured, at most, evenly spread.
MEASURED_SLICES = 16


def start_workers(slices: int, workers: int | None = None) -> Executor:
    """Processes that decode and write slices, or for 0 workers a thread of this process.

    Several threads would only take turns with Python's lock.
    """
    if workers is None:
        workers = min(os.cpu_count() or 1, 8) if slices >= MANY_SLICES else 0
    if workers == 0:
        return ThreadPoolExecutor(1)
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


#: Writes an image, float32 (rows, columns) in [0, 1], to a path. Pickles.
Writer = Callable[[np.ndarray, Path], None]


def slice_writers(
    scan: Scan, window: Window, kind: str, deidentify: str = "keep", uid_key: str | None = None
) -> list[tuple[str, Writer]]:
    """Names and writers of the slices of a scan as ``"dicom"`` or ``"png"``."""
    if kind == "dicom":
        series = DerivedSeries(window, deidentify=deidentify, uid_key=uid_key)
        return [
            (series.file_name(number), partial(series.write, frame=frame, number=number))
            for number, frame in enumerate(scan.frames, 1)
        ]
    digits = max(4, len(str(len(scan))))
    write = partial(write_png, bits=picture_bits(scan), description=DESCRIPTION)
    return [(f"{number:0{digits}d}.png", write) for number in range(1, len(scan) + 1)]


def finish_slice(write: Writer, path: Path, image: np.ndarray, *details: Any) -> dict[str, float]:
    """Writes one slice; gives :func:`facts_of` it. Runs in a worker."""
    with writing(path):
        write(image, path)
    return facts_of(image, *details)


def facts_of(
    generated: np.ndarray, pixels: np.ndarray, window: Window, units: str, measured: bool = True
) -> dict[str, float]:
    """Shares of pixels ``below`` and ``above`` the window; where measured, the ``structure``."""
    from tfstyle.data.body import body_mask
    from tfstyle.metrics.preservation import structure_similarity

    found = {
        "below": float(np.mean(pixels < window.lower)),
        "above": float(np.mean(pixels > window.upper)),
    }
    if measured and min(pixels.shape) >= 11:
        mask = body_mask(pixels) if units == "HU" else None
        structure = structure_similarity(window.to_unit(pixels), generated, mask)
        if np.isfinite(structure):
            found["structure"] = structure
    return found


def structure_of(scan: Scan, window: Window, generated: np.ndarray) -> float | None:
    """The median structure of up to ``MEASURED_SLICES`` slices; None where it is not defined."""
    measured = measured_slices(len(scan))
    return median_structure(
        [facts_of(generated[i], scan.pixels[i], window, scan.units) for i in measured]
    )


def measured_slices(count: int) -> set[int]:
    """Slices that are measured: up to ``MEASURED_SLICES``, evenly spread."""
    return set(np.linspace(0, count - 1, MEASURED_SLICES).round().astype(int).tolist())


def median_structure(facts: Sequence[dict[str, float]]) -> float | None:
    """The median over slices; None where no slice says it."""
    values = [one["structure"] for one in facts if "structure" in one]
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
    """Writes generated images as ``"dicom"``, into a new folder, ``"nifti"``, or one ``"png"``."""
    if kind == "dicom":
        write_derived_series(
            scan, generated, window, target, deidentify=deidentify, uid_key=uid_key
        )
    elif kind == "nifti":
        write_nifti(generated, scan, window, target, description=DESCRIPTION)
    else:
        write_png(generated[0], target, bits=picture_bits(scan), description=DESCRIPTION)


def step_of(scan: Scan, window: Window, kind: str) -> float:
    """Distance between two neighboring values that a result can hold, in units of the scan."""
    if kind == "nifti":
        return 1.0 if scan.units == "HU" else 0.0
    return window.width / (LEVELS if kind == "dicom" else 2 ** picture_bits(scan) - 1)


def picture_bits(scan: Scan) -> int:
    """Depth of the PNG files made from a scan."""
    return 16 if scan.units == "gray" and scan.pixels.dtype == np.uint16 else 8


def source_kind(scan: Scan) -> str:
    """``"png"``, ``"nifti"`` or ``"dicom"``, by the files that a scan came from."""
    if scan.units == "gray":
        return "png"
    return "nifti" if scan.files and scan.files[0].lower().endswith(NIFTI) else "dicom"


def output_kind(scan: Scan, output_format: str, auto: str) -> str:
    """What a scan is written as, `auto` by default; an ArgumentError if it cannot be."""
    kind = auto if output_format == "auto" else output_format
    if kind.startswith("dicom") and not scan.frames:
        raise ArgumentError(
            f"output_format: {scan.name} was not read from DICOM, of which {kind} is derived; use "
            "'nifti' or 'png'."
        )
    if kind == "nifti" and scan.units == "gray":
        raise ArgumentError(f"output_format: {scan.name} is a picture without geometry; use 'png'.")
    return kind


def is_one_file(scan: Scan, kind: str) -> bool:
    """Whether a scan is written as one file, and not as a folder of slices."""
    return kind == "nifti" or (kind == "png" and len(scan) == 1)
