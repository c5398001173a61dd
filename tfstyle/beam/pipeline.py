"""The pipeline: sources, spread over workers; rows of results, and of sources that failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from tfstyle._private.files import read_json, write_atomically
from tfstyle.data import ScanFiles
from tfstyle.errors import OutputError, WeightsError
from tfstyle.presets import open_model
from tfstyle.runs.folder import read_rows
from tfstyle.runs.manifest import SETTINGS, failure_row
from tfstyle.runs.sources import Source

#: In the folder of a run: model, sources, rows, those of failures, and what is finished.
MODEL, SOURCES, ROWS, FAILURES, DONE = "model.keras", "sources", "rows", "failures", "done"


class UnusableError(Exception):
    """A source that failed; shown as its row of the manifest, for the dead letters."""

    def __repr__(self) -> str:
        return str(self)


class Work(beam.DoFn):
    """Does sources with a model that is loaded once a process; a retry finds what is finished.

    Args:
        work: ``Augmentation`` or ``Stylization``, without its model.
        folder: Folder of the run, as all workers see it.
        model: Fingerprint of the model.
    """

    def __init__(self, work: Any, folder: Path, model: str):
        self.work, self.folder, self.model = work, folder, model
        self.shared = Shared()

    def setup(self) -> None:
        """Loads the model, and the key of UIDs, which no runner is told."""
        facts = {"network": self.shared.acquire(self._load)}
        key = read_json(self.folder.parent / SETTINGS).get("uid_key")
        if key is not None:
            facts["uid_key"] = key
        self.work = replace(self.work, **facts)

    def _load(self) -> Any:
        network = open_model(self.folder / MODEL)
        if network.fingerprint() != self.model:
            raise WeightsError(f"{self.folder / MODEL}: is not the model that the run began with.")
        return network

    def process(self, line: str) -> Iterator[dict]:
        """Does one source; results have their names from it alone, so that a retry is harmless."""
        source, root, done = read_source(line)
        digest = hashlib.sha256(source.name.encode(errors="surrogateescape")).hexdigest()
        note = self.folder / DONE / digest[:2] / f"{digest}.jsonl"
        rows = read_rows(note)
        if rows:
            Metrics.counter("tfstyle", "resumed").inc(len(rows))
            yield from rows
            return
        try:
            for row in self.work.rows(source, done):
                Metrics.counter("tfstyle", row["status"]).inc()
                rows.append(row)
                yield row
        except OutputError:  # for the runner, which tries again
            raise
        except Exception as error:  # whatever one source has in store, the others go on
            Metrics.counter("tfstyle", "failed").inc()
            raise UnusableError(json.dumps(failure_row(source.name, error, root))) from error
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, "".join(json.dumps(row) + "\n" for row in rows).encode())


def build(pipeline: beam.Pipeline, folder: Path, work: Any, model: str) -> None:
    """Adds the work to a pipeline.

    Args:
        pipeline: The pipeline.
        folder: Folder of the run; its sources are there.
        work: See :class:`Work`.
        model: See :class:`Work`.
    """
    rows, failures = (
        pipeline
        | "Sources" >> beam.io.ReadFromText(str(folder / SOURCES))
        | "Spread" >> beam.Reshuffle()
        | "Work"
        >> beam.ParDo(Work(work, folder, model)).with_exception_handling(
            exc_class=UnusableError, partial=True
        )
    )
    for name, lines in (
        (ROWS, rows | "Rows" >> beam.Map(json.dumps)),
        (FAILURES, failures | "Failures" >> beam.Map(lambda letter: letter[1][1])),
    ):
        lines | f"Write {name}" >> beam.io.WriteToText(
            str(folder / name), ".jsonl", skip_if_empty=True
        )


def source_line(source: Source, root: Path, done: Any) -> str:
    """A source, its input folder, and (part, copy) of the results that are there, as one line."""
    facts = asdict(source) | {"label": str(source.label)}
    return json.dumps({"root": str(root), "done": sorted(done), "source": facts}) + "\n"


def read_source(line: str) -> tuple[Source, Path, set[tuple[int, int]]]:
    """What :func:`source_line` was given."""
    found = json.loads(line)
    facts = found["source"]
    files = ScanFiles(**facts["files"] | {"files": tuple(facts["files"]["files"])})
    source = Source(**facts | {"files": files, "label": PurePosixPath(facts["label"])})
    return source, Path(found["root"]), set(map(tuple, found["done"]))
