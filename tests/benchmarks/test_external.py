"""The benchmark on patients of other collections: its archives, and the page of its figures."""

from __future__ import annotations

import hashlib
import importlib
import json
import tarfile
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tfstyle.errors import InputFileError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def external(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("external")


def test_a_patient_is_read_from_an_archive(external, tmp_path, monkeypatch):
    path = tmp_path / "package-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(get_testdata_file("CT_small.dcm"), "package-1/data/pat_1/0.dcm")
        tar.add(get_testdata_file("MR_small.dcm"), "package-1/data/pat_10/0.dcm")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    patients = {"package_1": "data/pat_1"}
    monkeypatch.setattr(external, "ARCHIVES", {"package-1": (digest, patients)})
    (scan,) = external.load_archives(tmp_path).values()
    assert (scan.id, scan.group, scan.hu.shape) == ("package_1", "package_1", (1, 128, 128))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputFileError, match="is not the archive of this name"):
        external.load_archives(tmp_path)
    with pytest.raises(InputFileError, match="no such file"):
        external.load_archives(tmp_path / "elsewhere")


def test_page_is_that_of_the_committed_figures(external):
    result = json.loads((ROOT / "benchmarks" / "external.json").read_text())
    page = (ROOT / "docs" / "results" / "external.md").read_text(encoding="utf-8")
    assert external.page(result) == page
    ours, matched = (
        f"{result['methods'][name]['all']['mean']:.3f}"
        for name in ("tone_ct", "foreground_histogram_matching")
    )
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"the preset itself has {ours}, histogram matching above the floor {matched}." in readme
