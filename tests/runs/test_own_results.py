"""An output folder inside the input: results are not taken for scans by the next run."""

import shutil

import pytest

from tests.minis import ct_series, ct_volume
from tests.models import image
from tfstyle.data import read_scans, write_png
from tfstyle.runs import augment_scans, stylize_scans
from tfstyle.style_bank import StyleBank


@pytest.fixture
def folder(tmp_path):
    """A DICOM series of two slices, a NIfTI volume and a picture."""
    place = tmp_path / "in"
    ct_series(place / "series")
    ct_volume(place / "v.nii.gz")
    write_png(image(4, (24, 20)), place / "p.png")
    return place


@pytest.mark.parametrize("deidentify", ["keep", "basic"])
def test_stylize_twice(model, folder, tmp_path, caplog, deidentify):
    style, options = [tmp_path / "style.png"], {"deidentify": deidentify}
    write_png(0.5 * image(5, (24, 24)), style[0])
    first = stylize_scans(model, [folder], style, folder / "out", **options)
    assert len(first) == 3
    again = stylize_scans(model, [folder], style, folder / "out", **options)
    assert [one.source for one in again] == [one.source for one in first]
    assert "Left out of" in caplog.text
    assert "which tfstyle made" in caplog.text
    if deidentify == "keep":
        assert all(one.resumed for one in again)
    assert sorted(scan.name for scan in read_scans(folder)) == ["p", "series", "v"]


def test_augmented_sets_are_no_sources(model, folder, tmp_path):
    styles = StyleBank.encode(model, [image(20, (24, 24))], names=["one"])
    augment_scans(model, folder, tmp_path / "set", styles, gate=None)
    assert len(read_scans(tmp_path / "set" / "images")) == 3  # to train on
    shutil.move(tmp_path / "set", folder / "set")
    done = augment_scans(model, folder, tmp_path / "next", styles, gate=None)
    assert done.written == 3
