"""Loggers that keep silent for a while."""

from __future__ import annotations

import logging
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
