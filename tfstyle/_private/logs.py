"""Loggers and libraries that keep silent for a while."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(logger: logging.Logger) -> Iterator[None]:
    """Lets nothing but errors through a logger inside the ``with`` statement."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keeps TensorFlow's notices about what is deprecated or noteworthy to it off the log."""
    import tensorflow as tf

    with errors_only(tf.get_logger()):
        yield


@contextmanager
def held_stderr() -> Iterator[None]:
    """Holds back what C and C++ libraries print, and shows it if an exception leaves the block.

    With the log of tfstyle at the level of debugging, all is shown at once.
    """
    if logging.getLogger("tfstyle").isEnabledFor(logging.DEBUG):
        yield
        return
    with tempfile.TemporaryFile() as noise:
        stderr = os.dup(2)
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except Exception:
            noise.seek(0)
            os.write(stderr, noise.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
