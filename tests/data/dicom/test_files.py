"""DICOM files without preamble and prefix, as many exporters write them, are read everywhere."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tfstyle.data import list_scans, read_scan, write_derived_series
from tfstyle.data.dicom import is_dicom, read_dataset
from tfstyle.data.windows import WINDOWS
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def strip(path, how):
    """Takes preamble and prefix, and perhaps the file meta group with them, away."""
    if how == "preamble and prefix":
        path.write_bytes(path.read_bytes()[132:])
    else:
        dataset, body = pydicom.dcmread(path), Dataset()
        if how == "big endian":
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        body.update(dataset)
        body.save_as(path, implicit_vr=how == "implicit", little_endian=how != "big endian")
    assert path.read_bytes()[128:132] != b"DICM"


@pytest.mark.parametrize("how", ["preamble and prefix", "implicit", "big endian"])
def test_everywhere(write_series, tmp_path, how):
    paths = write_series([0, 2, 4, 6])
    expected, first = read_scan(tmp_path), pydicom.dcmread(paths[0])
    for number, path in enumerate(paths):
        strip(path, how)
        paths[number] = path.rename(path.with_suffix(""))
        assert is_dicom(paths[number])
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.pixels, expected.pixels)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    found, damaged = list_scans(tmp_path)
    assert (len(found), damaged) == (1, [])
    np.testing.assert_array_equal(found[0].read()[0].pixels, expected.pixels)
    assert read_dataset(str(paths[0]), pixels=False, tags=["SeriesNumber"]).SeriesNumber == 3
    unit = np.zeros(scan.shape)
    derived = pydicom.dcmread(write_derived_series(scan, unit, WINDOWS["bone"], tmp_path / "o")[0])
    assert derived.SOPClassUID == first.SOPClassUID
    assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_compressed_without_its_transfer_syntax(sample, tmp_path):
    path, body = tmp_path / "bare.dcm", Dataset()
    body.update(pydicom.dcmread(sample("MR_small_RLE.dcm")))
    body.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(ValueError, match=r"bare\.dcm: .*compressed.*Transfer Syntax UID"):
        read_scan(path)


def test_other_files_are_not_taken_for_dicom(tmp_path):
    path = tmp_path / "notes.dcm"
    alike = b"\x08\x00\x05\x00CS\x02\x00IS" * 9  # begins as a DICOM file may
    for content in (
        b"",
        b"hello, this is not an image" * 20,
        b"\x08\x00\x08\x00hello, these are not elements",
        alike,
        bytes(4000),
    ):
        path.write_bytes(content)
        assert is_dicom(path) == (content is alike)
        message = "not a DICOM file" if content else "the file is empty"
        with pytest.raises(InputFileError, match=rf"notes\.dcm: {message}"):
            read_scan(path)
