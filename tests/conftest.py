"""Settings for all tests: CPU only, quiet, few threads. Runs before TensorFlow is imported."""

import importlib
import logging
import os

import hypothesis
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from tests.process import ROOT

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
def loggers_as_before():
    """Loggers are after a test what they were before: a command sets them up for its process."""
    from tfstyle.cli.output import NOISY

    known = [name for name in logging.root.manager.loggerDict if name.startswith("tfstyle")]
    loggers = [logging.getLogger(name) for name in {"tfstyle", *NOISY, *known}]
    before = [(x, x.level, x.propagate, x.disabled, x.handlers[:], x.filters[:]) for x in loggers]
    level = logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.setLevel(level)
    for logger, level, propagate, disabled, handlers, filters in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        logger.handlers[:], logger.filters[:] = handlers, filters


@pytest.fixture
def run(capsys):
    """``run(*words)`` gives the status of a command, its stdout and stderr."""
    from tfstyle import cli

    def run(*words: object) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def random():
    """A generator of random numbers, in every test the same."""
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def ct():
    """The path of a CT slice that pydicom's wheel holds."""
    return get_testdata_file("CT_small.dcm", download=False)


@pytest.fixture
def script(monkeypatch):
    """``script(name)`` gives a module of benchmarks/ or scripts/."""
    for folder in ("benchmarks", "scripts"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


@pytest.fixture(scope="session")
def model():
    """A small untrained StyleTransfer."""
    from tests.models import small_model

    return small_model("relu1_1")


@pytest.fixture(scope="session")
def tone():
    """A small untrained ToneTransfer."""
    from tests.models import small_tone

    return small_tone()


@pytest.fixture(scope="session")
def bank(model):
    """Three styles of the model."""
    from tests.models import image
    from tfstyle.style_bank import StyleBank

    styles = [0.3 * image(20, (24, 24)), image(21, (32, 16)), 0.5 + 0.5 * image(22, (20, 20))]
    return StyleBank.encode(model, styles, names=["dark", "middle", "bright"])
