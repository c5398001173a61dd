"""Whole scans in, whole scans out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tfstyle._private.files import write_atomically
from tfstyle.data import Scan, resolve_window
from tfstyle.data.dicom.deidentify import check_burned_in, new_key
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WorkerError
from tfstyle.runs.folder import inside
from tfstyle.runs.options import StylizeOptions
from tfstyle.runs.outputs import is_one_file, output_kind, source_kind, start_workers
from tfstyle.runs.results import RECORDS, Progress, Task, plan, run_tasks
from tfstyle.runs.scans import StylizedScan, StylizeWork
from tfstyle.runs.sources import ENDINGS, OnFailure, name_of, raising, read_inputs
from tfstyle.stylizers import Stylizer

#: File in RECORDS: the key of new UIDs, while a run with ``deidentify="basic"`` is not finished.
UID_KEY = "uid_key"

#: Kind of a result to the endings of one file of that kind.
_FILES = {"nifti": (".nii.gz", ".nii"), "png": (".png",)}


def stylize_scans(
    stylizer: Stylizer,
    inputs: Sequence[str | os.PathLike],
    styles: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    series: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_failure: OnFailure | None = None,
    **options: Any,
) -> list[StylizedScan]:
    """Gives scans the gray scale of other scans and writes the results.

    A DICOM series becomes a folder with a derived series, NIfTI a ``.nii.gz`` in the source's
    units, PNG a PNG of the source's depth; each at the place and with the name that its source has
    in the input folder. The generated gray levels go back to the source's units through the window
    of the content: they show as generated in that window, and are no measurement.

    A series of any length takes the memory of some dozens of slices. Results appear when they are
    whole. A run that was stopped, even killed, resumes when it is started again: scans that the
    same model, options and styles made of the same files stay, by records in the hidden folder
    ``.tfstyle`` of the output. There are none for an output that is one file, nor for a served
    model.

    Args:
        stylizer: A :class:`tfstyle.ToneTransfer`, which gives every scan one curve; a
            :class:`tfstyle.StyleTransfer`, a :class:`tfstyle.serving.Client`, or one of
            ``tfstyle.baselines``, which treat slices one by one.
        inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them. Where several
            folders are given, the results of each lie in a folder of its name.
        styles: Scans with the gray scale wanted; several are blended. A
            :class:`tfstyle.ToneTransfer` looks at up to 16 slices of each, evenly spread, other
            models at one. May be empty for a baseline that needs none.
        output: Folder for the results; for one input that gives one file, that file's name.
            Results of earlier runs in it are not taken for inputs.
        series: Only this series of the inputs, see :func:`tfstyle.data.read_scans`.
        workers: Processes that read and write slices; 0 does all in this process, None chooses by
            the number of slices and of CPUs.
        overwrite: Replace earlier results of tfstyle that have the names of the new ones. Without
            it, and for files that tfstyle did not make, an output that exists is refused.
        progress: Called as ``progress(done, total, label)`` after each batch, counting slices.
        on_failure: Called as ``on_failure(path, error)`` with each input that is damaged, and the
            others continue. Defaults to raising the error.
        **options: See :class:`~tfstyle.runs.options.StylizeOptions`.

    Returns:
        One account for each scan, in reading order.

    Raises:
        ArgumentError: An option that does not suit the scans.
        InputFileError: An input that does not exist, or is damaged; with ``deidentify="basic"``
            also one whose header says that its pixels hold text.
        OutputError: An output that exists already or cannot be written.
        ServingError: From a served model.
        WorkerError: If a process that reads and writes slices was killed.

    Example:
        >>> model = tfstyle.from_preset()
        >>> done = stylize_scans(model, ["ct/"], ["style.dcm"], "out/", window="soft_tissue")
        >>> done[0].slices
        2
    """
    if workers is not None and workers < 0:
        raise ArgumentError(f"workers: must be at least 0, received {workers}.")
    chosen, on_failure = StylizeOptions(**options), on_failure or raising
    work = StylizeWork.begin(stylizer, styles, chosen)
    found = read_inputs(inputs, Path(output), series, on_failure)
    tasks = make_tasks(work, found, Path(output), on_failure)
    key = None
    if chosen.deidentify == "basic" and any(task.kind == "dicom" for task in tasks):
        key = inside(tasks[0].output, tasks[0].output / RECORDS / UID_KEY)
        work = replace(work, uid_key=_uid_key(key))
    with start_workers(sum(len(task.scan) for task in tasks), workers) as pool:
        try:
            results = run_tasks(
                tasks,
                StylizedScan,
                partial(work.run, pool=pool),
                overwrite=overwrite,
                progress=progress,
                on_failure=on_failure,
            )
        except BrokenExecutor as error:
            raise WorkerError(
                "a process that reads and writes slices was killed, perhaps for want of memory; "
                "give the same command again, with fewer workers if need be"
            ) from error
    if key is not None and len(results) == len(found):
        key.unlink(missing_ok=True)
    return results


def make_tasks(
    work: StylizeWork,
    found: Sequence[tuple[Scan, str]],
    output: Path,
    on_failure: OnFailure = raising,
) -> list[Task]:
    """What there is to do, checked before any work.

    `found` has the scans, each with the path of its result in the output, without ending.
    """
    options = work.options
    basic = options.deidentify == "basic"
    wanted = []
    for number, (scan, name) in enumerate(found, 1):
        if basic:
            for frame in scan.frames:
                check_burned_in(frame.BurnedInAnnotation, frame.path)
            name = name_of(scan, f"scan-{number:04d}")
        try:
            window = resolve_window(options.window, scan)
        except InputFileError as error:
            on_failure(error.path, error)
            continue
        kind = output_kind(scan, options.output_format, source_kind(scan))
        ending = ENDINGS[kind] if is_one_file(scan, kind) else ""
        wanted.append((scan, name, ending, kind, window))
    return plan(output, wanted, _FILES, work.job) if wanted else []


def _uid_key(file: Path) -> str:
    """The key of this run, or of the interrupted one that it resumes."""
    try:
        return file.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        key = new_key()
    except OSError as error:
        raise OutputError(file, f"cannot be read ({error.strerror}).") from error
    write_atomically(file, key.encode(), private=True)
    return key
