"""Where stylized slices go: files written by several processes, folders that appear when complete.

A series is written slice by slice into a hidden folder beside its place, ``.NAME.partial``, and
renamed when its last slice is there. Beside the slices the folder keeps what was measured on each,
so that a run that was killed goes on with the slices that are missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from tfstyle._private.files import (
    is_inside,
    parse_json,
    read_json,
    read_limited,
    remove_abandoned,
    write_atomically,
)
from tfstyle.data.dicom import Frame
from tfstyle.data.dicom.write import DerivedSeries, is_identity, write_derived_series
from tfstyle.data.layouts import DESCRIPTION
from tfstyle.data.nifti import write_nifti
from tfstyle.data.png import write_png
from tfstyle.data.read import read_scans
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import OutputError

#: Slices from which on other processes decode and write. Starting them takes about a second.
MANY_SLICES = 32

#: Slices of a scan that are measured, at most, evenly spread.
MEASURED_SLICES = 16

_JOB, _ACCOUNT, _LOCK, _SLICES = "job.json", "account.jsonl", "lock", "slices"


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


def finish_slice(task: tuple, image: np.ndarray, path: Path, facts: dict, measured) -> dict:
    """Writes one slice under a temporary name, renames it, and notes it; runs in a worker.

    The worker itself notes in the folder's account that the slice is finished, so that nothing
    finished is lost if the main process is killed.

    Args:
        task: A writer's.
        image: Generated image, float32 (rows, columns) in [0, 1].
        path: The slice's file, of :meth:`SliceFolder.path`.
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
        # One write to a file opened for appending: lines of several workers do not mix.
        account = os.open(path.parent.parent / _ACCOUNT, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(account, (json.dumps(facts) + "\n").encode())
        finally:
            os.close(account)
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


# Where the slices of one scan are gathered -------------------------------------------------------


class SliceFolder:
    """A folder of one file a slice that appears when complete and outlives an interruption.

    Args:
        target: The folder to make; it may exist if it is empty.
        job: Text that tells this work from other work, or None if it cannot be continued.

    Attributes:
        done: Facts of the slices that an earlier run finished, by slice number from 0.
        state: What :meth:`begin` of that run was given; empty for a new one.

    Raises:
        OutputError: If the folder cannot be written, or another process is writing it.
    """

    def __init__(self, target: Path, job: str | None = None):
        self.target, self.job = target, job
        self.partial = target.with_name(f".{target.name}.partial")
        self.done: dict[int, dict] = {}
        self.state: dict = {}
        self._lock = None
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            if not is_inside(target.parent, self.partial / _SLICES):
                raise OutputError(self.partial, f"a link leads out of {target.parent}; remove it.")
            self._lock = open(self.partial / _LOCK, "w")  # noqa: SIM115 - held till close()
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise OutputError(target, "is being written by another process.") from None
            if not self._resume():
                self._clear()
        except OSError as error:
            raise OutputError.of(target, error) from error

    def _resume(self) -> bool:
        """Takes up what an earlier run of the same job left; False if there is nothing."""
        try:
            found = read_json(self.partial / _JOB)
            account = read_limited(self.partial / _ACCOUNT, "manifest_bytes")
        except (OSError, ValueError):
            return False
        if not isinstance(found, dict) or self.job is None or found.get("job") != self.job:
            return False
        self.state = found.get("state")
        if self.state != {} and not is_identity(self.state):
            self.state = {}
            return False
        for line in account.decode("utf-8", "replace").splitlines():
            try:
                facts = parse_json(line)
                if _is_account(facts) and (self.partial / _SLICES / facts["file"]).is_file():
                    self.done[facts["slice"]] = facts
            except (ValueError, OSError):
                continue  # the line at which the run was killed
        # What the run that was killed had not finished.
        remove_abandoned(self.partial)
        finished = {facts["file"] for facts in self.done.values()}
        for file in (self.partial / _SLICES).glob("*"):
            if file.name not in finished:
                file.unlink()
        return True

    def _clear(self) -> None:
        shutil.rmtree(self.partial / _SLICES, ignore_errors=True)
        remove_abandoned(self.partial)
        for name in (_JOB, _ACCOUNT):
            (self.partial / name).unlink(missing_ok=True)

    def begin(self, names: Sequence[str], state: dict) -> None:
        """Says how the slices will be called, and what a later run needs to go on."""
        self.names = names
        self.done = {
            index: facts
            for index, facts in self.done.items()
            if 0 <= index < len(names) and facts["file"] == names[index]
        }
        (self.partial / _SLICES).mkdir(exist_ok=True)
        write_atomically(
            self.partial / _JOB, json.dumps({"job": self.job, "state": state}).encode()
        )
        # A line that a killed run left unfinished would swallow the next.
        lines = "".join(json.dumps(facts) + "\n" for facts in self.done.values())
        write_atomically(self.partial / _ACCOUNT, lines.encode())

    def path(self, index: int) -> Path:
        """Where slice `index` is to be written."""
        return self.partial / _SLICES / self.names[index]

    def add(self, facts: dict) -> None:
        """Takes in what :func:`finish_slice` gave."""
        self.done[facts["slice"]] = facts

    def files(self) -> list[Path]:
        """The files as :meth:`publish` will call them."""
        return [self.target / name for name in self.names]

    def publish(self) -> None:
        """Gives the complete folder its name."""
        try:
            os.rename(self.partial / _SLICES, self.target)  # replaces an empty folder
        except OSError as error:
            raise OutputError.of(self.target, error) from error
        self.close()
        shutil.rmtree(self.partial, ignore_errors=True)

    @staticmethod
    def remove_rest(target: Path) -> None:
        """Removes what a run left beside a folder if it was killed when it had just named it."""
        partial = target.with_name(f".{target.name}.partial")
        if partial.is_dir() and not (partial / _SLICES).exists():
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Leaves the folder as it is: for a later run, or removed if none can go on with it."""
        if self._lock is not None:
            self._lock.close()
        if self.job is None or not self.done:
            shutil.rmtree(self.partial, ignore_errors=True)


def _is_account(facts: object) -> bool:
    """Whether a line of the account says all that :func:`finish_slice` notes of a slice."""
    if not isinstance(facts, dict) or not isinstance(facts.get("file"), str):
        return False
    figures = {key: value for key, value in facts.items() if key != "file"}
    return (
        type(facts.get("slice")) is int
        and {"step", "error", "below", "above"} <= figures.keys()
        and all(isinstance(value, (int, float)) for value in figures.values())
        and Path(facts["file"]).name == facts["file"]  # not a path that leads elsewhere
    )


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
    "SliceFolder",
    "finish_slice",
    "measure",
    "measure_scan",
    "measured_slices",
    "median",
    "picture_bits",
    "start_workers",
    "write_generated",
]
