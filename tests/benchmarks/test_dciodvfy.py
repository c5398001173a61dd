import json
import runpy
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

ROOT = Path(__file__).resolve().parent.parent.parent


SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "dciodvfy.py"))


def test_committed_figures():
    totals = json.loads((ROOT / "benchmarks" / "dciodvfy.json").read_text())["totals"]
    assert totals["new keep"] == totals["new basic"] == 0
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert f"on {totals['files']} files it finds no error" in page


def test_new_errors():
    source = ["Error - a", "Error - same UID <1.2.840.113619.2.1>"]
    derived = ["Error - same UID <2.25.1234567890>", "Error - a", "Error - a", "Error - b"]
    assert SCRIPT["new_errors"](source, derived) == ["Error - a", "Error - b"]
    assert SCRIPT["new_errors"](source, []) == []


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
class TestConformance:
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize(
        "name",
        [
            "CT_small.dcm",
            "explicit_VR-UN.dcm",
            "bad_sequence.dcm",  # UIDs that are none
            "eCT_Supplemental.dcm",  # enhanced, with palettes
            "emri_small.dcm",  # enhanced MR without places
            "JPGLosslessP14SV1_1s_1f_8b.dcm",  # ultrasound of 8 bits
        ],
    )
    def test_no_new_errors(self, name, tmp_path):
        path = get_testdata_file(name, download=False)
        if path is None:
            pytest.skip("needs pydicom-data")
        found = SCRIPT["check"](Path(path), tmp_path)
        assert found["new keep"] == found["new basic"] == []

    def test_errors_are_seen(self, tmp_path):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        del dataset.ImagePositionPatient
        dataset.save_as(tmp_path / "ct.dcm")
        found = SCRIPT["errors_of"](tmp_path / "ct.dcm")
        assert any("ImagePositionPatient" in error for error in found)
