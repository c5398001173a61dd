"""Whole scans in, whole scans out: read, window, stylize in batches, write, and give account.

The command ``tfstyle stylize`` is a thin layer over :func:`stylize_scans`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tfstyle._private.files import is_inside, temporary_beside, write_atomically
from tfstyle.data import Scan, Window, read_scans, resolve_window
from tfstyle.data.dicom.deidentify import check_burned_in, check_profile, new_key
from tfstyle.data.layouts import is_result
from tfstyle.errors import ArgumentError, OutputError, WorkerError
from tfstyle.runs.outputs import ending_of, output_kind, source_kind, start_workers
from tfstyle.runs.scans import RECORDS, StylizedScan, StylizeOptions, StylizeWork, finished
from tfstyle.runs.sources import free_name
from tfstyle.stylizers import ServedStylizer, Stylizer, style_image

log = logging.getLogger(__name__)

#: File in RECORDS: the key of new UIDs, while a run with ``deidentify="basic"`` is not finished.
UID_KEY = "uid_key"

#: Called as ``progress(done, total, label)`` after each batch, counting slices.
Progress = Callable[[int, int, str], None]


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
    results = [finished(target, job) for target, job in zip(targets, jobs)]
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


_SUFFIXES = {"nifti": (".nii", ".nii.gz"), "png": (".png",), "dicom": ()}


def _targets(scans: Sequence[Scan], kinds: Sequence[str], output: Path, basic: bool) -> list[Path]:
    """Chooses every output path by the scans' names, or their numbers, before any work."""
    name = output.name.lower()
    if not name.endswith((".nii", ".nii.gz", ".png", ".dcm")) or output.is_dir():
        targets, taken = [], set()
        for number, (scan, kind) in enumerate(zip(scans, kinds), 1):
            stack = f"_{scan.stack}" if scan.stack else ""
            base = f"scan-{number:04d}{stack}" if basic else _file_name(scan.name)
            taken.add(label := free_name(base, taken))
            targets.append(output / f"{label}{ending_of(scan, kind)}")
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
