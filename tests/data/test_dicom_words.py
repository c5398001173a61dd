"""What cannot be read is named: the file, the attribute, and what to give in its place."""

import logging

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tfstyle.data import read_scan, read_scans
from tfstyle.data.privacy import mark_of, values_unsaid
from tfstyle.errors import InputFileError
from tfstyle.runs.sources import find_sources

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def spoil(path, keyword, text):
    """Gives an attribute a value that is not a number."""
    dataset = pydicom.dcmread(path)
    with values_unsaid():
        dataset[keyword] = pydicom.DataElement(Tag(keyword), "LO", text)
        dataset.save_as(path)
    raw = path.read_bytes()  # as the representation that it should have
    tag = Tag(keyword)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    assert raw.count(head + b"LO") == 1
    path.write_bytes(raw.replace(head + b"LO", head + b"DS"))


@pytest.mark.parametrize("text", ["-1024,", "minus 1024", "-1024;0", "1,0"])
@pytest.mark.parametrize(
    ("keyword", "named"),
    [
        ("RescaleIntercept", r"Rescale Intercept \(0028,1052\) is not a number"),
        ("RescaleSlope", r"Rescale Slope \(0028,1053\) is not a number"),
    ],
)
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_malformed_rescale(write_ct, text, keyword, named, modality):
    path = write_ct(Modality=modality)
    spoil(path, keyword, text)
    with pytest.raises(InputFileError, match=rf"ct\.dcm: {named}"):
        read_scan(path)


@pytest.mark.parametrize("text", ["0,5\\0,5", "0.5", "0.5\\0.5\\2"])
def test_malformed_pixel_spacing(write_ct, text):
    path = write_ct()
    spoil(path, "PixelSpacing", text)
    with pytest.raises(InputFileError, match=r"ct\.dcm: Pixel Spacing \(0028,0030\) is not two"):
        read_scan(path)


@pytest.mark.parametrize(
    ("keyword", "text", "said"),
    [
        ("ImagePositionPatient", "0,5\\1\\2", "has an Image Position (Patient) that is not a list"),
        ("ImageOrientationPatient", "1\\0\\0\\x\\1\\0", "has an Image Orientation (Patient) that"),
    ],
)
def test_malformed_place(write_series, caplog, keyword, text, said):
    paths = write_series([0, 2, 4])
    for path in paths:
        spoil(path, keyword, text)
    assert len(read_scan(paths[0].parent)) == 3
    assert said in caplog.text


def test_slice_without_orientation_in_a_series(write_series, edit_dicom, caplog):
    paths = write_series([0, 2, 4, 6])
    edit_dicom(paths[1], ImageOrientationPatient=None)
    assert len(read_scan(paths[0].parent)) == 3
    assert f"{paths[1]}: has no orientation, unlike its series" in caplog.text


@pytest.mark.parametrize(
    "keyword", ["PixelRepresentation", "BitsStored", "BitsAllocated", "SamplesPerPixel"]
)
def test_what_no_decoder_can_do_without(write_ct, edit_dicom, keyword):
    path = write_ct()
    edit_dicom(path, **{keyword: None})
    name = pydicom.datadict.dictionary_description(keyword)
    with pytest.raises(InputFileError, match=rf"ct\.dcm: lacks {name} \("):
        read_scan(path)


def test_empty_modality_lut(write_ct, edit_dicom):
    path = write_ct()
    edit_dicom(path, ModalityLUTSequence=[])
    assert read_scan(path).pixels.min() == -1024
    edit_dicom(path, RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(InputFileError, match=r"without Rescale Slope .* and Rescale Intercept"):
        read_scan(path)
    edit_dicom(path, Modality="MR")
    assert read_scan(path).pixels.max() == 47
    edit_dicom(path, ModalityLUTSequence=[Dataset()])
    with pytest.raises(InputFileError, match=r"ct\.dcm: unusable Modality LUT"):
        read_scan(path)


# -- files that are something else ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["DICOMDIR", "index"])
def test_dicomdir_as_a_file(tmp_path, name):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.FileSetID, dataset.DirectoryRecordSequence = "STUDY", []
    dataset.save_as(tmp_path / name, enforce_file_format=True)
    with pytest.raises(InputFileError, match=r"a DICOMDIR, the index.* Give the folder"):
        read_scans(tmp_path / name)


@pytest.mark.parametrize("ending", [".hdr", ".img"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage, nib.Spm99AnalyzeImage])
def test_pair_of_header_and_image(tmp_path, ending, kind):
    nib.save(kind(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "x.img")
    for give in (tmp_path / f"x{ending}", tmp_path):
        for read in (read_scans, find_sources):
            with pytest.raises(InputFileError, match=r"half of a pair .*\.nii\.gz"):
                read(give)


def test_dicom_may_be_called_img(write_ct):
    assert len(read_scan(write_ct("x.img"))) == 1


def test_folder_of_label_maps_alone(tmp_path):
    for name in ("spine_seg.nii.gz", "mask.nii"):
        nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4)), tmp_path / name)
    for read in (read_scans, find_sources):
        with pytest.raises(InputFileError, match=r"2 (NIfTI )?files .*label maps by the(ir)? name"):
            read(tmp_path)
    assert len(read_scans(tmp_path / "mask.nii")) == 1


# -- one series of several -----------------------------------------------------------------------


@pytest.fixture
def study(write_series, tmp_path):
    """Series 1, 2, 12 and 22 with UIDs that end in other numbers."""
    uids = {1: "1.2.3.2", 2: "1.2.3.12", 12: "1.2.3.22", 22: "1.2.30.4440001"}
    for slices, (number, uid) in enumerate(uids.items(), start=2):
        write_series(range(slices), f"study/s{number}", SeriesInstanceUID=uid, SeriesNumber=number)
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("series", "slices"),
    [
        ("1", 2),
        ("2", 3),
        ("02", 3),
        ("12", 4),
        ("22", 5),
        ("3.2", 2),
        (".2", 2),
        ("3.22", 4),
        (".30.4440001", 5),
        ("4440001", 5),
        ("440001", 5),
        ("1.2.3.12", 3),
        (mark_of("1.2.3.22"), 4),
        ("s22", 5),
    ],
)
def test_series(study, series, slices):
    assert len(read_scan(study, series=series)) == slices


@pytest.mark.parametrize("series", ["3", "0.4440001", "2.2", "s2 ", "", ".", "40001"])
def test_no_such_series(study, series):
    with pytest.raises(InputFileError, match="holds no series"):
        read_scans(study, series=series)


def test_logs_name_no_values(study, caplog):
    with caplog.at_level(logging.DEBUG):
        read_scans(study)
    assert "1.2.3" not in caplog.text
