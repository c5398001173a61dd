"""The benchmark on patients of other collections: its archives, and the page of its figures."""

import hashlib
import json
import tarfile

import pytest
from pydicom.data import get_testdata_file

from tests.process import ROOT
from tfstyle.errors import InputFileError


@pytest.fixture
def external(script):
    return script("external")


def test_a_patient_is_read_from_an_archive(external, tmp_path, monkeypatch):
    path = tmp_path / "package-1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(get_testdata_file("CT_small.dcm"), "package-1/data/pat_1/0.dcm")
        tar.add(get_testdata_file("MR_small.dcm"), "package-1/data/pat_10/0.dcm")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(external, "ARCHIVES", {"package-1": digest})
    monkeypatch.setattr(external, "PATIENTS", {"package_1": "package-1/data/pat_1"})
    (scan,) = external.load_archives(tmp_path).values()
    assert (scan.id, scan.group, scan.hu.shape) == ("package_1", "package_1", (1, 128, 128))
    path.write_bytes(path.read_bytes()[:-1])
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(InputFileError, match="is not there, or another"):
            external.load_archives(folder)


def test_page_is_that_of_the_committed_figures(external):
    result = json.loads((ROOT / "benchmarks" / "external.json").read_text())
    page = (ROOT / "docs" / "results" / "external.md").read_text(encoding="utf-8")
    assert external.page(result) == page
    ours, matched = (
        f"{result['methods'][name]['all_folds']['mean']:.3f}"
        for name in ("tone_ct", "foreground_histogram_matching")
    )
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"the preset itself has {ours}, histogram matching above the floor {matched}." in readme
