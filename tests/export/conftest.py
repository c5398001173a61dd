"""A small exported model of each class for the tests of export."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tfstyle
from tests.models import small_model, small_tone
from tfstyle.export import Servable, export_stylize

TONE = pytest.param(small_tone, marks=pytest.mark.slow)


@pytest.fixture(scope="session", params=[small_model, TONE], ids=["style", "tone"])
def model(request: pytest.FixtureRequest) -> tfstyle.StyleTransfer | tfstyle.ToneTransfer:
    return request.param()


@pytest.fixture(scope="session")
def saved_model(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models") / "stylize"
    return export_stylize(model, folder, preset="test_preset", warm_up_size=16)


@pytest.fixture(scope="session")
def servable(saved_model: Path) -> Iterator[Servable]:
    """The export, loaded once for the tests that run its graph in this process."""
    with Servable(saved_model) as servable:
        yield servable
