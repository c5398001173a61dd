"""Runs that many workers share: what there is to do, the pipeline that does it, the account."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tfstyle import errors
from tfstyle._private.files import remove, write_atomically
from tfstyle.errors import ArgumentError, InputFileError, OutputError, TfstyleError, WorkerError
from tfstyle.runs.augment import AugmentedSet, account, begin
from tfstyle.runs.folder import read_rows
from tfstyle.runs.manifest import (
    BEAM,
    MANIFEST,
    SETTINGS,
    ManifestFolder,
    StylizedSet,
    failure_row,
    relative_path,
)
from tfstyle.runs.options import AugmentOptions, StylizeOptions
from tfstyle.runs.results import Progress
from tfstyle.runs.scans import Stylization, StylizeWork
from tfstyle.runs.sources import Source, check_places, find_all
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.tone import ToneTransfer

#: In the output folder: one JSON object a line for each input that failed.
FAILED = "failed.jsonl"

#: Names of runners that stand for processes of this machine.
LOCAL = ("DirectRunner", "FnApiRunner")


def augment_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    *,
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> AugmentedSet:
    """:func:`tfstyle.runs.augment.augment_scans` by the workers of a Beam runner.

    Files, manifest and their content are the same. Names depend on the source and the copy alone
    and files get theirs when they are whole, so that the retries of a runner are harmless. The same
    call after an interruption does the sources that are missing.

    An input that fails stops nothing. It is named with its reason in the manifest, and in
    :data:`FAILED` beside it.

    Inputs, masks and output must be paths that all workers see.

    Args:
        network: The model.
        inputs: See :func:`tfstyle.runs.augment.augment_scans`.
        output: See there.
        styles: See there.
        beam_options: Options of the pipeline as on a command line, such as
            ``["--direct_num_workers=8"]`` or ``["--runner=FlinkRunner", "--flink_master=…"]``.
        overwrite: See there.
        progress: Called as ``progress(done, total, label)`` before and after the pipeline,
            counting images; runners show on pages of their own how far they are.
        **options: See :class:`~tfstyle.runs.options.AugmentOptions`.

    Returns:
        An account.

    Raises:
        ArgumentError: Also if Beam is not installed, or does not know an option.
        InputFileError: See :func:`tfstyle.runs.augment.augment_scans`.
        OutputError: See there; also if another run is writing the output.
        WeightsError: See there.
        WorkerError: If the pipeline fails.

    Example:
        >>> augment_scans(model, "ct/", "out/", bank, beam_options=["--direct_num_workers=8"])
    """
    words = _parse(beam_options)
    chosen = AugmentOptions(**options)
    if chosen.masks is not None:
        chosen = replace(chosen, masks=os.path.abspath(chosen.masks))
    inputs, output = Path(os.path.abspath(inputs)), Path(os.path.abspath(output))
    with begin(network, inputs, output, styles, chosen, overwrite) as (manifest, work, sources):
        named = [(inputs, source) for source in sources]
        work = replace(work, uid_key=None)
        written, kept = _run(manifest, named, work, words, chosen.per_image, progress)
        return account(manifest, sources, chosen, written, kept)


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
    """:func:`tfstyle.runs.stylize.stylize_scans` by the workers of a Beam runner, scan by scan.

    Each scan becomes what the other function makes of it, byte for byte (but for the new UIDs of
    DICOM), and at the same place. An input that fails is named and the others continue.
    ``output/manifest.jsonl`` has a line for each scan. See :func:`augment_scans` for retries, and
    for what runs after an interruption.

    Args:
        network: The model.
        inputs: See :func:`tfstyle.runs.stylize.stylize_scans`.
        styles: See :func:`tfstyle.runs.stylize.stylize_scans`; paths that all workers see.
        output: A new folder, or that of an earlier run.
        beam_options: See :func:`augment_scans`.
        progress: See :func:`augment_scans`; counts scans.
        **options: See :class:`~tfstyle.runs.options.StylizeOptions`; ``deidentify`` stays "keep",
            since no runner is told a key of UIDs.

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
    words = _parse(beam_options)
    styles = [os.path.abspath(path) for path in styles]
    chosen = StylizeOptions(**options)
    if chosen.deidentify != "keep":
        raise ArgumentError(f"deidentify: must be 'keep', received {chosen.deidentify!r}.")
    output = Path(os.path.abspath(output))
    if not inputs:
        raise ArgumentError("inputs: at least one input scan is needed.")
    roots = [Path(os.path.abspath(path)) for path in inputs]
    for root in roots:
        check_places(root, output, None)
    named, damaged = find_all(roots, chosen.output_format, {MANIFEST, SETTINGS, FAILED})
    work = StylizeWork.begin(network, styles, chosen)
    settings = {key: value for key, value in asdict(chosen).items() if key != "batch_size"}
    codes = [hashlib.sha256(code.tobytes()).hexdigest() for code in work.codes]
    settings |= {"format": 1, "command": "stylize", "model": work.model, "styles": codes}
    with ManifestFolder(output, settings, what="set of stylized scans") as manifest:
        for root, error in damaged:
            manifest.add(failure_row(relative_path(error.path, root), error, root))
        stylization = Stylization(network, replace(work, stylizer=None), output)
        written, kept = _run(manifest, named, stylization, words, 1, progress)
        return StylizedSet(**manifest.account(written, kept))


def check_options(options: Sequence[str]) -> None:
    """Finds out early whether a pipeline with these options can be run here.

    Args:
        options: As on a command line.

    Raises:
        ArgumentError: If Beam is not installed, or its local runner does not know an option.
    """
    _parse(options)


def _run(
    manifest: ManifestFolder,
    sources: Sequence[tuple[Path, Source]],
    work: Any,
    options: list[str],
    copies: int,
    progress: Progress | None,
) -> tuple[int, int]:
    """Runs the pipeline over what is missing; returns how many were written and were there."""
    from tfstyle.beam.pipeline import DONE, FAILURES, MODEL, ROWS, SOURCES, source_line

    names = [source.name for _, source in sources]
    kept, total = manifest.count(names, copies), len(sources) * copies
    todo = [
        source_line(source, root, manifest.done.get(source.name, ()))
        for root, source in sources
        if not manifest.complete(source.name, copies)
    ]
    if progress is not None:
        progress(total - len(todo) * copies, total, "")
    folder = manifest.path / BEAM
    if todo:
        for path in (*folder.glob(f"{ROWS}*"), *folder.glob(f"{FAILURES}*")):
            remove(path)
        try:
            (folder / DONE).mkdir(parents=True, exist_ok=True)
            work.network.save(folder / MODEL, include_optimizer=False)
        except OSError as error:
            raise OutputError.of(folder, error) from error
        write_atomically(folder / SOURCES, "".join(todo).encode())
        _submit(folder, replace(work, network=None), work.network.fingerprint(), options)
        for name in (ROWS, FAILURES):
            for path in sorted(folder.glob(f"{name}*.jsonl")):
                for row in read_rows(path):
                    manifest.add(row)
    failed = [row for row in manifest.tidy() if row["status"] == "failed"]
    remove(manifest.path / FAILED)
    if failed:
        text = "".join(json.dumps(row) + "\n" for row in failed)
        write_atomically(manifest.path / FAILED, text.encode())
    remove(folder)
    if progress is not None:
        progress(total, total, "")
    return manifest.count(names, copies) - kept, kept


def _submit(folder: Path, work: Any, model: str, options: list[str]) -> None:
    """Runs the pipeline to its end.

    Raises:
        TfstyleError: The error of a worker.
        WorkerError: If the pipeline failed otherwise.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfstyle.beam.pipeline import build

    pipeline = beam.Pipeline(options=PipelineOptions(options))
    build(pipeline, folder, work, model)
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:
        raise _failure(str(error)) from error
    if state != "DONE":
        raise WorkerError(f"the pipeline ended in the state {state}.")


def _failure(text: str) -> TfstyleError:
    """The error that ended a pipeline, by what a runner says of it."""
    found = re.findall(r"tfstyle\.errors\.(\w+): (.*?)(?: \[while running .*)?$", text, re.M)
    kind, message = found[-1] if found else ("", (text.strip().splitlines() or ["no word"])[-1])
    kind = getattr(errors, kind, None)
    if kind is None:
        return WorkerError(f"the pipeline failed ({message}).")
    if issubclass(kind, OutputError | InputFileError):
        path, _, problem = message.partition(": ")
        return kind(path, problem)
    return kind(message)


def _parse(options: Sequence[str]) -> list[str]:
    """Options of a pipeline, with those that the local runner needs.

    Raises:
        ArgumentError: If Beam is not installed or does not know an option.
    """
    if find_spec("apache_beam") is None:
        raise ArgumentError(
            "beam: needs the package apache-beam; install it: pip install 'tfstyle[beam]'."
        )
    with _complaints():
        from apache_beam.options.pipeline_options import (
            DirectOptions,
            PipelineOptions,
            StandardOptions,
        )

        parsed = PipelineOptions(list(options))
        known = parsed.get_all_options()
        runner = parsed.view_as(StandardOptions).runner
        direct = parsed.view_as(DirectOptions)
        workers, mode = direct.direct_num_workers, direct.direct_running_mode
        given = parsed.get_all_options(retain_unknown_options=True)
    if runner is not None and runner not in LOCAL:
        return list(options)
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
    words = [*options, "--runner=FnApiRunner"]
    if workers > 1 and mode != "multi_threading":
        words.append("--direct_running_mode=multi_processing")
        share = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(share))  # workers inherit it
    return words


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
