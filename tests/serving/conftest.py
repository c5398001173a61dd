"""Models that export in no time, and one development server for all tests of serving."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.minis import MeanTone
from tfstyle.export import Signature, Tensor, export_servable, export_stylize
from tfstyle.serving import Client, DevelopmentServer, Limits


@pytest.fixture(scope="session")
def model() -> MeanTone:
    return MeanTone()


@pytest.fixture(scope="session")
def models_folder(model: MeanTone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like saved_models, with stylize/1."""
    folder = tmp_path_factory.mktemp("saved_models")
    export_stylize(model, folder / "stylize", warm_up_size=0)
    return folder


@pytest.fixture(scope="session")
def server(models_folder: Path) -> Iterator[DevelopmentServer]:
    """The server that most tests share, with low limits."""
    limits = Limits(message_bytes=2**20, image_side=300, pixels=100_000)
    with DevelopmentServer(models_folder, port=0, limits=limits) as server:
        yield server


@pytest.fixture
def client(server: DevelopmentServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


NUMBERS = Tensor(("batch", "size"), "numbers", "1", (None, None))
AMOUNT = Tensor("scalar, [1] or [batch]", "what is added", "1", (None, None))


def _add(scale, x, amount):
    check = tf.debugging.Assert(tf.reduce_all(x >= 0.0), ["x: must be at least 0"])
    with tf.control_dependencies([check]):
        return {"y": scale * x + tf.reshape(amount, [-1, 1])}


@pytest.fixture(scope="session")
def sum_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2 of ``sum``: y = version · x + amount, for x of at least 0."""
    folder = tmp_path_factory.mktemp("sums") / "sum"
    for version in (1, 2):
        scale = tf.Variable(float(version))
        add = Signature({"x": NUMBERS, "amount": AMOUNT}, {"y": NUMBERS}, partial(_add, scale))
        examples = {"x": np.ones((2, 3), np.float32), "amount": np.float32(0.5)}
        table = {"add": add}
        export_servable(table, folder, version, name="sum", default="add", examples=examples)
    return folder
