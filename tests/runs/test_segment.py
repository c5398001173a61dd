"""Scans in, masks out: files, geometry, resuming, and the command."""

import json
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.data.conftest import save_nifti, save_series
from tests.minis import ct_volume
from tests.segmentation.test_scans import bright
from tfstyle.data import Window, read_scan, write_png
from tfstyle.data.dicom.segmentation import read_dicom_seg
from tfstyle.data.labelled import mask_on
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.runs.segment import segment_scans
from tfstyle.segmentation import Segmenter

SHAPE = (9, 8, 5)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bright(), window=Window(0, 400), labels={1: "spine"})


@pytest.fixture
def volume(tmp_path):
    """A NIfTI file in an orientation of its own, with a block at 150 HU."""
    values = np.full(SHAPE, -300)
    values[2:5, 3:7, 1:4] = 150
    affine = np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 6], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    return save_nifti(tmp_path / "in" / "ct.nii.gz", values, affine=affine), values > 0


@pytest.fixture
def series(tmp_path):
    """A CT series of three slices, with a square at 176 HU in the second."""
    truth = np.zeros((3, 8, 6), bool)
    truth[1, 2:5, 1:4] = True
    save_series(tmp_path / "series", np.where(truth, 1200, 500).astype(np.int16))
    return tmp_path / "series", truth


def test_nifti_has_the_geometry_of_its_source(segmenter, volume, tmp_path):
    path, truth = volume
    (result,) = segment_scans(segmenter, [path], tmp_path / "out")
    assert result.file == str(tmp_path / "out" / "ct_seg.nii.gz")
    source, mask = nib.load(path), nib.load(result.file)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), truth)
    np.testing.assert_array_equal(mask.affine, source.affine)
    assert mask.get_data_dtype() == np.uint8
    assert result.pixels == {"spine": truth.sum()}
    assert result.milliliters["spine"] == pytest.approx(truth.sum() * 3.0 / 1000)
    assert not result.harmonized


def test_dicom_series_to_nifti_and_seg(segmenter, series, tmp_path):
    pytest.importorskip("highdicom")
    folder, truth = series
    (nifti,) = segment_scans(segmenter, [folder], tmp_path / "mask.nii.gz")
    (seg,) = segment_scans(segmenter, [folder], tmp_path / "seg", output_format="dicom-seg")
    assert seg.file.endswith("_seg.dcm")
    scan = read_scan(folder)
    for file in (nifti.file, seg.file):
        labels, covered = mask_on(scan, file)
        np.testing.assert_array_equal(labels, truth)
        assert covered[1]
    dataset = pydicom.dcmread(seg.file)
    assert dataset.PatientID == "42"
    assert dataset.SegmentSequence[0].SegmentLabel == "spine"
    assert dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Spine"
    assert dataset.SeriesNumber == 2003
    assert "not for diagnosis" in dataset.ContentDescription


def test_seg_of_an_empty_mask(segmenter, series, tmp_path):
    pytest.importorskip("highdicom")
    for file in series[0].iterdir():  # as some exporters leave it
        dataset = pydicom.dcmread(file)
        dataset.SOPClassUID = ""
        dataset.save_as(file)
    empty = Segmenter(bright(), window=Window(2000, 10), labels={1: "spine"})
    (seg,) = segment_scans(empty, [series[0]], tmp_path / "seg.dcm", output_format="dicom-seg")
    assert not read_dicom_seg(seg.file)[0].any()


def test_pictures(segmenter, tmp_path):
    image = np.zeros((12, 10))
    image[3:6, 2:7] = 0.9
    write_png(image, tmp_path / "slice.png")
    (result,) = segment_scans(segmenter, [tmp_path / "slice.png"], tmp_path / "out")
    assert result.file.endswith("slice_seg.png")
    np.testing.assert_array_equal(read_scan(result.file).pixels[0], image > 0.5)
    assert result.milliliters is None


def test_resumes_and_overwrites(segmenter, volume, tmp_path, monkeypatch):
    path, _ = volume
    second = save_nifti(path.parent / "b.nii.gz", np.full((4, 4, 4), -200) + np.arange(4) * 90)
    inputs, out = [path, second], tmp_path / "out"
    first = segment_scans(segmenter, inputs, out)
    stamps = [(out / name).stat().st_mtime_ns for name in ("ct_seg.nii.gz", "b_seg.nii.gz")]
    (out / "b_seg.nii.gz").unlink()
    again = segment_scans(segmenter, inputs, out)
    assert asdict(again[0]) == asdict(first[0]) | {"resumed": True}
    assert again[1].pixels == first[1].pixels
    assert (out / "ct_seg.nii.gz").stat().st_mtime_ns == stamps[0]
    other = Segmenter(bright(), window=Window(100, 400))
    with pytest.raises(OutputError, match="exists already"):
        segment_scans(other, inputs, out)
    segment_scans(other, inputs, out, overwrite=True)
    assert (out / "ct_seg.nii.gz").stat().st_mtime_ns != stamps[0]


def test_what_is_refused(segmenter, volume, tmp_path):
    path, _ = volume
    for options, error, match in (
        ({"output_format": "mgh"}, ArgumentError, "output_format: must be one of"),
        ({"output_format": "dicom-seg"}, ArgumentError, "was not read from DICOM"),
        ({"output_format": "png"}, ArgumentError, "slices; use 'nifti'"),
        ({"harmonize": True}, ArgumentError, "harmonize: model keeps no style"),
        ({"spacing": 2.0}, ArgumentError, "has its reference, window and spacing"),
    ):
        with pytest.raises(error, match=match):
            segment_scans(segmenter, [path], tmp_path / "out", **options)
    with pytest.raises(InputFileError, match="none"):
        segment_scans(segmenter, [tmp_path / "none"], tmp_path / "out")
    with pytest.raises(OutputError, match=r"give a folder"):
        segment_scans(segmenter, [path, ct_volume(tmp_path / "v.nii")], tmp_path / "one.nii.gz")
    for name, match in (("one.dcm", r"does not end in \.nii\.gz"), ("one.jpg", "in this format")):
        with pytest.raises(OutputError, match=match):
            segment_scans(segmenter, [path], tmp_path / name)
    taken = tmp_path / "taken.nii.gz"
    taken.write_bytes(b"precious")
    for overwrite, match in ((False, "exists already"), (True, "not a result of tfstyle")):
        with pytest.raises(OutputError, match=match):
            segment_scans(segmenter, [path], taken, overwrite=overwrite)
    assert taken.read_bytes() == b"precious"


def test_command(volume, tmp_path, run):
    path, truth = volume
    bright().save(tmp_path / "own.keras")
    words = ["segment", path, "--model", tmp_path / "own.keras", "--window", "0,400"]
    status, out, _ = run(*words, "-o", tmp_path / "out")
    assert status == 0
    assert "label 1: 0.108 ml" in out
    _, out, _ = run(*words, "-o", tmp_path / "out")
    assert "resumed: made by an earlier run" in out
    words += ["--no-harmonize", "--json", "-o", tmp_path / "one.nii"]
    status, out, _ = run(*words)
    assert (status, json.loads(out)["scans"][0]["pixels"]) == (0, {"label 1": truth.sum()})
    status, _, err = run(*words)
    assert status == 1
    assert "exists already" in err
