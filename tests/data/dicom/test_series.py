"""Files to series to scans: sorting, geometry, names, and what does not fit its series."""

import logging

import numpy as np
import pydicom
import pytest

from tfstyle.data import list_scans, read_scan, read_scans
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

SCOUT = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def numbers(scan):
    """Which slice each plane is, as written by ``write_series``."""
    return [int(plane[0, 0]) + 1024 for plane in scan.pixels]


def test_sorted_by_position_not_by_name_or_number(write_series, tmp_path):
    paths = write_series([30, -10, 20, 0, 10])
    scan = read_scan(tmp_path)
    assert numbers(scan) == [1001, 1003, 1004, 1002, 1000]
    assert scan.files == tuple(str(paths[i]) for i in (1, 3, 4, 2, 0))
    assert (scan.spacing[0], scan.name) == (10, "series")
    np.testing.assert_allclose(scan.affine @ [4, 0, 0, 1], [-10, -20, 30, 1])


def test_sorted_along_the_normal_of_other_planes(write_ct, tmp_path):
    # Coronal: rows to the left, columns downward; the normal points to the back.
    for number, y in enumerate([5, -5, 0]):
        write_ct(
            f"{number}.dcm",
            np.full((4, 4), 1000 + number, np.int16),
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            ImagePositionPatient=[0, y, 0],
        )
    scan = read_scan(tmp_path)
    assert numbers(scan) == [1001, 1002, 1000]
    np.testing.assert_allclose(scan.affine[:3, 0], [0, 5, 0])
    np.testing.assert_allclose(scan.affine[:3, 1], [0, 0, -0.5])


@pytest.mark.parametrize(
    ("positions", "step", "gap"),
    [([0, 2, 4, 10, 12, 14], 2, True), ([0, 0.6, 1.3, 1.9, 2.5], 0.6, False)],
)
def test_gap(write_series, tmp_path, caplog, positions, step, gap):
    write_series(positions)
    assert read_scan(tmp_path).spacing[0] == pytest.approx(step, abs=0.05)
    assert ("unevenly spaced: 1 of 5 steps" in caplog.text) == gap


def test_gantry_tilt(write_ct, tmp_path, caplog):
    tilt = np.radians(15)
    cosines = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    for number in range(3):
        write_ct(
            f"{number}.dcm",
            np.full((4, 4), 1000 + number, np.int16),
            ImageOrientationPatient=[round(c, 6) for c in cosines],
            ImagePositionPatient=[0, 0, 5 * number],
        )
    scan = read_scan(tmp_path)
    assert numbers(scan) == [1000, 1001, 1002]
    assert scan.spacing[0] == pytest.approx(5 * np.cos(tilt), abs=1e-3)
    np.testing.assert_allclose(scan.affine @ [2, 0, 0, 1], [0, 0, 10, 1], atol=1e-6)
    assert "15.0 degrees" in caplog.text


@pytest.fixture
def study(write_series, tmp_path):
    """Series 1, 2, 12 and 22 with UIDs that end in other numbers."""
    uids = {1: "1.2.3.2", 2: "1.2.3.12", 12: "1.2.3.22", 22: "1.2.3.1"}
    for slices, (number, uid) in enumerate(uids.items(), start=2):
        write_series(range(slices), f"study/s{number}", SeriesInstanceUID=uid, SeriesNumber=number)
    write_series([7], "study/deep/more", SeriesInstanceUID="1.2.3.2", SeriesNumber=1)
    return tmp_path / "study"


def test_series(study):
    for series, slices in (("1", 3), ("1.2.3.12", 3), ("s22", 5)):  # the first of two folders
        assert len(read_scan(study, series=series)) == slices
    for series in ("3", ""):
        with pytest.raises(InputFileError, match="holds no series"):
            read_scans(study, series=series)


def test_two_patients_with_one_series_uid(write_series, tmp_path, caplog):
    for slices, folder in ((3, "a"), (4, "b")):
        changes = {"StudyInstanceUID": f"1.2.{slices}", "PatientID": folder}
        write_series(range(slices), f"study/{folder}", FrameOfReferenceUID="1.5", **changes)
    assert [len(scan) for scan in read_scans(tmp_path)] == [3, 4]
    assert "stands for 2 series" in caplog.text
    found, damaged = list_scans(tmp_path)
    assert damaged == []
    assert [len(files.read()[0]) for files in found] == [3, 4]
    assert len({files.series for files in found}) == 2
    assert len({scan.name for scan in read_scans(tmp_path)}) == 2


@pytest.mark.parametrize(
    ("keyword", "others"), [("FrameOfReferenceUID", {}), ("PatientName", {"PatientID": ""})]
)
def test_one_difference_makes_two_scans_and_blanks_none(
    write_series, edit_dicom, tmp_path, keyword, others
):
    paths = write_series(range(5), "one", **{keyword: "1.2", **others})
    write_series(range(5, 8), "two", **{keyword: "1.3", **others})
    assert [len(scan) for scan in read_scans(tmp_path)] == [5, 3]
    edit_dicom(paths[2], **{keyword: ""})
    assert len(read_scan(tmp_path / "one")) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stored": np.zeros((4, 4), np.int16)}, "unlike its series in size"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "unlike its series in orientation"),
        ({"PixelSpacing": [1, 1]}, "unlike its series in pixel spacing"),
        ({"ImagePositionPatient": None}, "unlike its series in position"),
        ({"Modality": "OT"}, "unlike its series in units"),
        ({"ImageType": SCOUT}, "a scout image (Image Type LOCALIZER)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a color image"),
    ],
)
def test_odd_slices(write_series, write_ct, tmp_path, caplog, changes, message):
    write_series([0, 2, 4])
    odd = write_ct("series/odd.dcm", **{"ImagePositionPatient": [-10, -20, 6], **changes})
    with caplog.at_level(logging.WARNING):
        assert numbers(read_scan(tmp_path)) == [1000, 1001, 1002]
    assert "odd.dcm" in caplog.text
    assert message in caplog.text
    if "color" in message:
        with pytest.raises(InputFileError, match="a color image"):
            read_scan(odd)
    else:
        assert len(read_scan(odd)) == 1  # asked for by itself, it is read


def test_series_of_scouts_alone(write_series, tmp_path):
    write_series([0, 2], "ct")
    write_series([0], "scouts", SeriesInstanceUID="1.2.7.77", ImageType=SCOUT)
    assert len(read_scan(tmp_path)) == 2
    assert len(read_scan(tmp_path / "scouts" / "000.dcm")) == 1
    with pytest.raises(InputFileError, match="scouts are read by their file alone"):
        read_scans(tmp_path / "scouts")


def test_copies_of_a_file(write_series, tmp_path, caplog):
    paths = write_series([0, 2])
    (tmp_path / "series" / "copy.dcm").write_bytes(paths[0].read_bytes())
    assert len(read_scan(tmp_path)) == 2
    assert "is a copy of" in caplog.text


def test_dicomdir(tmp_path, write_series):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.FileSetID, dataset.DirectoryRecordSequence = "STUDY", []
    for name in ("DICOMDIR", "index"):
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        with pytest.raises(InputFileError, match=r"a DICOMDIR, the index.* Give the folder"):
            read_scans(tmp_path / name)
    (tmp_path / "index").unlink()
    write_series([0, 2], "DICOM/A")
    assert len(read_scan(tmp_path)) == 2
