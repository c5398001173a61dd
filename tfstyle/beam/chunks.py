"""The work of a run in chunks: what a worker reads, does and notes. No Beam in here.

The folder ``.beam`` in the output holds, while a run lasts, all that workers need: ``work.json``,
the model, the styles, ``chunks/00012.jsonl`` with the sources of each chunk, and
``rows/00012/….jsonl``, the journal of each attempt at a chunk. Whoever takes up a chunk reads the
journals of earlier attempts and goes on where they stopped, be it another worker after a retry, or
another run.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TextIO

from tfstyle.augment_scans import (
    JOURNALS,
    MANIFEST,
    SETTINGS,
    Augmentation,
    AugmentOptions,
    Source,
    failure_row,
    read_rows,
    uid_key,
)
from tfstyle.data import ScanFiles, Window, resolve_window
from tfstyle.errors import OutputError, TfstyleError, WeightsError
from tfstyle.outputs import InThisProcess
from tfstyle.presets import open_model
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.stylize import StylizeOptions, StylizeWork, output_kind
from tfstyle.tone import ToneTransfer

#: In the output folder: one JSON object a line for each input that failed.
FAILED = "failed.jsonl"

#: In the output folder: what workers need, and what they have done; only while a run lasts.
FOLDER = Path(JOURNALS).parts[0]

#: Attempts at one source that may end with the worker's death.
DEATHS = 3

#: Smallest and largest number of slices of a chunk, and chunks wanted in between.
SMALLEST, LARGEST, CHUNKS = 8, 1000, 2000

#: Slices that a NIfTI file is taken for as long as it is not read.
VOLUME = 64

_WORK, _MODEL, _STYLES, _CHUNKS = "work.json", "model.keras", "styles.npz", "chunks"
_ROWS = Path(JOURNALS).parts[1]


@dataclass(frozen=True)
class Task:
    """One source as a chunk lists it.

    Attributes:
        source: The source.
        root: The input folder in which it was found.
        done: (part, copy) of what an earlier run finished.
    """

    source: Source
    root: str
    done: frozenset[tuple[int, int]] = frozenset()

    def to_json(self) -> str:
        """One line."""
        facts = asdict(self.source) | {"label": str(self.source.label)}
        return json.dumps({"root": self.root, "done": sorted(self.done), "source": facts})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """What :meth:`to_json` gave."""
        facts = json.loads(text)
        source = facts["source"]
        source["files"]["files"] = tuple(source["files"]["files"])
        source["files"] = ScanFiles(**source["files"])
        source["label"] = PurePosixPath(source["label"])
        return cls(Source(**source), facts["root"], frozenset(map(tuple, facts["done"])))


# -- written before a run ------------------------------------------------------------------


def write_work(
    output: Path,
    network: ToneTransfer | StyleTransfer,
    options: AugmentOptions | StylizeOptions,
    styles: StyleBank | Sequence[str],
) -> None:
    """Writes what workers need besides the chunks: the model, the styles, the options.

    Args:
        output: Folder of the results.
        network: The model.
        options: Which command's they are says what is done.
        styles: A bank to augment with, paths to stylize with.

    Raises:
        OutputError: If it cannot be written.
    """
    folder = output / FOLDER
    bank = isinstance(styles, StyleBank)
    facts = {
        "command": "augment" if bank else "stylize",
        "model": network.fingerprint(),
        "styles": [list(map(os.path.abspath, files)) for files in styles.files]
        if bank
        else list(styles),
        "options": {key: _plain(value) for key, value in asdict(options).items()},
    }
    try:
        for name in (_CHUNKS, _ROWS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        network.save(folder / _MODEL, include_optimizer=False)
        if bank:
            styles.save(folder / _STYLES)
        (folder / _WORK).write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise OutputError.of(folder, error) from error


def write_chunks(output: Path, tasks: Sequence[Task], copies: int) -> int:
    """Divides the work.

    Args:
        output: Folder of the results.
        tasks: What there is to do.
        copies: Images that become of each.

    Returns:
        Number of chunks.

    Raises:
        OutputError: If they cannot be written.
    """
    weights = [
        copies * (VOLUME if task.source.files.kind == "nifti" else len(task.source.files.files))
        for task in tasks
    ]
    limit = min(max(sum(weights) / CHUNKS, SMALLEST), LARGEST)
    chunks: list[list[str]] = []
    weight = limit
    for task, own in zip(tasks, weights):
        if weight >= limit:
            chunks.append([])
            weight = 0
        chunks[-1].append(task.to_json() + "\n")
        weight += own
    folder = output / FOLDER / _CHUNKS
    try:
        for number, lines in enumerate(chunks):
            (folder / f"{_name(number)}.jsonl").write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise OutputError.of(folder, error) from error
    return len(chunks)


def _name(chunk: int) -> str:
    return f"{chunk:06d}"


def _plain(value):
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _window(value) -> str | Window:
    return Window(**value) if isinstance(value, dict) else value


# -- done by a worker ----------------------------------------------------------------------


class Worker:
    """Holds the model and does one chunk after the other.

    Args:
        output: Folder of the results.

    Raises:
        WeightsError: If the model read is not the one that was written.
    """

    def __init__(self, output: str | os.PathLike):
        self.output = Path(output)
        folder = self.output / FOLDER
        facts = json.loads((folder / _WORK).read_text(encoding="utf-8"))
        network = open_model(folder / _MODEL)
        if network.fingerprint() != facts["model"]:
            raise WeightsError(f"{folder / _MODEL}: is not the model that the run began with.")
        options = facts["options"]
        if facts["command"] == "augment":
            options["window"] = _window(options["window"])
            options["strength"] = tuple(options["strength"])
            bank = StyleBank.load(folder / _STYLES)
            bank = replace(bank, files=tuple(map(tuple, facts["styles"])))
            chosen = AugmentOptions(**options)
            self.work = Augmentation(network, self.output, bank, chosen, uid_key(self.output))
        else:
            for name in ("window", "style_window"):
                options[name] = _window(options[name])
            options = StylizeOptions(**options)
            # The manifest says what is finished.
            work = replace(options.work(network, facts["styles"]), records=False)
            self.work = Stylization(work, self.output, options)

    def run(self, chunk: int) -> Iterator[str]:
        """Does what is left of a chunk.

        Args:
            chunk: Its number.

        Yields:
            A word for each thing that happens: ``"done"`` and, with it, ``"gated"``, for an image
            written; ``"resumed"`` for one that was there; ``"failed"`` or ``"left out"`` for a
            source.

        Raises:
            OutputError: If something cannot be written.
        """
        folder = self.output / FOLDER
        lines = (folder / _CHUNKS / f"{_name(chunk)}.jsonl").read_text(encoding="utf-8")
        tasks = [Task.from_json(line) for line in lines.splitlines()]
        rows = folder / _ROWS / _name(chunk)
        earlier = _Earlier(row for path in sorted(rows.glob("*.jsonl")) for row in read_rows(path))
        with _journal(rows) as journal:
            for task in tasks:
                name = task.source.name
                done = task.done | earlier.done.get(name, set())
                yield from ["resumed"] * len(done)
                if name not in earlier.over:
                    yield from self._source(task, done, earlier.deaths[name], journal)

    def _source(
        self, task: Task, done: Collection[tuple[int, int]], deaths: int, journal: TextIO
    ) -> Iterator[str]:
        name = task.source.name
        _note(journal, {"status": "begun", "source": name})
        try:
            if deaths >= DEATHS:
                raise _DeadlyError(
                    f"{deaths} workers were killed while they were at it, perhaps for want of "
                    "memory"
                )
            for row in self.work.rows(task.source, done):
                _note(journal, row)
                yield row["status"]
                if row.get("gated"):
                    yield "gated"
        except OutputError:
            _note(journal, {"status": "stopped", "source": name})
            raise
        except Exception as error:  # whatever one source has in store, the others go on
            _note(journal, failure_row(name, error, Path(task.root)))
            yield "failed"
        _note(journal, {"status": "over", "source": name})


class _DeadlyError(TfstyleError):
    """A source that costs workers their lives."""


@contextmanager
def _journal(rows: Path) -> Iterator[TextIO]:
    """A new file for one attempt at a chunk."""
    try:
        rows.mkdir(exist_ok=True)
        with open(rows / f"{uuid.uuid4().hex}.jsonl", "w", encoding="utf-8") as journal:
            yield journal
    except OSError as error:
        raise OutputError.of(rows, error) from error


def _note(journal: TextIO, row: dict) -> None:
    try:
        journal.write(json.dumps(row) + "\n")
        journal.flush()
    except OSError as error:
        raise OutputError.of(journal.name, error) from error


class _Earlier:
    """What the journals of earlier attempts say of each source."""

    def __init__(self, rows: Iterable[dict]):
        self.done: dict[str, set[tuple[int, int]]] = {}
        self.over: set[str] = set()
        self.deaths: Counter[str] = Counter()
        for row in rows:
            status, name = row["status"], row["source"]
            if status == "done":
                self.done.setdefault(name, set()).add((row["part"], row.get("copy", 1)))
            elif status == "over":
                self.over.add(name)
            self.deaths[name] += {"begun": 1, "over": -1, "stopped": -1}.get(status, 0)


class Stylization:
    """What stylizing does to each scan; the counterpart of ``Augmentation``.

    Args:
        work: As ``tfstyle.stylize.stylize_scans`` does it.
        output: Folder of the results.
        options: Options.
    """

    def __init__(self, work: StylizeWork, output: Path, options: StylizeOptions):
        self.work, self.output, self.options = work, output, options

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
        scans = source.files.read(lazy=True)
        if not scans:
            yield {"status": "left out", "source": source.name}
        for part, scan in enumerate(scans):
            if (part, 1) in done:
                continue
            window = resolve_window(self.options.window, scan)
            kind = output_kind(scan, self.options.output_format)
            ending = {"nifti": ".nii.gz", "png": ".png" if len(scan) == 1 else ""}.get(kind, "")
            stem = source.stem + (f"_{scan.stack}" if len(scans) > 1 else "")
            target = self.output / f"{stem}{ending}"
            try:
                if target.is_dir():  # of an attempt that was stopped before it could note it
                    shutil.rmtree(target)
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError.of(target, error) from error
            job = self.work.job(scan, window, kind)
            result = self.work.run(
                scan, window, kind, target, job, InThisProcess(), lambda count: None
            )
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
                "confidence": _rounded(result.confidence),
                "structure": _rounded(result.structure),
                "distance_before": _rounded(result.distance_before),
                "distance_after": _rounded(result.distance_after),
            }


def name_results(sources: Sequence[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """Gives sources stems under which no result lies in the place, or inside, of another.

    Args:
        sources: Pairs of the input folder and a source.
    """
    folders = {
        str(parent) for _, source in sources for parent in PurePosixPath(source.stem).parents
    }
    taken = folders | {MANIFEST, SETTINGS, FAILED}
    named = []
    for root, source in sources:
        label, number = source.stem, 1
        while label in taken:
            number += 1
            label = f"{source.stem}-{number}"
        taken.add(label)
        named.append((root, replace(source, stem=label)))
    return named


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
