"""Whole scans in, whole scans out: read, window, stylize in batches, write, and give account.

The command ``tfstyle stylize`` is a thin layer over :func:`stylize_scans`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path

import numpy as np

from tfstyle import __version__
from tfstyle.baselines import Baseline
from tfstyle.data import DicomSeries, Scan, Window, read_scans, resolve_window
from tfstyle.data.dicom import read_frame, source_frames
from tfstyle.data.dicom.deidentify import check_burned_in, check_profile, new_key
from tfstyle.data.dicom.write import is_identity
from tfstyle.data.layouts import is_result
from tfstyle.errors import ArgumentError, OutputError, WorkerError
from tfstyle.files import is_inside, read_json, remove, temporary_beside, write_atomically
from tfstyle.images import check_batch_size, check_strength
from tfstyle.runs.folder import RunFolder, files_digest, inside, read_rows
from tfstyle.runs.manifest import rounded
from tfstyle.runs.outputs import (
    DicomSlices,
    OneFile,
    PngSlices,
    finish_slice,
    measure,
    measured_slices,
    median,
    picture_bits,
    start_workers,
)
from tfstyle.runs.sources import Source, free_name
from tfstyle.style_bank import levels_of
from tfstyle.stylizers import (
    ScanTransfer,
    ServedStylizer,
    Stylizer,
    encode_style,
    read_slices,
    style_image,
)
from tfstyle.tone.model import LOW_CONFIDENCE

log = logging.getLogger(__name__)

FORMATS = ("auto", "dicom", "nifti", "png")

#: Folder in the output folder: a run folder for each result, which says what was done.
RECORDS = ".tfstyle"

#: File in it: the key of new UIDs, while a run with ``deidentify="basic"`` is not finished.
UID_KEY = "uid_key"

_RECORD, _JOURNAL, _SLICES = "job.json", "slices.jsonl", "slices"

#: Called as ``progress(done, total, label)`` after each batch, counting slices.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class StylizedScan:
    """What was done to one scan.

    Attributes:
        source: Name of the scan read.
        files: Files written, in slice order.
        slices: Number of slices.
        size: Rows and columns.
        units: ``"HU"``, ``"US"`` or ``"gray"``; see :class:`tfstyle.data.Scan`.
        window: Window of the content, in `units`: what became [0, 1] and back.
        clipped_below: Share of the source's pixels below the window, which became black.
        clipped_above: Share of the source's pixels above the window, which became white.
        quantisation: Distance between two neighbouring values that the output can hold, in
            `units`.
        round_trip: Largest difference between the generated gray levels and those read back
            from the written files through `window`, in [0, 1].
        style_windows: Windows of the styles, in their own units.
        confidence: How well the styles show what the scan shows, from 0 to 1, see
            :meth:`tfstyle.ToneTransfer.confidence`; None for models that do not tell.
        distance_before: Wasserstein distance between the histograms of content and style, the
            median over up to 16 slices; None for several styles. How near the histograms are says
            little about how right the gray scale is.
        distance_after: The same between generated and style.
        structure: Structure term of SSIM between content and generated, the median over up to
            16 slices; None where no slice has anything to compare.
        seconds: Time of the model or the server, without reading and writing.
        resumed: Slices that an earlier, interrupted run of the same work had finished.
    """

    source: str
    files: tuple[str, ...]
    slices: int
    size: tuple[int, int]
    units: str
    window: Window
    clipped_below: float
    clipped_above: float
    quantisation: float
    round_trip: float
    style_windows: tuple[Window, ...]
    confidence: float | None
    distance_before: float | None
    distance_after: float | None
    structure: float | None
    seconds: float
    resumed: int = 0

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict) -> StylizedScan:
        """What :meth:`as_dict` gave, also after a way through JSON."""
        facts = {key: facts[key] for key in (field.name for field in fields(cls))}
        facts["window"] = Window(**facts["window"])
        facts["style_windows"] = tuple(Window(**one) for one in facts["style_windows"])
        facts["files"], facts["size"] = tuple(facts["files"]), tuple(facts["size"])
        return cls(**facts)


def stylize_scans(
    stylizer: Stylizer,
    inputs: Sequence[str | os.PathLike],
    styles: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    window: str | Window = "auto",
    style_window: str | Window = "auto",
    series: str | None = None,
    style_series: str | None = None,
    style_slice: int | None = None,
    style_weights: Sequence[float] | None = None,
    strength: float = 1.0,
    output_format: str = "auto",
    batch_size: int = 8,
    workers: int | None = None,
    deidentify: str = "keep",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[StylizedScan]:
    """Gives scans the gray scale of other scans and writes the results.

    A DICOM series becomes a folder with a derived series, NIfTI a ``.nii.gz`` in the source's
    units, PNG a PNG of the source's depth. The generated gray levels go back to the source's
    units through the window of the content: they show as generated in that window, and are no
    measurement. Results that lie among the inputs are left out.

    The slices of a DICOM series are read, generated and written at the same time, by several
    processes where there are many, and a series of any length takes the memory of some dozens of
    slices. A run that was stopped, even killed, resumes when it is started again with the same
    inputs, options and model: what is finished stays, and no slice is generated twice. This holds
    for folders of slices and a local model; until then finished slices lie in the hidden folder
    ``.tfstyle`` of the output.

    Args:
        stylizer: A :class:`tfstyle.ToneTransfer`, which gives every scan one curve; a
            :class:`tfstyle.StyleTransfer`, :class:`ServedStylizer`, or one of
            ``tfstyle.baselines``, which treat slices one by one.
        inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them.
        styles: Scans with the gray scale wanted; several are blended. A
            :class:`tfstyle.ToneTransfer` looks at up to 16 slices of each, evenly spread, other
            models at one. May be empty for a baseline that needs none.
        output: Folder for the results; for one input that gives one file, that file's name.
        window: Window of the contents, see :func:`tfstyle.data.resolve_window`.
        style_window: Window of the styles.
        series: Only this series of the inputs, see :func:`tfstyle.data.read_scans`.
        style_series: The series to take from a style folder that holds several.
        style_slice: The one slice of the style scans to take, from 0; negative counts from the
            end. Defaults to several for a ``ToneTransfer``, the middle one for other models.
        style_weights: One weight for each style.
        strength: 0 keeps the content's gray scale, 1 takes the style's.
        output_format: ``"auto"`` (as the input), ``"dicom"`` (DICOM input only), ``"nifti"`` or
            ``"png"`` (8 bits, one file a slice, for viewing).
        batch_size: Slices a call.
        workers: Processes that read and write slices; 0 does all in this process, None chooses by
            the number of slices and of CPUs.
        deidentify: ``"keep"``: derived DICOM carries the source's attributes of patient, study,
            place and staff, and results have the names of their sources. ``"basic"``: derived DICOM
            goes through :mod:`tfstyle.data.dicom.deidentify`, UIDs alike over the whole run,
            and results are called ``scan-0001``, … in reading order.
        overwrite: Replace earlier results of tfstyle that have the names of the new ones. Without
            it, and for files that tfstyle did not make, an output that exists is refused.
        progress: Called after each batch.

    Returns:
        One account for each scan, in reading order.

    Raises:
        ArgumentError: An option that does not suit the scans.
        InputFileError: A file that cannot be read, or with ``"basic"`` one whose header says that
            its pixels hold text.
        OutputError: An output that exists already or cannot be written.
        ServingError: From a served model.
        WorkerError: If a process that reads and writes slices was killed.

    Example:
        >>> model = tfstyle.from_preset()
        >>> stylize_scans(model, ["ct_series/"], ["reference.dcm"], "out/", window="soft_tissue")
    """
    check_profile(deidentify)
    if workers is not None and workers < 0:
        raise ArgumentError(f"workers: must be at least 0, received {workers}.")
    options = StylizeOptions(
        window=window,
        style_window=style_window,
        style_series=style_series,
        style_slice=style_slice,
        style_weights=style_weights,
        strength=strength,
        output_format=output_format,
        batch_size=batch_size,
    )
    options.check(stylizer, styles)
    output = Path(output)
    inputs = _without_own_results(inputs, output)
    scans = [scan for path in inputs for scan in read_scans(path, series=series, lazy=True)]
    if not scans:
        raise ArgumentError("inputs: at least one input scan is needed.")
    basic = deidentify == "basic"
    for frame in chain(*(scan.frames for scan in scans)) if basic else ():
        check_burned_in(frame.BurnedInAnnotation, frame.path)
    windows = [resolve_window(window, scan) for scan in scans]
    work = replace(options.work(stylizer, styles), deidentify=deidentify)
    kinds = [output_kind(scan, output_format) for scan in scans]
    targets = _targets(scans, kinds, output, basic)
    # For an output that is one file, nothing is kept beside it.
    jobs = [
        None if target == output else work.job(scan, used, kind)
        for scan, used, kind, target in zip(scans, windows, kinds, targets)
    ]
    results = [_finished(target, job) for target, job in zip(targets, jobs)]
    _check_free([target for target, result in zip(targets, results) if not result], overwrite)
    if basic and "dicom" in kinds:
        work = replace(work, uid_key=_uid_key(output))
    total = sum(map(len, scans))
    done = sum(len(scan) for scan, result in zip(scans, results) if result is not None)
    with start_workers(total - done, workers) as pool:
        for i, (scan, used, kind) in enumerate(zip(scans, windows, kinds)):
            if results[i] is not None:
                log.info("%s: finished by an earlier run, %s", scan.name, targets[i])
                continue

            def advance(count: int, name: str = scan.name) -> None:
                nonlocal done
                done += count
                if progress is not None:
                    progress(done, total, name)

            try:
                results[i] = work.run(scan, used, kind, targets[i], jobs[i], pool, advance)
            except Exception as error:
                if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool"):
                    raise WorkerError(
                        "a process that reads and writes slices was killed, perhaps for want of "
                        "memory; give the same command again, with fewer workers if need be"
                    ) from error
                raise
            log.info("%s: wrote %d files, %s", scan.name, len(results[i].files), targets[i])
    if work.uid_key is not None:
        (output / RECORDS / UID_KEY).unlink(missing_ok=True)
    return [replace(result, source=scan.name) for scan, result in zip(scans, results)]


@dataclass(frozen=True)
class StylizeOptions:
    """The options of :func:`stylize_scans` that say what is done, and not by how many workers."""

    window: str | Window = "auto"
    style_window: str | Window = "auto"
    style_series: str | None = None
    style_slice: int | None = None
    style_weights: Sequence[float] | None = None
    strength: float = 1.0
    output_format: str = "auto"
    batch_size: int = 8

    def check(self, stylizer: Stylizer, styles: Sequence[str | os.PathLike]) -> None:
        """Refuses what cannot be used.

        Raises:
            ArgumentError: Naming the option.
        """
        if self.output_format not in FORMATS:
            raise ArgumentError(
                f"output_format: unknown value {self.output_format!r}; use one of "
                f"{', '.join(FORMATS)}."
            )
        if not styles and not (isinstance(stylizer, Baseline) and not stylizer.needs_style):
            raise ArgumentError("styles: at least one style scan is needed.")
        weights = self.style_weights
        if weights is not None and len(weights) != len(styles):
            raise ArgumentError(
                f"style_weights: {len(weights)} weights for {len(styles)} styles; give one each."
            )
        check_batch_size(self.batch_size)
        check_strength(self.strength)

    def work(self, stylizer: Stylizer, styles: Sequence[str | os.PathLike]) -> StylizeWork:
        """Reads and encodes the styles.

        Raises:
            ArgumentError, InputFileError: If a style cannot be used.
        """
        taken = [
            encode_style(stylizer, path, self.style_window, self.style_slice, self.style_series)
            for path in styles
        ]
        return StylizeWork(
            stylizer=stylizer,
            options=self,
            codes=[code for code, _, _ in taken],
            levels=[levels_of(images) for _, images, _ in taken],
            style_windows=tuple(window for _, _, window in taken),
            model=stylizer.fingerprint() if hasattr(stylizer, "fingerprint") else None,
        )


@dataclass(frozen=True)
class StylizeWork:
    """What is the same for all scans of a run.

    Attributes:
        stylizer: The model.
        options: Options.
        codes: Code of each style, or the style.
        levels: Gray levels of each style, for distances.
        style_windows: Windows of the styles.
        model: Fingerprint of the model, None where it cannot be told from others.
        deidentify: See :func:`stylize_scans`.
        uid_key: Key of new UIDs; not part of the job, since it is new in each run.
    """

    stylizer: Stylizer | None
    options: StylizeOptions
    codes: list[np.ndarray]
    levels: list[np.ndarray]
    style_windows: tuple[Window, ...]
    model: str | None
    deidentify: str = "keep"
    uid_key: str | None = None

    @property
    def style_weights(self) -> Sequence[float] | None:
        """Weights of several styles."""
        return self.options.style_weights if len(self.codes) > 1 else None

    def job(self, scan: Scan | DicomSeries, window: Window, kind: str) -> str | None:
        """Tells this work on a scan from any other; None where the model cannot be told."""
        if self.model is None:
            return None
        return files_digest(
            scan.files,
            __version__,
            self.model,
            [hashlib.sha256(code.tobytes()).hexdigest() for code in self.codes],
            None if self.style_weights is None else list(map(float, self.style_weights)),
            [self.options.strength, window.centre, window.width, kind],
            self.deidentify,
            scan.name,
            [frame.index for frame in scan.frames],
        )

    def run(
        self,
        scan: Scan | DicomSeries,
        window: Window,
        kind: str,
        target: Path,
        job: str | None,
        pool: Executor,
        advance: Callable[[int], None],
    ) -> StylizedScan:
        """Stylizes one scan; what `target` holds is replaced.

        Args:
            scan: The scan.
            window: Its window.
            kind: ``"dicom"``, ``"nifti"`` or ``"png"``.
            target: The file or folder to make.
            job: Of :meth:`job`; None keeps nothing for a later run.
            pool: Reads and writes slices.
            advance: Called with the number of slices that are done.

        Raises:
            OutputError: If something cannot be written.
        """
        try:
            with _place(target, job) as run:
                if kind == "nifti" or (kind == "png" and len(scan) == 1):
                    made, result = self._one_file(run, scan, window, kind, target, pool, advance)
                else:
                    made, result = self._folder(run, scan, window, kind, target, pool, advance)
                # Noted first: what has its name is known to be finished.
                public = result
                if self.deidentify == "basic":  # scans may have the names of patients
                    public = replace(result, source=target.name)
                note = {"result": public.as_dict()}
                run.add(note)
                if made.is_dir():
                    remove(target)
                os.replace(made, target)
                run.keep([note])
        except OSError as error:
            raise OutputError.of(target, error) from error
        return result

    def _transfer(self, scan: Scan | DicomSeries, window: Window, pool: Executor) -> ScanTransfer:
        transfer = ScanTransfer(
            self.stylizer,
            len(scan),
            lambda indices: window.to_unit(read_slices(scan, indices, pool))[..., None],
            self.codes[0] if len(self.codes) == 1 else self.codes or None,
            self.options.strength,
            self.style_weights,
            self.options.batch_size,
        )
        if transfer.confidence is not None and transfer.confidence < LOW_CONFIDENCE:
            log.warning(
                "%s: low confidence (%.2f): the style shows little that is comparable with it; "
                "choose another slice or scan as style.",
                scan.name,
                transfer.confidence,
            )
        return transfer

    def _folder(
        self,
        run: RunFolder,
        scan: Scan | DicomSeries,
        window: Window,
        kind: str,
        target: Path,
        pool: Executor,
        advance: Callable[[int], None],
    ) -> tuple[Path, StylizedScan]:
        """A file a slice, in a folder that outlives an interruption."""
        state = next((row["state"] for row in run.rows if is_identity(row.get("state"))), None)
        if kind == "dicom":
            frames = scan.frames or source_frames(scan.files)
            writer = DicomSlices(frames, window, state, self.deidentify, self.uid_key)
        else:
            bits = 8 if isinstance(scan, DicomSeries) else picture_bits(scan)
            writer = PngSlices(len(scan), window, bits)
        slices = run.path / _SLICES
        done = {}
        if kind != "dicom" or state is not None:
            done = {row["slice"]: row for row in run.rows if _is_slice(row, writer.names, slices)}
        slices.mkdir(exist_ok=True)
        for file in {*os.listdir(slices)} - {row["file"] for row in done.values()}:
            remove(slices / file)
        run.keep([{"state": writer.state}, *done.values()])
        resumed = len(done)
        if resumed:
            advance(resumed)
            log.info("%s: resumes, %d slices are there", scan.name, resumed)
        transfer = self._transfer(scan, window, pool)
        measured = measured_slices(len(scan))
        writing: deque[Future] = deque()

        def collect(most: int) -> None:
            while writing and (len(writing) > most or writing[0].done()):
                facts = writing.popleft().result()
                done[facts["slice"]] = facts

        try:
            for wanted, pixels in _read_ahead(scan, self._parts(len(scan), done), pool):
                generated = transfer(window.to_unit(pixels)[..., None])[..., 0]
                for i, content, image in zip(wanted, pixels, generated):
                    details = (content, window, scan.units, self.levels)
                    writing.append(
                        pool.submit(
                            finish_slice,
                            writer.task(i),
                            image,
                            slices / writer.names[i],
                            run.journal,
                            {"slice": i, **_clipped(content, window)},
                            details if i in measured else None,
                        )
                    )
                advance(len(wanted))
                # What is written lags behind by one part at most, and so does the memory.
                collect(len(wanted))
            collect(0)
        except BaseException:
            for future in writing:
                future.cancel()
            wait([future for future in writing if not future.cancelled()], timeout=60)
            raise
        files = [target / name for name in writer.names]
        facts = [done[i] for i in range(len(scan))]
        return slices, self._account(scan, window, transfer, files, facts, resumed)

    def _parts(self, count: int, done: Collection[int] = ()) -> list[list[int]]:
        """Slices to do, call by call."""
        todo, size = [i for i in range(count) if i not in done], self.options.batch_size
        return [todo[i : i + size] for i in range(0, len(todo), size)]

    def _one_file(
        self,
        run: RunFolder,
        scan: Scan | DicomSeries,
        window: Window,
        kind: str,
        target: Path,
        pool: Executor,
        advance: Callable[[int], None],
    ) -> tuple[Path, StylizedScan]:
        if isinstance(scan, DicomSeries):
            scan = scan.load()
        output = OneFile(scan, window, kind)
        transfer = self._transfer(scan, window, pool)
        for wanted in self._parts(len(scan)):
            images = window.to_unit(scan.pixels[wanted])[..., None]
            output.unit[wanted] = transfer(images)[..., 0]
            advance(len(wanted))
        step, error = output.write(run.path / target.name)
        facts = [{"step": step, "error": error, **_clipped(one, window)} for one in scan.pixels]
        for i in measured_slices(len(scan)):
            found = measure(scan.pixels[i], output.unit[i], window, scan.units, self.levels)
            facts[i].update(found)
        made = run.path / target.name
        return made, self._account(scan, window, transfer, [target], facts, 0)

    def _account(
        self,
        scan: Scan | DicomSeries,
        window: Window,
        transfer: ScanTransfer,
        files: Sequence[Path],
        facts: Sequence[dict],
        resumed: int,
    ) -> StylizedScan:
        return StylizedScan(
            source=scan.name,
            files=tuple(map(str, files)),
            slices=len(scan),
            size=tuple(scan.shape[1:]),
            units=scan.units,
            window=window,
            clipped_below=float(np.mean([one["below"] for one in facts])),
            clipped_above=float(np.mean([one["above"] for one in facts])),
            quantisation=max(one["step"] for one in facts),
            round_trip=max(one["error"] for one in facts),
            style_windows=self.style_windows,
            confidence=transfer.confidence,
            distance_before=median(facts, "before"),
            distance_after=median(facts, "after"),
            structure=median(facts, "structure"),
            seconds=transfer.seconds,
            resumed=resumed,
        )


@dataclass
class Stylization:
    """What stylizing does to each source of a set; the counterpart of ``Augmentation``.

    Args:
        network: The model.
        work: What is the same for all scans.
        output: Folder of the set.
    """

    network: Stylizer | None
    work: StylizeWork
    output: Path

    def rows(self, source: Source, done: Collection[tuple[int, int]] = ()) -> Iterator[dict]:
        """Does one source, scan by scan.

        Args:
            source: The source.
            done: (part, 1) of the scans that are there.

        Yields:
            The row of each scan as soon as it is written; one row if the source holds none.

        Raises:
            ArgumentError, InputFileError: If the source cannot be used.
            OutputError: If something cannot be written.
        """
        work = replace(self.work, stylizer=self.network)
        scans = source.files.read(lazy=True)
        if not scans:
            yield {"status": "left out", "source": source.name}
        for part, scan in enumerate(scans):
            if (part, 1) in done:
                continue
            window = resolve_window(work.options.window, scan)
            kind = output_kind(scan, work.options.output_format)
            stem = source.stem + (f"-part{part + 1}" if len(scans) > 1 else "")
            target = inside(self.output, self.output / f"{stem}{_ending(scan, kind)}")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError.of(target, error) from error
            pool = start_workers(len(scan), 0)
            result = work.run(scan, window, kind, target, None, pool, lambda count: None)
            yield {
                "status": "done",
                "source": source.name,
                "part": part,
                "parts": len(scans),
                "image": target.relative_to(self.output).as_posix(),
                "slices": result.slices,
                "window": [window.centre, window.width],
                "clipped_below": round(result.clipped_below, 6),
                "clipped_above": round(result.clipped_above, 6),
                "quantisation": result.quantisation,
                "round_trip": result.round_trip,
                "confidence": rounded(result.confidence),
                "structure": rounded(result.structure),
                "distance_before": rounded(result.distance_before),
                "distance_after": rounded(result.distance_after),
            }


@contextmanager
def _place(target: Path, job: str | None) -> Iterator[RunFolder]:
    """The run folder of a result, which stays for later runs of the same job."""
    with ExitStack() as stack:
        if job is None:
            place = stack.enter_context(temporary_beside(target, folder=True))
        else:
            place = inside(target.parent, target.parent / RECORDS / target.name)
            inside(place, place / _SLICES)
        run = RunFolder(place, {"job": job}, record=_RECORD, journal=_JOURNAL, restart=True)
        yield stack.enter_context(run)


def _clipped(pixels: np.ndarray, window: Window) -> dict:
    return {
        "below": float(np.mean(pixels < window.lower)),
        "above": float(np.mean(pixels > window.upper)),
    }


def _read_ahead(
    scan: Scan | DicomSeries, parts: Sequence[list[int]], pool: Executor
) -> Iterator[tuple[list[int], np.ndarray]]:
    """The parts with their pixels; while one is in use, the next is read."""
    if isinstance(scan, Scan):
        for part in parts:
            yield part, scan.pixels[part]
        return
    reading: deque[list[Future]] = deque()
    try:
        for k, part in enumerate(parts):
            for ordered in parts[k + len(reading) : k + 2]:
                reading.append([pool.submit(read_frame, scan.frames[i]) for i in ordered])
            yield part, np.stack([future.result() for future in reading.popleft()])
    finally:
        for future in chain(*reading):
            future.cancel()


def _without_own_results(
    inputs: Sequence[str | os.PathLike], output: Path
) -> Sequence[str | os.PathLike]:
    """Leaves out what an earlier run wrote, as the shell makes it of ``ct/*`` for ``-o ct/out``."""
    own = [
        path
        for path in inputs
        if is_inside(output, os.path.abspath(path))
        and (Path(path).resolve() == output.resolve() or is_result(path))
    ]
    if not own or len(own) == len(inputs):
        return inputs
    log.warning("Left out: %s, which tfstyle made.", ", ".join(map(str, own)))
    return [path for path in inputs if path not in own]


def _uid_key(output: Path) -> str:
    """The key of this run, or of the interrupted one that it resumes."""
    file = output / RECORDS / UID_KEY
    try:
        return file.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        key = new_key()
    except OSError as error:
        raise OutputError(file, f"cannot be read ({error.strerror}).") from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(file, error) from error
    write_atomically(file, key.encode(), private=True)
    return key


def _finished(target: Path, job: str | None) -> StylizedScan | None:
    """The account of an earlier run, if it did the same work."""
    place = target.parent / RECORDS / target.name
    try:
        if job is None or read_json(place / _RECORD)["job"] != job:
            return None
        found = next(
            row["result"] for row in reversed(read_rows(place / _JOURNAL)) if "result" in row
        )
        result = StylizedScan.from_dict(found)
        ours = all(
            is_inside(target.parent, os.path.abspath(file)) and os.path.isfile(file)
            for file in result.files
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, StopIteration):
        return None
    if not ours or not isinstance(result.slices, int):
        return None
    return replace(result, resumed=result.slices)


def _is_slice(row: dict, names: Sequence[str], slices: Path) -> bool:
    """Whether a row says all that :func:`finish_slice` notes of a slice, and its file is there."""
    figures = {key: value for key, value in row.items() if key != "file"}
    return (
        type(row.get("slice")) is int
        and {"step", "error", "below", "above"} <= figures.keys()
        and all(isinstance(value, (int, float)) for value in figures.values())
        and 0 <= row["slice"] < len(names)
        and row.get("file") == names[row["slice"]]
        and (slices / row["file"]).is_file()
    )


def source_kind(scan: Scan | DicomSeries) -> str:
    """``"png"``, ``"nifti"`` or ``"dicom"``, by the files that a scan came from."""
    if scan.units == "gray":
        return "png"
    first = scan.files[0].lower() if scan.files else ""
    return "nifti" if first.endswith((".nii", ".nii.gz")) else "dicom"


def output_kind(scan: Scan | DicomSeries, output_format: str) -> str:
    """What a scan is written as: ``"png"``, ``"nifti"`` or ``"dicom"``.

    Raises:
        ArgumentError: If it cannot be written in that format.
    """
    source = source_kind(scan)
    kind = source if output_format == "auto" else output_format
    if kind == "dicom" and source != "dicom":
        raise ArgumentError(
            f"output_format: {scan.name} is no DICOM, so there is no header to derive one from; "
            "use 'auto', 'nifti' or 'png'."
        )
    if kind == "nifti" and source == "png":
        raise ArgumentError(
            f"output_format: {scan.name} is a picture without units and geometry; use 'png'."
        )
    return kind


_SUFFIXES = {"nifti": (".nii", ".nii.gz"), "png": (".png",), "dicom": ()}


def _ending(scan: Scan | DicomSeries, kind: str) -> str:
    return {"dicom": "", "nifti": ".nii.gz", "png": ".png" if len(scan) == 1 else ""}[kind]


def _targets(
    scans: Sequence[Scan | DicomSeries], kinds: Sequence[str], output: Path, basic: bool
) -> list[Path]:
    """Chooses every output path by the scans' names, or their numbers, before any work."""
    name = output.name.lower()
    if not name.endswith((".nii", ".nii.gz", ".png", ".dcm")) or output.is_dir():
        targets, taken = [], set()
        for number, (scan, kind) in enumerate(zip(scans, kinds), 1):
            base = f"scan-{number:04d}" if basic else _file_name(scan.name)
            taken.add(label := free_name(base, taken))
            targets.append(output / f"{label}{_ending(scan, kind)}")
        return targets
    if len(scans) > 1:
        raise OutputError(output, f"is one file, but there are {len(scans)} scans; give a folder.")
    if not name.endswith(_SUFFIXES[kinds[0]] or "\0"):
        what = "a DICOM series is written into a folder; give a folder"
        if kinds[0] != "dicom":
            what = f"the name does not end in {' or '.join(_SUFFIXES[kinds[0]])}"
        raise OutputError(output, f"{what}, or choose another format.")
    if kinds[0] == "png" and len(scans[0]) > 1:
        raise OutputError(
            output,
            f"is one picture, but {scans[0].name} has {len(scans[0])} slices; give a folder.",
        )
    return [output]


def _check_free(targets: Sequence[Path], overwrite: bool) -> None:
    """Refuses outputs that are there, and a place that cannot be written."""
    for target in targets:
        files = list(target.rglob("*")) if target.is_dir() else [target]
        if not target.exists() or not files:
            continue
        if not overwrite:
            raise OutputError(
                target,
                "exists already and is not overwritten; choose another name, or overwrite it.",
            )
        if not all(map(is_result, files)):
            raise OutputError(target, "is not a result of tfstyle; choose another name.")
    try:
        for folder in {target.parent for target in targets}:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary_beside(folder / "stylized"):
                pass  # only to see that it can be made
    except OSError as error:
        raise OutputError.of(targets[0].parent, error) from error


def _file_name(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")
    return safe or "scan"


__all__ = [
    "Progress",
    "ServedStylizer",
    "StylizeOptions",
    "StylizeWork",
    "StylizedScan",
    "Stylizer",
    "output_kind",
    "source_kind",
    "style_image",
    "stylize_scans",
]
