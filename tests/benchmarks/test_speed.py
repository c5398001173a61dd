"""The tables of speed: of given figures, and on the page those of the committed ones."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tfstyle.data import read_scans

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("speed")


def test_a_series_of_any_length_is_one_scan(speed, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), source)
    speed.make_series(source, tmp_path / "long", 3)
    (scan,) = read_scans(tmp_path / "long")
    assert (len(scan), scan.spacing[0]) == (3, 3.0)


def test_page_is_that_of_the_committed_figures(speed):
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert speed.filled(page, json.loads((BENCHMARKS / "speed.json").read_text())) == page
