"""Runs that many workers share: what there is to do, the pipeline that does it, the account."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tfstyle
from tfstyle import errors
from tfstyle._private.files import write_atomically
from tfstyle.augment_scans import (
    LOCK,
    MANIFEST,
    AugmentedSet,
    AugmentOptions,
    Manifest,
    Source,
    account,
    begin_augmentation,
    begin_set,
    check_places,
    failure_row,
    find_sources,
    relative_path,
    take_lock,
)
from tfstyle.beam.chunks import (
    FAILED,
    FOLDER,
    Task,
    name_results,
    write_chunks,
    write_work,
)
from tfstyle.beam.driver import ERROR, LOST
from tfstyle.errors import ArgumentError, InputFileError, OutputError, TfstyleError, WorkerError
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.stylize import Progress, StylizeOptions
from tfstyle.tone import ToneTransfer

log = logging.getLogger(__name__)

#: Names of runners that stand for processes of this machine.
LOCAL = ("DirectRunner", "FnApiRunner")

#: Starts of the local pipeline, one after the other, in which nothing is finished.
ATTEMPTS = 4

_LOG = "driver.log"


@dataclass(frozen=True)
class StylizedSet:
    """What :func:`stylize_scans` did.

    Attributes:
        manifest: The file that tells of every scan.
        written: Scans written by this run.
        kept: Scans that an earlier run had finished.
        failed: Inputs that could not be used, and why.
        left_out: Inputs that hold no scan: scout images, reports, label maps.
    """

    manifest: str
    written: int
    kept: int
    failed: dict[str, str]
    left_out: tuple[str, ...]

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)


def augment_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    *,
    beam_options: Sequence[str] = (),
    progress: Progress | None = None,
    **options: Any,
) -> AugmentedSet:
    """:func:`tfstyle.augment_scans.augment_scans` by the workers of a Beam runner.

    Files, manifest and their content are the same, and each of the two goes on where the other
    was stopped. Each image is there once, however often the work on it was begun: names depend on
    the source and the copy alone, files get theirs when they are whole, and what an attempt has
    finished is noted beside the output, where the next one reads it.

    An input that fails stops nothing. It is named with its reason in the manifest, and in
    :data:`FAILED` beside it; so is a source at which workers were killed three times. The local
    runner is started again after the loss of a worker; others do this by themselves.

    Inputs, masks and output must be paths that all workers see.

    Args:
        network: The model.
        inputs: See :func:`tfstyle.augment_scans.augment_scans`.
        output: See there.
        styles: See there.
        beam_options: Options of the pipeline as on a command line, such as
            ``["--direct_num_workers=8"]`` or ``["--runner=FlinkRunner", "--flink_master=…"]``.
        progress: Called as ``progress(done, total, label)``, counting images.
        **options: ``per_image``, ``masks``, ``link_masks``, ``strength``, ``gate``, ``window``,
            ``seed``, ``batch_size`` and ``deidentify``, see there.

    Returns:
        An account.

    Raises:
        ArgumentError: Also if Beam is not installed, or does not know an option.
        InputFileError: See :func:`tfstyle.augment_scans.augment_scans`.
        OutputError: See there; also if another run is writing the output.
        WeightsError: See there.
        WorkerError: If workers are lost again and again, or the pipeline fails.

    Example:
        >>> augment_scans(model, "ct/", "out/", bank, beam_options=["--direct_num_workers=8"])
    """
    pipeline = _Pipeline(beam_options)
    chosen = AugmentOptions(**options)
    if chosen.masks is not None:
        chosen = replace(chosen, masks=os.path.abspath(chosen.masks))
    inputs, output = Path(os.path.abspath(inputs)), Path(os.path.abspath(output))
    _, sources, damaged = begin_augmentation(network, inputs, output, styles, chosen)
    named = [(str(inputs), source) for source in sources]
    run = _Run(output, named, chosen.per_image, pipeline, progress)
    with run:
        run.begin([(inputs, error) for error in damaged])
        if run.tasks:
            write_work(output, network, chosen, styles)
        rows = run.finish()
        return account(run.manifest, rows, sources, chosen, run.written, run.kept)


def stylize_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: Sequence[str | os.PathLike],
    styles: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    beam_options: Sequence[str] = (),
    progress: Progress | None = None,
    **options: Any,
) -> StylizedSet:
    """:func:`tfstyle.stylize.stylize_scans` by the workers of a Beam runner, scan by scan.

    Each scan becomes what the other function makes of it, byte for byte (but for the new UIDs of
    DICOM). Different is where it goes and what happens if it cannot be read: the output mirrors
    the input folder, since no folder holds millions of files well, and an input that fails is named
    and the others go on. ``output/manifest.jsonl`` has a line for each scan. See
    :func:`augment_scans` for retries, and for what runs after an interruption.

    Args:
        network: The model.
        inputs: Files, or folders of DICOM series, NIfTI and PNG; where there are several, the
            results of each go to a folder of its name.
        styles: See :func:`tfstyle.stylize.stylize_scans`; paths that all workers see.
        output: A new folder, or that of an earlier run.
        beam_options: See :func:`augment_scans`.
        progress: Called as ``progress(done, total, label)``, counting scans.
        **options: ``window``, ``style_window``, ``style_series``, ``style_slice``,
            ``style_weights``, ``strength``, ``output_format`` and ``batch_size``, see
            :func:`tfstyle.stylize.stylize_scans`.

    Returns:
        An account.

    Raises:
        ArgumentError: See :func:`augment_scans`.
        InputFileError: If an input folder or a style cannot be read.
        OutputError: See :func:`augment_scans`.
        WorkerError: See there.

    Example:
        >>> options = ["--direct_num_workers=8"]
        >>> stylize_scans(model, ["ct/"], ["b.dcm"], "out/", beam_options=options)
    """
    pipeline = _Pipeline(beam_options)
    styles = [os.path.abspath(path) for path in styles]
    chosen = StylizeOptions(**options)
    chosen.check(network, styles)
    output = Path(os.path.abspath(output))
    if not inputs:
        raise ArgumentError("inputs: at least one input scan is needed.")
    named, damaged = _find_all([Path(os.path.abspath(path)) for path in inputs], output)
    work = chosen.work(network, styles)
    settings = {key: value for key, value in asdict(chosen).items() if key != "batch_size"}
    begin_set(
        output,
        {
            "format": 1,
            "command": "stylize",
            **json.loads(json.dumps(settings)),
            "model": work.model,
            "styles": [hashlib.sha256(code.tobytes()).hexdigest()[:32] for code in work.codes],
        },
    )
    run = _Run(output, named, 1, pipeline, progress)
    with run:
        run.begin(damaged)
        if run.tasks:
            write_work(output, network, chosen, styles)
        rows = run.finish()
    return StylizedSet(
        manifest=str(output / MANIFEST),
        written=run.written,
        kept=run.kept,
        failed={row["source"]: row["reason"] for row in rows if row["status"] == "failed"},
        left_out=tuple(row["source"] for row in rows if row["status"] == "left out"),
    )


def check_options(options: Sequence[str]) -> None:
    """Finds out early whether a pipeline with these options can be run here.

    Args:
        options: As on a command line.

    Raises:
        ArgumentError: If Beam is not installed, or its local runner does not know an option.
    """
    _Pipeline(options)


def _find_all(
    inputs: Sequence[Path], output: Path
) -> tuple[list[tuple[str, Source]], list[tuple[Path, InputFileError]]]:
    """The sources of all inputs with their roots; behind each root's name if there are several."""
    sources, damaged, roots = [], [], set()
    for root in inputs:
        check_places(root, output, None)
        found, errors_here = find_sources(root)
        damaged.extend((root, error) for error in errors_here)
        if len(inputs) > 1 and root.is_dir():
            label, number = root.name or "input", 1
            while label in roots:
                number += 1
                label = f"{root.name}-{number}"
            roots.add(label)
            found = [
                replace(one, name=f"{label}/{one.name}", stem=f"{label}/{one.stem}")
                for one in found
            ]
        sources.extend((str(root), one) for one in found)
    different, names = {}, set()
    for root, one in sources:
        if one.files.files not in different:
            if one.name in names:  # of files of one name, given one by one
                one = replace(one, name=one.files.files[0])
            names.add(one.name)
            different[one.files.files] = root, one
    return name_results(list(different.values())), damaged


class _Run:
    """One run over an output folder, which no other may write meanwhile."""

    def __init__(
        self,
        output: Path,
        sources: Sequence[tuple[str, Source]],
        copies: int,
        pipeline: _Pipeline,
        progress: Progress | None,
    ):
        self.output, self.sources, self.copies = output, sources, copies
        self.pipeline, self.progress = pipeline, progress
        self.folder = output / FOLDER

    def __enter__(self) -> _Run:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = open(self.output / LOCK, "w")
        except OSError as error:
            raise OutputError.of(self.folder, error) from error
        take_lock(self._lock, self.output)
        return self

    def __exit__(self, *error) -> None:
        self._lock.close()

    def begin(self, damaged: Sequence[tuple[Path, InputFileError]]) -> None:
        """Takes in what earlier runs left, and finds out what is left to do."""
        with Manifest(self.output) as manifest:
            for root, error in damaged:
                manifest.add(failure_row(relative_path(error.path, root), error, root))
        self.manifest = manifest
        names = {source.name for _, source in self.sources}
        self.kept = manifest.count(names, self.copies)
        done = manifest.finished()
        self.tasks = [
            Task(source, root, frozenset(done.get(source.name, ())))
            for root, source in self.sources
            if not manifest.complete(source.name, self.copies)
        ]
        for name in ("chunks", ERROR):
            _remove(self.folder / name)

    def finish(self) -> list[dict]:
        """Runs the pipeline and joins what the workers noted; returns the manifest's rows."""
        if self.tasks:
            chunks = write_chunks(self.output, self.tasks, self.copies)
            total = len(self.sources) * self.copies
            there = total - len(self.tasks) * self.copies

            def report(count: int) -> None:
                if self.progress is not None:
                    self.progress(min(there + count, total), total, "")

            report(0)
            self.pipeline.run(self.output, chunks, report)
            self.manifest.absorb()
        rows = self.manifest.tidy()
        names = {source.name for _, source in self.sources}
        self.written = self.manifest.count(names, self.copies) - self.kept
        failed = [row for row in rows if row["status"] == "failed"]
        if failed:
            text = "".join(json.dumps(row) + "\n" for row in failed)
            write_atomically(self.output / FAILED, text.encode())
        else:
            _remove(self.output / FAILED)
        shutil.rmtree(self.folder, ignore_errors=True)
        return rows


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class _Pipeline:
    """Options of a pipeline, and the process that runs it.

    Args:
        options: As on a command line.

    Raises:
        ArgumentError: If Beam is not installed or does not know an option.
    """

    def __init__(self, options: Sequence[str]):
        if find_spec("apache_beam") is None:
            raise ArgumentError(
                "beam: needs the package apache-beam; install it: pip install 'tfstyle[beam]'."
            )
        self.options = list(options)
        with _complaints():
            from apache_beam.options.pipeline_options import (
                DirectOptions,
                PipelineOptions,
                StandardOptions,
            )

            parsed = PipelineOptions(self.options)
            known = parsed.get_all_options()
            runner = parsed.view_as(StandardOptions).runner
            direct = parsed.view_as(DirectOptions)
            workers, mode = direct.direct_num_workers, direct.direct_running_mode
            given = parsed.get_all_options(retain_unknown_options=True)
        self.local = runner is None or runner in LOCAL
        self.environment = dict(os.environ)
        if not self.local:
            return
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ArgumentError(
                f"beam: its local runner has no option {', '.join('--' + one for one in unknown)}; "
                "options of tfstyle itself go before --beam."
            )
        if workers < 0:
            raise ArgumentError(f"direct_num_workers: must be at least 0, received {workers}.")
        workers = workers or os.cpu_count() or 1
        # Beam's DirectRunner would look for another local runner on the internet first.
        self.options.append("--runner=FnApiRunner")
        if workers > 1:
            if mode == "in_memory":
                self.options.append("--direct_running_mode=multi_processing")
            if mode != "multi_threading":
                share = max(1, (os.cpu_count() or 1) // workers)
                self.environment.setdefault("TF_NUM_INTRAOP_THREADS", str(share))

    def run(self, output: Path, chunks: int, report: Any) -> None:
        """Runs the work to its end, by several attempts if need be.

        Raises:
            TfstyleError: The error of a worker.
            WorkerError: If the pipeline failed otherwise.
        """
        folder = output / FOLDER
        notes, attempts = _Notes(folder / "rows"), 0
        while attempts < ATTEMPTS:
            before = notes.count()
            status = self._drive(output, folder, chunks, lambda: report(notes.glance()))
            if status == 0:
                report(notes.count())
                return
            if not self.local or (status != LOST and status > 0):
                raise _failure(folder, status)
            attempts = attempts + 1 if notes.count() == before else 0
            log.warning("a worker was killed; what it had finished stays, the rest is begun anew")
        raise WorkerError(
            f"workers were killed {ATTEMPTS} times and finished nothing, perhaps for want of "
            "memory; give the same command again, with fewer workers if need be"
        )

    def _drive(self, output: Path, folder: Path, chunks: int, report: Any) -> int:
        """One attempt; returns the exit status of :mod:`tfstyle.beam.driver`."""
        place = str(Path(tfstyle.__file__).parent.parent)
        paths = [place, *filter(None, [self.environment.get("PYTHONPATH")])]
        shown = not self.local or log.isEnabledFor(logging.DEBUG)
        with open(folder / _LOG, "ab") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tfstyle.beam.driver"),
                    *(str(output), str(folder), str(chunks), str(os.getpid())),
                    *self.options,
                ],
                env=self.environment | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=None if shown else file,
                stderr=None if shown else file,
                start_new_session=True,
            )
            try:
                while True:
                    try:
                        return process.wait(timeout=1)
                    except subprocess.TimeoutExpired:
                        report()
            finally:
                # Its workers are of its group; none outlives it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class _Notes:
    """Counts what workers have noted, reading only what is new."""

    def __init__(self, folder: Path):
        self.folder, self.places, self.found, self.next = folder, {}, 0, 0.0

    def glance(self) -> int:
        """As :meth:`count`, or the last count where counting would take much of the time."""
        begin = time.monotonic()
        if begin >= self.next:
            self.count()
            now = time.monotonic()
            self.next = now + 20 * (now - begin)
        return self.found

    def count(self) -> int:
        """Outcomes that have been noted so far."""
        for path in self.folder.glob("*/*.jsonl"):
            place = self.places.get(path, 0)
            try:
                if os.path.getsize(path) == place:
                    continue
                with open(path, "rb") as file:
                    file.seek(place)
                    text = file.read()
            except OSError:
                continue
            whole = text.rfind(b"\n") + 1
            self.places[path] = place + whole
            self.found += len(
                re.findall(rb'^\{"status": "(?:done|failed|left out)"', text[:whole], re.M)
            )
        return self.found


def _failure(folder: Path, status: int) -> TfstyleError:
    """The error that ended a pipeline, by the last line of what Python printed."""
    try:
        text = (folder / ERROR).read_text(encoding="utf-8")
    except OSError:
        return WorkerError(f"the pipeline ended with status {status}; see {folder / _LOG}.")
    found = re.findall(r"tfstyle\.errors\.(\w+): (.*?)(?: \[while running .*)?$", text, re.M)
    if found:
        kind, message = found[-1]
        kind = getattr(errors, kind, WorkerError)
        if issubclass(kind, OutputError | InputFileError):
            path, _, problem = message.partition(": ")
            return kind(path, problem)
        return kind(message)
    last = text.strip().splitlines()[-1]
    return WorkerError(f"the pipeline failed ({last}); see {folder / _LOG}.")


@contextmanager
def _complaints() -> Iterator[None]:
    """Beam warns while it is imported; its parser ends the process at a wrong value."""
    logging.disable(logging.WARNING)
    with redirect_stderr(io.StringIO()) as printed:
        try:
            yield
        except SystemExit:
            lines = printed.getvalue().strip().splitlines() or [""]
            problem = lines[-1].partition("error: ")[2] or lines[-1]
            raise ArgumentError(f"beam: {problem}.") from None
        finally:
            logging.disable(logging.NOTSET)
