"""One entry for all kinds of files: trees of folders, lazy scans, lists, and what is refused."""

import os
import pickle

import numpy as np
import pydicom
import pytest

from tests.data.conftest import save_nifti
from tfstyle.data import list_scans, read_scan, read_scans, resolve_window, write_png
from tfstyle.errors import InputFileError

CT = np.linspace(-1000, 1000, 60).reshape(3, 4, 5)


@pytest.fixture
def tree(tmp_path, write_series, write_ct):
    """Two series, one slice, a volume with its labels, a picture, and what is not a scan."""
    write_series([0, 2], "a/dicom")
    write_series([0, 2, 4], "a/other", SeriesInstanceUID="1.2.3")
    write_ct("one.dcm", SeriesInstanceUID="1.2.4")
    save_nifti(tmp_path / "b" / "volume.nii.gz", CT)
    save_nifti(tmp_path / "b" / "volume_seg.nii.gz", np.ones((3, 4, 5)), np.uint8)
    write_png(np.zeros((4, 4)), tmp_path / "picture.png")
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("rubbish")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return tmp_path


def test_mixed_tree(tree):
    scans = read_scans(tree)
    assert [(scan.name, scan.units, len(scan)) for scan in scans] == [
        ("dicom", "HU", 2),
        ("other", "HU", 3),
        ("volume", "HU", 5),
        ("one", "HU", 1),
        ("picture", "gray", 1),
    ]
    with pytest.raises(InputFileError, match="holds 5 scans, where one is needed"):
        read_scan(tree)
    for scan in scans:
        assert repr(read_scan(tree, series=scan.name)) == repr(scan)
    with pytest.raises(InputFileError, match="holds no series 'x'"):
        read_scans(tree, series="x")
    found, damaged = list_scans(tree)
    assert damaged == []
    assert sorted((scan.kind, len(scan.files), scan.series) for scan in found) == [
        ("dicom", 1, "1.2.4"),
        ("dicom", 2, scans[0].frames[0].identity[0]),
        ("dicom", 3, "1.2.3"),
        ("nifti", 1, ""),
        ("png", 1, ""),
    ]
    read = [scan for files in found for scan in files.read()]
    assert sorted(map(repr, read)) == sorted(map(repr, scans))


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputFileError, match="no such file or folder"):
        read_scans(tmp_path / "none")
    with pytest.raises(InputFileError, match="holds no DICOM, NIfTI or PNG files"):
        read_scans(tmp_path)


def test_damage(tmp_path, write_ct):
    """An error when all is read, an entry beside the others when it is listed."""
    write_ct("good.dcm")
    (tmp_path / "cut.nii.gz").write_bytes(b"rubbish")
    with pytest.raises(InputFileError, match=r"cut\.nii\.gz"):
        read_scans(tmp_path)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "rubbish.dcm").write_bytes(b"rubbish")
    found, damaged = list_scans(tmp_path)
    assert [os.path.basename(scan.files[0]) for scan in found] == ["cut.nii.gz", "good.dcm"]
    assert [os.path.basename(error.path) for error in damaged] == ["empty.dcm", "rubbish.dcm"]
    with pytest.raises(InputFileError, match=r"cut\.nii\.gz"):
        found[0].read()


def test_list_of_one_file_and_without_some_folders(tmp_path, write_ct):
    for name in ("images/a.png", "masks/a.png", "masks2/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(np.zeros((4, 4)), tmp_path / name)
    path = str(tmp_path / "images" / "a.png")
    assert list_scans(path)[0][0].files == (path,)
    with pytest.raises(InputFileError, match="no such file"):
        list_scans(tmp_path / "none")
    found, _ = list_scans(tmp_path, without=[tmp_path / "masks"])
    places = [os.path.relpath(scan.files[0], tmp_path) for scan in found]
    assert places == ["images/a.png", "masks2/a.png"]
    gone = dict.fromkeys(("Rows", "Columns", "PixelData"))
    structures = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Modality": "RTSTRUCT"}
    ((plan,), _) = list_scans(write_ct("plans/plan.dcm", **structures, **gone).parent)
    assert plan.read() == []


def test_lazy_scans_equal_those_in_memory(write_series, write_ct, enhanced_ct, tmp_path):
    write_series([4, 0, 2], "ct")
    write_series([0, 2], "mr", SeriesInstanceUID="1.2.3", Modality="MR")
    write_ct("xray.dcm", SeriesInstanceUID="1.2.4", PhotometricInterpretation="MONOCHROME1",
             Modality="DX")  # fmt: skip
    edited = pydicom.dcmread(enhanced_ct([4, 0, 2, 6]))
    edited.SeriesInstanceUID = "1.2.5"
    edited.save_as(tmp_path / "enhanced.dcm")
    save_nifti(tmp_path / "z" / "volume.nii.gz", CT)
    write_png(np.linspace(0, 1, 12).reshape(3, 4), tmp_path / "p.png", bits=16)
    scans, lazy = read_scans(tmp_path), read_scans(tmp_path, lazy=True)
    assert len(scans) == len(lazy) == 6
    assert [one.by_slice for one in lazy] == [one.frames != () and one.name != "enhanced"
                                              for one in lazy]  # fmt: skip
    for scan, one in zip(scans, lazy):
        assert scan.loaded
        assert not one.loaded
        for name in ("name", "spacing", "units", "header_window", "files", "shape"):
            assert getattr(one, name) == getattr(scan, name)
        np.testing.assert_array_equal(one.affine, scan.affine)
        part = one[1:] if len(one) > 1 else one[0]
        assert part.loaded
        np.testing.assert_array_equal(part.pixels, scan.pixels[len(one) > 1 :])
        np.testing.assert_array_equal([one.read(i) for i in range(len(one))], scan.pixels)
        np.testing.assert_array_equal(one.read(-1), scan.pixels[-1])
        assert one.loaded == (not one._source.by_slice)
        np.testing.assert_array_equal(one.load().pixels, scan.pixels)
        for window in ("range", "percentile:5,90"):
            assert resolve_window(window, one) == resolve_window(window, scan)
        again = pickle.loads(pickle.dumps(one))
        np.testing.assert_array_equal(again.pixels, scan.pixels)
        assert again.pixels.dtype == scan.pixels.dtype
