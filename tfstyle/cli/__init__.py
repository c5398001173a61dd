"""The command ``tfstyle``: parses arguments, calls the library, prints.

Each command is a function in a module of its own; Cyclopts makes options of its parameters, help of
its docstring.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from tfstyle import __version__
from tfstyle.cli.options import IN_AND_OUT, OPTIONS, Reporting, unwrapped
from tfstyle.cli.output import PROGRAM, complain, plain, silence
from tfstyle.errors import ArgumentError, StorageError, TfstyleError

EXIT_FAILURE, EXIT_USAGE, EXIT_STORAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143
COMMANDS = (
    "stylize",
    "augment",
    "segment",
    "train",
    "prepare",
    "export",
    "convert",
    "serve",
    "info",
    "phantom",
)


def _shown(default: Any) -> str | None:
    """A default value as it would be typed; None where there is nothing to type."""
    if default is None or default is False or default == ():
        return None
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


app = App(
    name=PROGRAM,
    help="""Style transfer for CT: changes the gray scale of a scan, keeps its anatomy.

Not a medical device; not for diagnosis.""",
    help_epilogue="""Examples:
  tfstyle stylize ct_series/ --style reference.dcm -o stylized/
  tfstyle train --content ct/ --style other_scanner/ --output runs/first
  tfstyle augment train/images augmented/ --styles scanners/ --masks train/masks
  tfstyle segment ct.nii.gz -o spine.nii.gz
  tfstyle export -o saved_models/stylize
  tfstyle convert saved_models/stylize --to tflite --size 256 -o stylize.tflite
  tfstyle serve
  tfstyle info

Each command has its own help: tfstyle stylize --help""",
    version=f"{PROGRAM} {__version__}",
    help_format="plaintext",
    default_parameter=Parameter(negative=(), show_default=_shown, allow_repeating=True),
    group_arguments=IN_AND_OUT,
    group_parameters=OPTIONS,
)
for _number, _name in enumerate(COMMANDS):
    _module = importlib.import_module(f"{__name__}.{_name}")
    _command = getattr(_module, _name)
    _command.__doc__ = unwrapped(_command.__doc__)
    app.command(_command, help_epilogue=_module.EXAMPLES, sort_key=_number)
for _flag in ("--help", "--version"):
    app[_flag].group = (OPTIONS,)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name. Defaults to those of the process.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage, 3 the output's place is full or read-only,
        130 interrupted, 143 ended by SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold any bytes, and an encoding may lack what messages are written in.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    with _terminable() as terminated:
        status = _run(words, terminated)
    if status == EXIT_INTERRUPTED and terminated.is_set():
        status = EXIT_TERMINATED
    # Threads of a tf.data pipeline that wait for Python cannot end once the interpreter has begun
    # to; what is left of a pipeline, after Ctrl-C say, must go before.
    gc.collect()
    return status


def parse(words: Sequence[str]) -> tuple[Callable, inspect.BoundArguments]:
    """The function of a command line, and its arguments; else an ArgumentError of one line."""
    chain = [PROGRAM, *(word for word in words[:1] if word in COMMANDS)]
    try:
        # A window such as -600,1500 is a value and not an option; options.strip takes the space.
        spaced = [f" {word}" if re.match(r"-\.?\d[\d.]*,", word) else word for word in words]
        return app.parse_args(spaced, exit_on_error=False, print_error=False)[:2]
    except (ArgumentError, CycloptsError) as error:
        cause = str(error.__cause__ if isinstance(error.__cause__, ArgumentError) else error)
        if isinstance(error, UnusedCliTokensError):
            words = " ".join(error.unused_tokens or ())
            cause = f"{words}: not expected here; give all inputs together"
        text = cause if cause[-1:] in ".?" else f"{cause}."
        raise ArgumentError(f"{text} See {' '.join(chain)} --help.") from None


def _run(words: Sequence[str], terminated: threading.Event) -> int:
    reporting = Reporting()
    try:
        command, bound = parse(words)
        reporting = bound.arguments.get("reporting", reporting)
        if command.__module__.startswith(__name__):  # and not help or version
            silence(debug=reporting.debug, quiet=reporting.quiet)
        result = command(*bound.args, **bound.kwargs)
        if reporting.json and result is not None:
            print(json.dumps(result, indent=2, default=plain))
        sys.stdout.flush()
        if not words:
            return EXIT_USAGE
        return EXIT_FAILURE if result and result.get("failed") else 0
    except KeyboardInterrupt:
        if reporting.debug:
            raise
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except TfstyleError as error:
        if reporting.debug:
            raise
        complain(f"error: {error}")
        if isinstance(error, StorageError):
            return EXIT_STORAGE
        return EXIT_USAGE if isinstance(error, ArgumentError) else EXIT_FAILURE
    except Exception as error:
        from tfstyle.data.privacy import reason_of

        if reporting.debug:
            raise
        if terminated.is_set():  # lost inside a library, which continued without an answer
            complain("interrupted")
            return EXIT_INTERRUPTED
        detail = f"{error}"
        if not isinstance(error, OSError):  # whose text may quote what a file holds
            detail = f"{type(error).__name__}: {reason_of(error)} (see more with --debug)"
        complain(f"error: {detail}")
        return EXIT_FAILURE


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Has SIGTERM end the command as Ctrl-C does, so that nothing is left under temporary names."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def end(number: int, frame: Any) -> None:
        terminated.set()
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # started in the background by a shell, which ignores Ctrl-C
            raise KeyboardInterrupt
        interrupt(number, frame)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
