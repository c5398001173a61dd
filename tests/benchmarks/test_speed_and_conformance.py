"""Figures of speed and of conformance: how they are made, and that the pages have them."""

import json
import shutil

from tests.process import ROOT
from tfstyle.data import read_scans

BENCHMARKS = ROOT / "benchmarks"


def test_a_series_of_any_length_is_one_scan(script, ct, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ct, source)
    script("speed").make_series(source, tmp_path / "long", 3)
    (scan,) = read_scans(tmp_path / "long")
    assert (len(scan), scan.spacing[0]) == (3, 3.0)


def test_page_is_that_of_the_committed_figures_of_speed(script):
    speed = script("speed")
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert speed.filled(page, json.loads((BENCHMARKS / "speed.json").read_text())) == page


def test_page_has_the_committed_figures_of_conformance():
    totals = json.loads((BENCHMARKS / "dciodvfy.json").read_text())["totals"]
    assert totals["new keep"] == totals["new basic"] == 0
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert f"on {totals['files']} files it finds no error" in page


def test_errors_that_derived_files_alone_have(script):
    new_errors = script("dciodvfy").new_errors
    source = ["Error - a", "Error - same UID <1.2.840.113619.2.1>"]
    derived = ["Error - same UID <2.25.1234567890>", "Error - a", "Error - a", "Error - b"]
    assert new_errors(source, derived) == ["Error - a", "Error - b"]
    assert new_errors(source, []) == []
