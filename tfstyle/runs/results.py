"""Results of single scans: where they go, which are finished, and how one gets its name."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfstyle._private.files import (
    free_name,
    is_inside,
    is_temporary,
    locked,
    read_json,
    remove,
    remove_abandoned,
    temporary_beside,
    write_atomically,
)
from tfstyle.data import Scan, Window
from tfstyle.data.layouts import is_result
from tfstyle.errors import InputFileError, OutputError, writing
from tfstyle.runs.folder import inside
from tfstyle.runs.sources import OnFailure, raising

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

#: Folder in the output folder: a folder for each result, with a file that says what was done.
RECORDS, RECORD = ".tfstyle", "record.json"

#: Endings that a user may take for one of a result.
_UNKNOWN = (
    *(".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dicom", ".ima"),
    *(".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img", ".mgh", ".mgz", ".npy", ".npz"),
)

#: Called as ``progress(done, total, label)``, counting slices.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was done to one scan; the base of what runs give.

    Attributes:
        source: Name of the scan read.
        slices: Number of slices.
        size: Rows and columns.
        window: Window through which the model saw it, in the scan's units.
        resumed: Whether an earlier run of the same work had finished it.
    """

    source: str
    slices: int
    size: tuple[int, int]
    window: Window
    resumed: bool = False

    @classmethod
    def from_dict(cls, facts: dict) -> Self:
        """What ``dataclasses.asdict`` gave, also after a way through JSON."""
        return cls(**{field.name: _as_it_was(facts[field.name]) for field in fields(cls)})

    @property
    def paths(self) -> tuple[str, ...]:
        """The files written."""
        raise TypeError(f"{type(self).__name__} must define paths.")


def _as_it_was(value: Any) -> Any:
    """Tuples and windows of JSON's lists and objects."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_as_it_was, value))
    if isinstance(value, dict) and value.keys() == {"center", "width"}:
        return Window(**value)
    return value


@dataclass(frozen=True)
class Task:
    """One scan, what it is written as, and the file or folder to make in the output folder.

    The work chooses a `window` of None. `job` tells it from other work; None keeps no record.
    """

    scan: Scan
    kind: str
    window: Window | None
    output: Path
    target: Path
    job: str | None = None

    @property
    def place(self) -> Path:
        """The folder of its record; a digest, for names may be long and lie in each other."""
        name = os.fsencode(self.target.relative_to(self.output))
        return self.output / RECORDS / hashlib.sha256(name).hexdigest()[:32]


def plan(
    output: Path,
    wanted: Sequence[tuple[Scan, str, str, str, Window | None]],
    files: Mapping[str, tuple[str, ...]],
    job: Callable[..., str | None],
) -> list[Task]:
    """Chooses every output path before any work: in the folder `output`, or itself for one scan.

    `wanted` has each scan, its path without ending, ending, kind and window; `files` the endings
    that one file of a kind may have.
    """
    lower = output.name.lower()
    known = sum(files.values(), ())
    if output.is_dir() or not lower.endswith((*known, ".dcm", *_UNKNOWN)):
        taken: set[str] = set()
        tasks = []
        for scan, name, ending, kind, window in wanted:
            taken.add(label := free_name(name, taken, ending) + ending)
            task = Task(scan, kind, window, output, output / label, job(scan, kind, window))
            tasks.append(task)
        return tasks
    scan, _, _, kind, window = wanted[0]
    fitting = files.get(kind, ())
    for wrong, problem in (
        (not lower.endswith((*known, ".dcm")), "results are not written in this format"),
        (len(wanted) > 1, f"is one file, but there are {len(wanted)} scans"),
        (not fitting, "a DICOM series is written into a folder"),
        (not lower.endswith(fitting), f"the name does not end in {' or '.join(fitting)}"),
        (kind == "png" and len(scan) > 1, f"is one picture, but {scan.name} has more slices"),
    ):
        if wrong:
            raise OutputError(output, f"{problem}; give a folder, or choose another format.")
    # Beside one file, nothing is kept for a later run.
    return [Task(scan, kind, window, output.parent, output)]


def run_tasks(
    tasks: Sequence[Task],
    kind: type[Account],
    work: Callable[..., tuple[Path, Account]],
    *,
    overwrite: bool,
    progress: Progress | None = None,
    on_failure: OnFailure = raising,
) -> list[Any]:
    """Does what no earlier run has finished; gives an account, a `kind`, for each that succeeded.

    `work` goes from a task, an empty folder and ``advance``, which is told how many slices are
    done, to what was made in the folder and the account.
    """
    found = [finished(task, kind) for task in tasks]
    _check_free([task for task, account in zip(tasks, found) if account is None], overwrite)
    total = sum(len(task.scan) for task in tasks)
    done = sum(account.slices for account in found if account is not None)
    results = []
    for task, account in zip(tasks, found):
        if account is not None:
            log.info("%s: finished by an earlier run, %s", task.scan.name, task.target)
            if any(map(is_temporary, os.listdir(task.place))):  # it was killed at its very end
                with suppress(OutputError), locked(task.place):
                    remove_abandoned(task.place, deep=True)
            results.append(replace(account, source=task.scan.name, resumed=True))
            continue

        def advance(count: int, name: str = task.scan.name) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total, name)

        before = done
        try:
            results.append(publish(task, partial(work, advance=advance)))
        except InputFileError as error:
            on_failure(error.path, error)
            advance(before + len(task.scan) - done)
        else:
            log.info("%s: wrote %s", task.scan.name, task.target)
    return results


def publish(task: Task, make: Callable[[Task, Path], tuple[Path, Any]]) -> Any:
    """Has a result made in a hidden, empty folder, notes its account, and gives it its name."""
    with writing(task.target), ExitStack() as stack:
        inside(task.output, task.target)
        beside = task.target
        if task.job is not None:
            inside(task.output, task.place)
            stack.enter_context(locked(task.place))
            remove_abandoned(task.place, deep=True)
            beside = task.place / task.target.name
        made, account = make(task, stack.enter_context(temporary_beside(beside, folder=True)))
        remove(task.target)
        if task.job is not None:  # before it has its name: what has it is known to be finished
            # The name of the source may be that of a patient.
            facts = asdict(account) | {"source": task.target.name}
            record = json.dumps({"job": task.job, "result": facts})
            write_atomically(task.place / RECORD, record.encode())
        task.target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, task.target)
    return account


def finished(task: Task, kind: type[Account]) -> Any:
    """The account of an earlier run, if it did the same work; None if not."""
    try:
        if task.job is None or (record := read_json(task.place / RECORD))["job"] != task.job:
            return None
        account = kind.from_dict(record["result"])
        files = [Path(os.path.abspath(file)) for file in account.paths]
        ours = all(is_inside(task.output, file) and file.is_file() for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    whole = isinstance(account.slices, int) and isinstance(account.window, Window)
    return account if ours and whole else None


def _check_free(tasks: Sequence[Task], overwrite: bool) -> None:
    """Refuses outputs that are there, and a place that cannot be written."""
    for target in [task.target for task in tasks]:
        files = list(target.rglob("*")) if target.is_dir() else [target]
        if not target.exists() or not files:
            continue
        if not overwrite:
            raise OutputError(
                target,
                "exists already and is not overwritten; choose another name, or set overwrite.",
            )
        if not all(map(is_result, files)):
            raise OutputError(target, "is not a result of tfstyle; choose another name.")
    for folder in {task.output for task in tasks}:
        with writing(folder), temporary_beside(folder / "result"):
            pass  # only to see that it can be made
