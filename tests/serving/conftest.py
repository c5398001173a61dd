"""One small model, its export and one embedded server for all tests of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.export import Servable, export_servable, export_stylize
from tfstyle.export.signatures import Signature, Tensor
from tfstyle.serving import Client, EmbeddedServer, Limits


@pytest.fixture(scope="session")
def model() -> tfstyle.StyleTransfer:
    import keras

    keras.utils.set_random_seed(7)
    model = tfstyle.StyleTransfer(
        encoder=tfstyle.encoders.VGG16(weights=None, depth="relu2_1"), layer="relu2_1"
    )
    # Random weights give images far outside [0, 1], all alike once they are clipped. Spread them
    # over the gray scale, so that equal images mean something.
    kernel, bias = model.decoder.weights[-2:]
    random = np.random.default_rng(1)
    images = {k: random.random((2, 24, 24, 1), dtype=np.float32) for k in ("content", "style")}
    images["style"] **= np.float32([[[[0.5]]], [[[3.0]]]])
    raw = np.asarray(model(images))
    scale = 0.2 / raw.std()
    kernel.assign(kernel * scale)
    bias.assign(bias * 0 + 0.5 - raw.mean() * scale)
    generated = model.stylize(images["content"], images["style"], detail="plain")
    assert 0.1 < generated.std() < 0.3
    assert np.mean((generated > 0) & (generated < 1)) > 0.9
    return model


@pytest.fixture(scope="session")
def models_folder(model: tfstyle.StyleTransfer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like saved_models, with stylize/1."""
    folder = tmp_path_factory.mktemp("saved_models")
    export_stylize(model, folder / "stylize", preset="test_preset", warm_up_size=16)
    return folder


@pytest.fixture(scope="session")
def saved_model(models_folder: Path) -> Path:
    return models_folder / "stylize" / "1"


@pytest.fixture(scope="session")
def servable(saved_model: Path) -> Iterator[Servable]:
    """The export, loaded once for the tests that run its graph in this process."""
    servable = Servable("stylize", 1, saved_model)
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def server(models_folder: Path) -> Iterator[EmbeddedServer]:
    """The server that most tests share, gRPC and REST, with low limits."""
    limits = Limits(message_bytes=2**20, image_side=300, pixels=100_000)
    with EmbeddedServer(
        models_folder, port=0, rest_port=0, limits=limits, warm_up=False, poll_seconds=0
    ) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(20)


NUMBERS = Tensor(("batch", "size"), "numbers", "1", (None, None))
AMOUNT = Tensor(None, "what is added", "1", (None, None), shape_note="scalar, [1] or [batch]")


def _positive(x, amount):
    check = tf.debugging.Assert(tf.reduce_all(x >= 0.0), ["x: must be at least 0"])
    with tf.control_dependencies([check]):
        return tf.identity(x), tf.reshape(amount, [-1, 1])


def export_sum(folder: Path, version: int | None = None, factor: float = 1.0) -> Path:
    """A servable that loads in no time: y = factor · x + amount, for x of at least 0."""
    scale = tf.Variable(factor)
    table = {
        "add": Signature(
            {"x": NUMBERS, "amount": AMOUNT},
            {"y": NUMBERS},
            lambda x, amount: {"y": scale * x + amount},
            _positive,
        )
    }
    examples = {"x": np.ones((2, 3), np.float32), "amount": np.float32(0.5)}
    return export_servable(
        table,
        folder,
        version,
        name="sum",
        default="add",
        examples=examples,
        warm_up={"x": (1, 3), "amount": (1,)},
    )


@pytest.fixture(scope="session")
def sum_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the versions 1 and 2 of ``sum``; the factor is the version."""
    folder = tmp_path_factory.mktemp("sums") / "sum"
    for version in (1, 2):
        export_sum(folder, version, float(version))
    return folder
