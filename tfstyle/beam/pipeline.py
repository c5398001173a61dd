"""The pipeline: sources, spread over workers; the reasons of those that failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from tfstyle._private.files import read_json, write_atomically
from tfstyle.data import ScanFiles
from tfstyle.errors import OutputError
from tfstyle.presets import open_model
from tfstyle.runs.augment import Augmentation
from tfstyle.runs.manifest import SETTINGS, failure_row
from tfstyle.runs.options import AugmentOptions
from tfstyle.runs.results import run_tasks
from tfstyle.runs.scans import StylizedScan, StylizeWork
from tfstyle.runs.sources import Source, name_of
from tfstyle.runs.stylize import make_tasks
from tfstyle.style_bank import StyleBank

#: In the folder of a run: model, sources, rows of what was done, and sources that failed.
MODEL, SOURCES, ROWS, FAILURES = "model.keras", "sources", "rows", "failures"

#: Does one source, of which some (part, copy) are there; gives the row of each result.
Work = Callable[[Source, set[tuple[int, int]]], Iterator[dict]]


def start_augmenting(
    output: Path, styles: StyleBank, options: AugmentOptions, network: Any
) -> Work:
    """The work of ``augment``; the key of UIDs is read here, since no runner is told."""
    key = read_json(output / SETTINGS).get("uid_key")
    return Augmentation(network, output, styles, options, key).rows


def start_stylizing(output: Path, work: StylizeWork, overwrite: bool, network: Any) -> Work:
    """The work of ``stylize``; what is finished is known by its records, and not done again."""
    return partial(_stylize, output, replace(work, stylizer=network), overwrite)


def _stylize(
    output: Path, work: StylizeWork, overwrite: bool, source: Source, done: object
) -> Iterator[dict]:
    scans = source.files.read(lazy=True)
    named = [(scan, name_of(scan, source.stem)) for scan in scans]
    tasks = make_tasks(work, named, output)
    with ThreadPoolExecutor(1) as pool:
        run = partial(work.run, pool=pool)
        for task, account in zip(tasks, run_tasks(tasks, StylizedScan, run, overwrite=overwrite)):
            # A folder stands for its files, of which there are as many as slices.
            yield {**asdict(account), "files": [str(task.target)], "status": "done"}


class UnusableError(Exception):
    """A source that failed; shown as its row, for the dead letters."""

    def __repr__(self) -> str:
        return str(self)


class DoSource(beam.DoFn):
    """Does a source, and writes the rows of its results to a file whose name is made of its own.

    Args:
        start: Makes the work, from the model.
        folder: Folder of the run, as all workers see it.
    """

    def __init__(self, start: Callable[[Any], Work], folder: Path):
        self.start, self.folder = start, folder
        self.shared = Shared()

    def setup(self) -> None:
        """Loads the model, once a process."""
        self.work = self.start(self.shared.acquire(lambda: open_model(self.folder / MODEL)))

    def process(self, line: str) -> Iterator[dict]:
        """Does one source; passes over what an attempt before has finished."""
        source, root, done = read_source(line)
        digest = hashlib.sha256(f"{source.stem}{source.ending}".encode(errors="surrogateescape"))
        file = self.folder / ROWS / digest.hexdigest()[:2] / f"{digest.hexdigest()}.jsonl"
        if file.exists():
            return
        try:
            rows = list(self.work(source, done))
        except OutputError:  # for the runner, which tries again
            raise
        except Exception as error:  # any failure of one source, and the others continue
            Metrics.counter("tfstyle", "failed").inc()
            raise UnusableError(json.dumps(failure_row(source.name, error, root))) from error
        for row in rows:
            Metrics.counter("tfstyle", row["status"]).inc()
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        yield from rows


def build(pipeline: beam.Pipeline, do: DoSource) -> None:
    """Adds the work to a pipeline; the sources are in the work's folder."""
    _, failures = (
        pipeline
        | "Sources" >> beam.io.ReadFromText(str(do.folder / SOURCES))
        | "Spread" >> beam.Reshuffle()
        | "Do" >> beam.ParDo(do).with_exception_handling(exc_class=UnusableError)
    )
    (
        failures
        | "Reasons" >> beam.Map(lambda letter: letter[1][1])
        | "Write" >> beam.io.WriteToText(str(do.folder / FAILURES), ".jsonl", skip_if_empty=True)
    )


def source_line(source: Source, root: Path, done: Any = ()) -> str:
    """A source, its input folder, and (part, copy) of the results that are there, as one line."""
    facts = asdict(source) | {"label": str(source.label)}
    return json.dumps({"source": facts, "root": str(root), "done": sorted(done)}) + "\n"


def read_source(line: str) -> tuple[Source, Path, set[tuple[int, int]]]:
    """What :func:`source_line` was given."""
    found = json.loads(line)
    facts = found["source"]
    files = ScanFiles(**facts["files"] | {"files": tuple(facts["files"]["files"])})
    source = Source(**facts | {"files": files, "label": PurePosixPath(facts["label"])})
    return source, Path(found["root"]), set(map(tuple, found["done"]))
