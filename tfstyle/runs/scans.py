"""One scan in, one scan out: stylize in batches, write, give account, and resume."""

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
from tfstyle._private.files import is_inside, read_json, remove, temporary_beside
from tfstyle._private.images import check_batch_size, check_strength
from tfstyle.baselines import Baseline
from tfstyle.data import Scan, Window, resolve_window
from tfstyle.data.dicom import read_frame
from tfstyle.data.dicom.write import is_identity
from tfstyle.errors import ArgumentError, OutputError
from tfstyle.runs.folder import RunFolder, files_digest, inside, read_rows
from tfstyle.runs.manifest import rounded
from tfstyle.runs.outputs import (
    DicomSlices,
    PngSlices,
    ending_of,
    facts_of,
    finish_slice,
    measured_slices,
    median,
    output_kind,
    picture_bits,
    start_workers,
    write_file,
)
from tfstyle.runs.sources import Source
from tfstyle.style_bank import levels_of
from tfstyle.stylizers import ScanTransfer, Stylizer, encode_style, read_slices
from tfstyle.tone.model import LOW_CONFIDENCE

log = logging.getLogger(__name__)

FORMATS = ("auto", "dicom", "nifti", "png")

#: Folder in the output folder: a run folder for each result, which says what was done.
RECORDS = ".tfstyle"

#: What the manifest has of an account, rounded.
_ROUNDED = ("clipped_below", "clipped_above", "confidence", "structure", "distance_before")
_ROUNDED += ("distance_after",)

_RECORD, _JOURNAL, _SLICES = "job.json", "slices.jsonl", "slices"


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

    def job(self, scan: Scan, window: Window, kind: str) -> str | None:
        """Tells this work on a scan from any other; None where the model cannot be told."""
        if self.model is None:
            return None
        return files_digest(
            scan.files,
            __version__,
            self.model,
            [hashlib.sha256(code.tobytes()).hexdigest() for code in self.codes],
            None if self.style_weights is None else list(map(float, self.style_weights)),
            [self.options.strength, window.center, window.width, kind],
            self.deidentify,
            scan.name,
            [frame.index for frame in scan.frames],
        )

    def run(
        self,
        scan: Scan,
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
        """
        whole = scan if scan.by_slice else scan.load()
        try:
            with _place(target, job) as run:
                if kind == "nifti" or (kind == "png" and len(scan) == 1):
                    made, result = self._one_file(
                        run, scan.load(), window, kind, target, pool, advance
                    )
                else:
                    made, result = self._folder(run, whole, window, kind, target, pool, advance)
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

    def _transfer(self, scan: Scan, window: Window, pool: Executor) -> ScanTransfer:
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
        scan: Scan,
        window: Window,
        kind: str,
        target: Path,
        pool: Executor,
        advance: Callable[[int], None],
    ) -> tuple[Path, StylizedScan]:
        """A file a slice, in a folder that outlives an interruption."""
        state = next((row["state"] for row in run.rows if is_identity(row.get("state"))), None)
        if kind == "dicom":
            writer = DicomSlices(scan.frames, window, state, self.deidentify, self.uid_key)
        else:
            writer = PngSlices(len(scan), window, picture_bits(scan))
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
                    details = (content, window, scan.units, self.levels if i in measured else None)
                    writing.append(
                        pool.submit(
                            finish_slice,
                            writer.task(i),
                            image,
                            slices / writer.names[i],
                            run.journal,
                            i,
                            details,
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
        scan: Scan,
        window: Window,
        kind: str,
        target: Path,
        pool: Executor,
        advance: Callable[[int], None],
    ) -> tuple[Path, StylizedScan]:
        transfer = self._transfer(scan, window, pool)
        unit, made = np.empty(scan.pixels.shape, np.float32), run.path / target.name
        for wanted in self._parts(len(scan)):
            unit[wanted] = transfer(window.to_unit(scan.pixels[wanted])[..., None])[..., 0]
            advance(len(wanted))
        step, error = write_file(scan, unit, window, kind, made)
        measured = measured_slices(len(scan))
        facts = [{"step": step, "error": error} for _ in unit]
        for i, one in enumerate(facts):
            levels = self.levels if i in measured else None
            one |= facts_of(unit[i], scan.pixels[i], window, scan.units, levels)
        return made, self._account(scan, window, transfer, [target], facts, 0)

    def _account(
        self,
        scan: Scan,
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
            stem = source.stem + (f"_{scan.stack}" if len(scans) > 1 else "")
            target = inside(self.output, self.output / f"{stem}{ending_of(scan, kind)}")
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
                "window": [window.center, window.width],
                "quantisation": result.quantisation,
                "round_trip": result.round_trip,
                **{name: rounded(getattr(result, name)) for name in _ROUNDED},
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


def _read_ahead(
    scan: Scan, parts: Sequence[list[int]], pool: Executor
) -> Iterator[tuple[list[int], np.ndarray]]:
    """The parts with their pixels; while one is in use, the next is read."""
    if not scan.by_slice:
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


def finished(target: Path, job: str | None) -> StylizedScan | None:
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
