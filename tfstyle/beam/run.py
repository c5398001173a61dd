"""Runs that many workers share: what there is to do, the pipeline that does it, the account."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tfstyle._private.files import locked, remove, write_atomically
from tfstyle.errors import ArgumentError, InputFileError, WorkerError, require_packages
from tfstyle.runs.augment import AugmentedSet, account, begin
from tfstyle.runs.folder import read_rows
from tfstyle.runs.manifest import relative_path
from tfstyle.runs.options import AugmentOptions, StylizeOptions
from tfstyle.runs.results import Progress
from tfstyle.runs.scans import StylizedScan, StylizeWork
from tfstyle.runs.sources import OnFailure, check_places, find_all, raising
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.tone import ToneTransfer

#: In the output folder while a run is not finished.
BEAM = ".beam"


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
    """:func:`tfstyle.runs.augment_scans` by the workers of a Beam runner.

    Files, manifest and account are the same, and each of the two resumes what the other has
    finished. Files are named by source and copy, and get their names when they are whole, so that
    the retries of a runner are harmless. All workers must see all paths under the same names.

    Takes the same arguments, and `beam_options` as on a command line, such as
    ``["--direct_num_workers=8"]`` or ``["--runner=FlinkRunner", "--flink_master=…"]``. `progress`
    is called before and after the pipeline; runners show on pages of their own how far they are.

    Raises:
        ArgumentError, InputFileError, OutputError, WeightsError: See there.
        MissingPackageError: Beam is not installed.
        WorkerError: The pipeline failed, for example since the disk is full.

    Example:
        >>> augment_scans(model, "ct/", "out/", bank, beam_options=["--direct_num_workers=8"])
    """
    words = check_options(beam_options)
    from tfstyle.beam.pipeline import ROWS, source_line, start_augmenting

    chosen = AugmentOptions(**options)
    if chosen.masks is not None:
        chosen = replace(chosen, masks=os.path.abspath(chosen.masks))
    styles = replace(styles, files=tuple(tuple(map(os.path.abspath, f)) for f in styles.files))
    inputs, output = Path(os.path.abspath(inputs)), Path(os.path.abspath(output))
    with begin(network, inputs, output, styles, chosen, overwrite) as (manifest, _, sources):
        settings = json.dumps(manifest.settings, sort_keys=True)
        folder = output / BEAM / hashlib.sha256(settings.encode()).hexdigest()[:16]
        if not overwrite:  # what a run that was stopped has finished
            manifest.take(_rows(folder / ROWS))
        copies, names = chosen.per_image, [source.name for source in sources]
        kept, total = manifest.count(names, copies), len(sources) * copies
        lines = [
            source_line(source, inputs, manifest.done.get(source.name, ()))
            for source in sources
            if not manifest.complete(source.name, copies)
        ]
        report = progress or _silent
        report(total - len(lines) * copies, total, "")
        start = partial(start_augmenting, output, styles, chosen)
        for row in _run(folder, network, start, lines, words):
            manifest.add(row)
        done = account(manifest, sources, chosen, kept)
        remove(output / BEAM)
        report(total, total, "")
        return done


def stylize_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: Sequence[str | os.PathLike],
    styles: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    on_failure: OnFailure | None = None,
    **options: Any,
) -> list[StylizedScan]:
    """:func:`tfstyle.runs.stylize_scans` by the workers of a Beam runner, scan by scan.

    Results and records are the same (but for the new UIDs of DICOM), and each of the two resumes
    what the other has finished. See :func:`augment_scans` for paths, retries and `beam_options`.

    Takes the same arguments, with a folder as `output`, and ``deidentify="keep"``, since no runner
    is told a key of UIDs. `on_failure` is called at the end, `progress` counts inputs.

    Returns:
        An account for each scan, in the order of the results; ``files`` of a series is its folder.

    Raises:
        ArgumentError, InputFileError, OutputError: See :func:`tfstyle.runs.stylize_scans`.
        MissingPackageError, WorkerError: See :func:`augment_scans`; also where a result exists.

    Example:
        >>> options = ["--direct_num_workers=8"]
        >>> stylize_scans(model, ["ct/"], ["b.dcm"], "out/", beam_options=options)
    """
    words = check_options(beam_options)
    from tfstyle.beam.pipeline import source_line, start_stylizing

    chosen = StylizeOptions(**options)
    if chosen.deidentify != "keep":
        raise ArgumentError(f"deidentify: must be 'keep', received {chosen.deidentify!r}.")
    if not inputs:
        raise ArgumentError("inputs: at least one input scan is needed.")
    output, roots = Path(os.path.abspath(output)), [Path(os.path.abspath(one)) for one in inputs]
    for root in roots:
        check_places(root, output, None)
    found, failed = find_all(roots, chosen.output_format)
    here, report = Path.cwd(), progress or _silent
    lines = [
        source_line(replace(source, name=relative_path(source.files.place, here)), here)
        for source in found
    ]
    report(0, len(lines), "")
    work = replace(StylizeWork.begin(network, styles, chosen), stylizer=None)
    start = partial(start_stylizing, output, work, overwrite)
    done = []
    with locked(output):
        for row in _run(output / BEAM / "run", network, start, lines, words):
            if row["status"] == "failed":
                failed.append(InputFileError(row["source"], row["reason"]))
            else:
                done.append(StylizedScan.from_dict(row))
        remove(output / BEAM)
    report(len(lines), len(lines), "")
    for problem in failed:
        (on_failure or raising)(problem.path, problem)
    return sorted(done, key=lambda one: one.files)


def check_options(options: Sequence[str]) -> list[str]:
    """The options, with those that the local runner needs; to be called early.

    Raises:
        ArgumentError: Beam does not know an option.
        MissingPackageError: Beam is not installed.
    """
    require_packages({"apache_beam": "apache-beam"}, "beam", "--beam")
    from apache_beam.options import pipeline_options as known

    parsed = known.PipelineOptions(list(options))
    given = parsed.get_all_options(retain_unknown_options=True)
    unknown = sorted(f"--{name}" for name in given.keys() - parsed.get_all_options().keys())
    if unknown:
        raise ArgumentError(
            f"beam: has no option {', '.join(unknown)}; those of tfstyle go before --beam."
        )
    local = parsed.view_as(known.DirectOptions)
    if parsed.view_as(known.StandardOptions).runner not in (None, "DirectRunner", "FnApiRunner"):
        return list(options)
    # Beam's DirectRunner would look for another local runner on the internet first.
    words = [*options, "--runner=FnApiRunner"]
    workers = local.direct_num_workers or os.cpu_count() or 1
    if workers > 1 and local.direct_running_mode != "multi_threading":
        words.append("--direct_running_mode=multi_processing")
        share = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(share))  # workers inherit it
    return words


def _run(
    folder: Path,
    network: ToneTransfer | StyleTransfer,
    start: Callable,
    lines: Sequence[str],
    options: list[str],
) -> Iterator[dict]:
    """Runs the pipeline over sources to its end; the rows of what was done, and of failures."""
    if not lines:
        return
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfstyle.beam.pipeline import FAILURES, MODEL, ROWS, SOURCES, DoSource, build

    remove(folder.parent)
    network.save(folder / MODEL, include_optimizer=False)
    write_atomically(folder / SOURCES, "".join(lines).encode())
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    build(pipeline, DoSource(start, folder))
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # whatever a runner makes of the error of a worker
        text = str(error).strip()
        said = re.findall(r"^tfstyle\.errors\.\w+: (.*?)(?: \[while running .*)?$", text, re.M)
        last = (said or text.splitlines() or ["no word"])[-1]
        raise WorkerError(f"the pipeline failed: {last}") from error
    if state != "DONE":
        raise WorkerError(f"the pipeline ended in the state {state}.")
    yield from _rows(folder / ROWS)
    for path in sorted(folder.glob(f"{FAILURES}*")):
        yield from read_rows(path)


def _rows(folder: Path) -> Iterator[dict]:
    """The rows that workers wrote."""
    for path in sorted(folder.glob("*/*.jsonl")):
        yield from read_rows(path)


def _silent(done: int, total: int, label: str) -> None:
    pass
