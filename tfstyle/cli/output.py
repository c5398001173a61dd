"""What commands print: facts, tables and progress bars; the log on stderr."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from tfstyle._private.logs import held_stderr

if TYPE_CHECKING:
    from rich.console import Console

    from tfstyle.cli.options import Reporting

PROGRAM = "tfstyle"
NOISY = ("py.warnings", "tensorflow", "absl", "pydicom", "h5py")
#: Failed inputs that are named on the screen; the manifest names all.
SHOWN_FAILURES = 100


def silence(debug: bool = False, quiet: bool = False) -> None:
    """Sets logging to plain lines on stderr and imports TensorFlow without its noise.

    `debug` shows everything instead, `quiet` errors only, no warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormat())
    logger = logging.getLogger("tfstyle")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    if debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.captureWarnings(True)
    # Filters and not levels: some of these packages set their level again when imported.
    for name in NOISY:
        logging.getLogger(name).addFilter(_critical)
    with held_stderr():  # its C++ part prints before any log level holds
        import tensorflow  # noqa: F401


def _critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


class _LogFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{PROGRAM}: {record.levelname.lower()}: {super().format(record)}"


def complain(message: str) -> None:
    """Prints one line on stderr."""
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


def complain_of_failed(failed: Mapping[str, str], what_then: str, manifest: object = None) -> None:
    """Names inputs that failed, the first of many where a manifest names all."""
    shown = len(failed) if manifest is None else SHOWN_FAILURES
    for source, reason in islice(failed.items(), shown):
        complain(f"failed: {source}: {reason}")
    if len(failed) > shown:
        complain(f"failed: {len(failed) - shown} more; see {manifest}")
    if failed:
        complain(f"error: {len(failed)} of the inputs failed{what_then}")


def console() -> Console:
    """The console on stdout; prints names and values as they are: no [markup], no :emoji:."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    options: dict[str, Any] = {} if terminal else {"width": 10_000, "soft_wrap": True}
    return Console(highlight=False, markup=False, emoji=False, **options)


def plain(value: Any) -> Any:
    """A value of another library as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def print_facts(out: Console, facts: Mapping[str, Any]) -> None:
    """Prints names and values, a line each."""
    for name, value in facts.items():
        out.print(f"  {name}: {value}")


def print_accounts(results: Sequence[Any], facts_of: Callable[[Any], Mapping[str, Any]]) -> None:
    """Prints each result's source, and its facts below."""
    out = console()
    for result in results:
        out.print(result.source, style="bold")
        print_facts(out, facts_of(result))


def print_table(out: Console, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, words on the left and numbers on the right."""
    from rich.table import Table

    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for i, name in enumerate(head):
        numbers = all(re.fullmatch(r"-|-?[\d.]+( kB)?", row[i]) for row in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    out.print(table)


def print_tree(out: Console, value: Any, name: str = "", depth: int = 0) -> None:
    """Prints nested facts as indented lines."""
    indent = "  " * depth
    label = f"{name}: " if name else ""
    if isinstance(value, dict):
        if name:
            out.print(f"{indent}{label.strip()}", style="bold")
        for key, item in value.items():
            if key != "kind" or depth:
                print_tree(out, item, str(key), depth + bool(name))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        out.print(f"{indent}{label.strip()}", style="bold")
        for number, item in enumerate(value):
            if number:
                out.print()
            print_tree(out, item, "", depth + 1)
    elif isinstance(value, (list, tuple)):
        out.print(f"{indent}{label}{', '.join(map(str, value)) or 'none'}")
    else:
        out.print(f"{indent}{label}{'-' if value is None else value}")


@contextmanager
def progress(reporting: Reporting, title: str) -> Iterator[Callable]:
    """A progress bar on stderr; yields ``update(done, total, label)``."""
    from rich import progress as bars
    from rich.console import Console

    err = Console(stderr=True, emoji=False)
    bar = bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=reporting.quiet or not err.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int, label: str = "") -> None:
            description = f"{title} {label}".rstrip()
            bar.update(task, completed=done, total=total, description=description)

        yield update
