"""One small exported model for all tests of conversion, and the CT slice that pydicom carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.models import small_model
from tfstyle.convert import conversion
from tfstyle.serving import Servable, export_stylize


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base folder of the export, with version 1."""
    folder = tmp_path_factory.mktemp("convert") / "stylize"
    export_stylize(small_model("relu1_2"), folder, preset="test_preset")
    return folder


@pytest.fixture(scope="session")
def servable(saved_model: Path):
    servable = Servable("stylize", 1, saved_model / "1")
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def ct() -> str:
    return get_testdata_file("CT_small.dcm", download=False)


@pytest.fixture(autouse=True)
def _few_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CALIBRATION_PAIRS", 3)
    monkeypatch.setattr(conversion, "COMPARISON_PAIRS", 2)
