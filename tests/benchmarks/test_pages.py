"""Figures of speed, conformance, other collections: how they are made, that pages have them."""

import hashlib
import json
import shutil
import tarfile

import pytest

from tests.process import ROOT
from tfstyle.data import read_scans
from tfstyle.errors import InputFileError

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


def test_a_patient_is_read_from_an_archive(script, ct, tmp_path, monkeypatch):
    external, path = script("external"), tmp_path / "package-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(ct, "package-1/data/pat_1/0.dcm")
        tar.add(ROOT / "README.md", "package-1/data/pat_10/0.dcm")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(external, "ARCHIVES", {"package-1": digest})
    monkeypatch.setattr(external, "PATIENTS", {"package_1": "package-1/data/pat_1"})
    (scan,) = external.load_archives(tmp_path).values()
    assert (scan.id, scan.group, scan.hu.shape) == ("package_1", "package_1", (1, 128, 128))
    path.write_bytes(path.read_bytes()[:-1])
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(InputFileError, match="is not there, or another"):
            external.load_archives(folder)


def test_page_and_readme_have_the_committed_figures_of_other_collections(script):
    result = json.loads((BENCHMARKS / "external.json").read_text())
    page = (ROOT / "docs" / "results" / "external.md").read_text(encoding="utf-8")
    assert script("external").page(result) == page
    names = ("tone_ct", "foreground_histogram_matching")
    ours, matched = (f"{result['methods'][name]['all_folds']['mean']:.3f}" for name in names)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"the preset itself has {ours}, histogram matching above the floor {matched}." in readme
