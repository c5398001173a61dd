"""Sets of results with a manifest: a line for each result, and for each input that failed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from tfstyle.data.privacy import problem_of
from tfstyle.errors import InputFileError
from tfstyle.limits import limits
from tfstyle.runs.folder import RunFolder

#: In the output folder: one JSON object a line for each result, and each input that failed.
MANIFEST = "manifest.jsonl"
#: In the output folder: what all results have in common, so that a run resumes as it began.
SETTINGS = "settings.json"


class ManifestFolder(RunFolder):
    """A run folder whose rows of results that are there stay, in `done` by source and (part, copy).

    What failed or was left out is found again. `overwrite` removes the results of an earlier run.
    """

    def __init__(
        self, path: str | os.PathLike, settings: dict, *, overwrite: bool = False, **options: Any
    ):
        super().__init__(
            path,
            settings,
            record=SETTINGS,
            journal=MANIFEST,
            came=lambda run: any(map(_is_done, run.rows)),
            overwrite=("images", "masks") if overwrite else None,
            **options,
        )
        self.done: dict[str, dict[tuple[int, int], dict]] = {}

    def _open(self) -> None:
        super()._open()
        self.rows = [row for row in self.rows if _is_done(row) and self._is_there(row)]
        self.tidy()
        for row in self.rows:
            self._note(row)

    def _is_there(self, row: dict) -> bool:
        paths = [self.path / row[key] for key in ("image", "mask") if row.get(key)]
        return all(map(os.path.exists, paths))  # False too for a name that is too long

    def _note(self, row: dict) -> None:
        if row["status"] == "done":
            self.done.setdefault(row["source"], {})[row["part"], row["copy"]] = row

    def add(self, row: dict) -> None:
        """Adds a row; see :meth:`RunFolder.add`."""
        super().add(row)
        self._note(row)

    def take(self, rows: Iterable[dict]) -> None:
        """Adds the rows of results that are there, made by another process; passes over others."""
        for row in rows:
            if _is_done(row) and self._is_there(row):
                self.add(row)

    def complete(self, source: str, copies: int) -> bool:
        """Whether every copy of every part of a source is there."""
        done = self.done.get(source, {})
        parts = done[0, 1]["parts"] if (0, 1) in done else 0
        wanted = product(range(parts), range(1, copies + 1))
        return parts > 0 and all(one in done for one in wanted)

    def count(self, sources: Sequence[str], copies: int) -> int:
        """Number of results of some sources."""
        return sum(copy <= copies for name in set(sources) for _, copy in self.done.get(name, ()))

    def tidy(self) -> list[dict]:
        """Sorts the rows, one a result and one a failure, in place of the order of events."""
        rows = {(row["source"], row.get("part", -1), row.get("copy", 0)): row for row in self.rows}
        self.keep(rows[key] for key in sorted(rows))
        return self.rows


def failure_row(name: str, error: Exception, inputs: Path) -> dict:
    """The row of the manifest for an input that cannot be used."""
    reason = problem_of(error)
    if isinstance(error, InputFileError):  # relative, as all paths of the manifest
        path = relative_path(error.path, inputs)
        reason = error.problem if path == name else f"{path}: {error.problem}"
    return {"status": "failed", "source": name, "reason": reason}


def relative_path(path: str, root: Path) -> str:
    """A path in the input folder, or beside the one input file, as the manifest has it."""
    root = root if root.is_dir() else root.parent
    return Path(os.path.relpath(path, root)).as_posix()


def _is_done(row: dict) -> bool:
    """Whether a row says, in full, that a result is finished."""
    return (
        row.get("status") == "done"
        and isinstance(row.get("source"), str)
        and _is_below(row.get("image"))
        and (row.get("mask") is None or _is_below(row["mask"]))
        and all(type(row.get(key)) is int for key in ("part", "parts", "copy"))
        and 0 <= row["part"] < row["parts"] <= limits().frames
    )


def _is_below(path: object) -> bool:
    """Whether a path of the manifest stays in the output folder."""
    if not isinstance(path, str) or "\0" in path:
        return False
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts
