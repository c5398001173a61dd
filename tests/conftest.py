"""Settings for all tests: CPU only, quiet, few threads. Runs before TensorFlow is imported."""

from __future__ import annotations

import logging
import os

import hypothesis
import pytest

# A busy machine is slow, which is no fault.
hypothesis.settings.register_profile("tfstyle", deadline=None)
hypothesis.settings.load_profile("tfstyle")

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# Several processes share the cores under `pytest -n`.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = str(max(1, min(4, os.cpu_count() or 1) // _workers))
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _threads)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", _threads)


def pytest_collection_modifyitems(items):
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def loggers_of_tfstyle():
    """Loggers are after a test what they were before: a command sets them up for its process."""
    known = logging.root.manager.loggerDict
    names = ("", "tfstyle", *(name for name in known if name.startswith("tfstyle.")))
    loggers = [logging.getLogger(name or None) for name in names]
    before = [(x, x.level, x.propagate, x.disabled, x.handlers[:]) for x in loggers]
    yield
    for logger, level, propagate, disabled, handlers in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        if logger is not logging.root:
            logger.handlers[:] = handlers


@pytest.fixture
def _logging_as_before():
    """The command sets up logging for a process of its own; other tests get theirs back."""
    from tfstyle.cli.output import NOISY

    logger = logging.getLogger("tfstyle")
    noisy = [logging.getLogger(name) for name in NOISY]
    before = logger.level, logger.propagate, logger.handlers, [one.filters[:] for one in noisy]
    yield
    logging.captureWarnings(False)
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:3]
    for one, filters in zip(noisy, before[3]):
        one.filters = filters
