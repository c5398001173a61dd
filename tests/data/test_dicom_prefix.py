"""DICOM files without preamble and prefix, as many exporters write them, are read everywhere."""

import logging

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tfstyle.data import Window, list_scans, read_scan, read_scans, write_png
from tfstyle.data.dicom import is_dicom, read_dataset
from tfstyle.info import describe
from tfstyle.runs import stylize_scans

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def strip(path, how):
    """Takes preamble, prefix, both, or the file meta group with them away."""
    raw = path.read_bytes()
    if how == "preamble and prefix":
        path.write_bytes(raw[132:])
    elif how == "preamble alone":
        path.write_bytes(raw[128:])
    elif how == "prefix alone":
        path.write_bytes(raw[:128] + raw[132:])
    else:
        dataset, body = pydicom.dcmread(path), Dataset()
        if how == "big endian":
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        body.update(dataset)
        body.save_as(path, implicit_vr=how == "implicit", little_endian=how != "big endian")
    assert path.read_bytes()[128:132] != b"DICM"


HOW = [
    "preamble and prefix",
    "preamble alone",
    "prefix alone",
    "implicit",
    "explicit",
    "big endian",
]


@pytest.mark.parametrize("how", HOW)
def test_everywhere(write_series, tmp_path, how):
    paths = write_series([0, 2, 4, 6])
    expected = read_scan(tmp_path)
    for path in paths:
        strip(path, how)
        assert is_dicom(path)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.pixels, expected.pixels)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert read_scan(paths[0]).units == "HU"
    found, damaged = list_scans(tmp_path)
    assert (len(found), damaged) == (1, [])
    np.testing.assert_array_equal(found[0].read()[0].pixels, expected.pixels)
    assert describe(tmp_path)["scans"][0]["dicom"]["modality"] == "CT"


class Same:
    """A stand-in for a model, which changes nothing."""

    def stylize(self, content, style, strength=1.0, style_weights=None, **options):
        return np.asarray(content, np.float32)


@pytest.mark.parametrize("how", HOW)
def test_stylized(write_series, tmp_path, how):
    expected = None
    for path in write_series([0, 2, 4]):
        expected = expected or pydicom.dcmread(path)
        strip(path, how)
    write_png(np.linspace(0, 1, 64).reshape(8, 8), tmp_path / "style.png")
    window = Window.from_limits(-1024, 1024)
    (result,) = stylize_scans(
        Same(), [tmp_path / "series"], [tmp_path / "style.png"], tmp_path / "out", window=window
    )
    np.testing.assert_array_equal(
        read_scan(tmp_path / "out").pixels, read_scan(tmp_path / "series").pixels
    )
    first = pydicom.dcmread(result.files[0])
    assert first.SOPClassUID == expected.SOPClassUID
    assert first.StudyInstanceUID == expected.StudyInstanceUID
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == expected.SOPInstanceUID


@pytest.mark.parametrize("how", HOW)
def test_one_of_a_folder_without_endings(write_series, tmp_path, how):
    paths = write_series([0, 2, 4, 6])
    strip(paths[-1], how)
    for path in paths:
        path.rename(path.with_suffix(""))
    assert len(read_scan(tmp_path)) == 4


def test_one_attribute_of_such_a_file(write_ct):
    path = write_ct()
    strip(path, "implicit")
    assert read_dataset(str(path), pixels=False, tags=["SeriesNumber"]).SeriesNumber == 3


def test_compressed_without_its_transfer_syntax(sample, tmp_path):
    dataset = pydicom.dcmread(sample("MR_small_RLE.dcm"))
    path = tmp_path / "bare.dcm"
    body = Dataset()
    body.update(dataset)
    body.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(ValueError, match=r"bare\.dcm: .*compressed.*Transfer Syntax UID"):
        read_scan(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00",
        b"\x08\x00\x05\x00",
        b"\x08\x00\x08\x00hello, these are not elements",
        b"hello" * 100,
        bytes(4000),
        b"\x89PNG",
        b"\x02\x00\x00\x00\x01\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00",
    ],
)
def test_other_files_are_not_taken_for_dicom(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")


def test_what_is_left_out_of_a_folder_with_a_scan_is_said(write_series, tmp_path, caplog):
    write_series([0, 2])
    (tmp_path / "series" / "cut.dcm").write_bytes(b"\0" * 40)
    (tmp_path / "series" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "dose.rtf").write_text("notes")
    write_png(np.zeros((4, 4)), tmp_path / "preview.png")
    with caplog.at_level(logging.WARNING):
        assert len(read_scans(tmp_path)) == 2
    assert "2 files that are neither DICOM, NIfTI nor PNG (dose.rtf, series/cut.dcm)" in caplog.text
    caplog.clear()
    found, damaged = list_scans(tmp_path)
    assert len(found) == 2
    assert "1 file that is neither DICOM, NIfTI nor PNG (dose.rtf)" in caplog.text
    assert [error.path for error in damaged] == [str(tmp_path / "series" / "cut.dcm")]


def test_reports_in_a_folder_with_a_scan_are_said(write_series, non_picture, tmp_path, caplog):
    write_series([0, 2])
    non_picture("series/plan.dcm")
    assert len(read_scan(tmp_path)) == 2
    assert "1 DICOM objects without pictures" in caplog.text
