"""Runs the development server until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfstyle.errors import ArgumentError
from tfstyle.serving.server import DevelopmentServer

logger = logging.getLogger(__name__)


def serve(
    models: str | Path | Mapping[str, str | Path] = "saved_models",
    port: int = 8500,
    *,
    grace: float = 10.0,
    on_ready: Callable[[DevelopmentServer], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve models over gRPC on loopback until SIGTERM, SIGINT (Ctrl-C) or ``stop``.

    This is :class:`DevelopmentServer`. To serve others, start TensorFlow Serving with the same
    folder, see ``serving/``.

    Args:
        models: A model name to base path, a folder of base paths, or one base path, see
            :func:`tfstyle.serving.resolve_models`.
        port: gRPC port; 0 takes a free one.
        grace: Seconds that requests in progress may take after the signal.
        on_ready: Called once with the server, when it answers.
        stop: Set it to end the call, for example from another thread.

    Raises:
        ArgumentError: ``port``, ``grace`` or ``models`` cannot be used.
        InputFileError: A model folder is missing, empty or damaged.
        MissingPackageError: The extra ``serving`` is not installed.
        ServingError: The port is taken.

    Example:
        >>> serve("saved_models", port=8500)                      # doctest: +SKIP
    """
    if not grace >= 0:
        raise ArgumentError(f"grace: must be at least 0 seconds, received {grace!r}.")
    server = DevelopmentServer(models, port=port)
    stop = stop or threading.Event()
    with _stop_on_signals(stop):
        try:
            server.start()
            if on_ready is not None and not stop.is_set():
                on_ready(server)
            stop.wait()
        finally:
            server.stop(grace)


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second signal has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone; `stop` ends the server here
        return
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def handle(number: int, _frame: object) -> None:
        restore()
        logger.info("%s received, stopping", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
