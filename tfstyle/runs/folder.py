"""The folder that one command fills: settings, journal, lock, and how a later run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfstyle._private.files import (
    is_inside,
    is_unused,
    locked,
    parse_json,
    read_json,
    read_limited,
    remove,
    remove_abandoned,
    write_atomically,
)
from tfstyle.errors import ArgumentError, OutputError, writing

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)


class RunFolder:
    """A folder of one run, whose lock is held inside a ``with`` statement.

    Each thing that is finished becomes a row of the journal, a file of one JSON object a line. A
    later run with the same settings finds these rows and does what is missing. One with other
    settings is an ArgumentError, but where nothing `came` of those before, they are replaced.
    `overwrite` names what a run of this kind writes, to be removed first; `facts` makes what is
    noted beside new settings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict[str, Any],
        *,
        record: str = "settings.json",
        journal: str = "journal.jsonl",
        what: str = "run",
        facts: Callable[[], dict] = dict,
        came: Callable[[RunFolder], bool] | None = None,
        overwrite: Iterable[str] | None = None,
    ):
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))
        self.record, self.journal = self.path / record, self.path / journal
        self.what, self.facts, self.came = what, facts, came
        self.overwrite = overwrite
        self.found: dict = {}
        self.rows: list[dict] = []
        self._threads = threading.Lock()
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(locked(self.path))
            self._open()
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def _open(self) -> None:
        try:
            self.found = read_json(self.record)
        except FileNotFoundError:
            if not is_unused(self.path):
                problem = f"is not empty and holds no {self.what}; choose another folder."
                raise OutputError(self.path, problem) from None
            return self._begin()
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({error}); choose another folder."
            raise OutputError(self.record, problem) from error
        remove_abandoned(self.path, deep=True)
        before, now = _flat(self.found), _flat(self.settings)
        ours = now.keys() <= before.keys()
        if not now.keys() & before.keys():
            raise OutputError(self.record, "holds no settings of a run; choose another folder.")
        if self.overwrite is not None and ours:
            for name in self.overwrite:
                remove(self.path / name)
            remove(self.journal)
            return self._begin()
        self.rows = read_rows(self.journal)
        changed = [key for key, value in now.items() if key not in before or before[key] != value]
        if not changed:
            return None
        began = bool(self.rows) if self.came is None else self.came(self)
        if began or not ours:
            said = [_difference(key, now[key], before.get(key), self.path) for key in changed]
            how = "Give the same settings to resume that run, or choose another folder."
            raise ArgumentError(f"{'; '.join(said)}. {how}")
        self.rows = []
        return self._begin()

    def _begin(self) -> None:
        remove_abandoned(self.path)
        self.found = self.settings | json.loads(json.dumps(self.facts()))
        text = json.dumps(self.found, indent=2) + "\n"
        write_atomically(self.record, text.encode())
        remove(self.journal)

    def keep(self, rows: Iterable[dict]) -> None:
        """Replaces the journal as a whole; an OutputError if it cannot be written."""
        self.rows = list(rows)
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self.journal, text.encode())

    def add(self, row: dict) -> None:
        """Adds a row to the journal, from any thread; an OutputError if it cannot be written."""
        with self._threads:
            with writing(self.journal), open(self.journal, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.rows.append(row)


def read_rows(journal: Path) -> list[dict]:
    """The rows of a journal; none without the file, an OutputError if it cannot be read."""
    try:
        text = read_limited(journal, "manifest_bytes").decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(journal, f"cannot be read ({error.strerror}).") from error
    rows = []
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:  # the end of a run that was stopped
            log.info("%s: passed over a line that is cut short.", journal)
    return rows


def inside(folder: Path, path: Path) -> Path:
    """`path`, if no link on the way leads out of `folder`; else an OutputError."""
    if not is_inside(folder, path):
        raise OutputError(path, f"a link leads out of {folder}; remove it.")
    return path


def files_digest(files: Iterable[str | os.PathLike], *facts: Any) -> str:
    """A digest of names, sizes and times of files, and of what else is to be told apart."""
    known = [
        (os.path.abspath(file), status.st_size, status.st_mtime_ns)
        for file, status in ((file, os.stat(file)) for file in files)
    ]
    return hashlib.sha256(json.dumps([facts, known]).encode()).hexdigest()


def _flat(settings: object) -> dict[str, Any]:
    """Settings without their groups; nothing for what is not settings."""
    found: dict[str, Any] = {}
    for key, value in settings.items() if isinstance(settings, dict) else ():
        found |= value if isinstance(value, dict) else {key: value}
    return found


def _difference(key: str, now: object, before: object, path: Path) -> str:
    if isinstance(now, str) and len(now) == 64:  # a digest says nothing
        return f"{key.replace('_', ' ')}: differ from those that {path} was begun with"
    return f"{key}: {now!r}, but {path} was begun with {before!r}"
