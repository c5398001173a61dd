import os
import pickle
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from tests.data.conftest import save_nifti
from tfstyle.data import list_scans, read_scan, read_scans, resolve_window, write_png
from tfstyle.data.dicom.files import _From
from tfstyle.data.folders import find_files
from tfstyle.errors import ArgumentError, InputFileError


@pytest.fixture
def ct_values():
    return np.linspace(-1000, 1000, 60).reshape(3, 4, 5)


def test_mixed_tree(tmp_path, write_series, ct_values):
    write_series([0, 2], "a/dicom")
    save_nifti(tmp_path / "b" / "volume.nii.gz", ct_values)
    write_png(np.zeros((4, 4)), tmp_path / "one.png")
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("rubbish")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    scans = read_scans(tmp_path)
    assert [scan.units for scan in scans] == ["gray", "HU", "HU"]
    assert [scan.name for scan in scans] == ["one", "dicom", "volume"]
    with pytest.raises(InputFileError, match="holds 3 scans, where one is needed"):
        read_scan(tmp_path)
    assert read_scan(tmp_path, series="volume").name == "volume"
    assert read_scan(tmp_path, series="one").units == "gray"
    assert len(read_scan(tmp_path, series="dicom")) == 2


def test_label_maps_are_left_out_of_folders(tmp_path, ct_values, caplog):
    save_nifti(tmp_path / "ct.nii.gz", ct_values)
    labels = np.zeros((3, 4, 5))
    labels[1] = 20
    for name in ("labels", "spine_seg", "organ-mask", "vertebrae"):
        save_nifti(tmp_path / f"{name}.nii.gz", labels, np.uint8)
    assert [scan.name for scan in read_scans(tmp_path)] == ["ct"]
    assert "3 files such as" in caplog.text
    assert "labels.nii.gz (label maps by the names of files or folders)." in caplog.text
    assert "vertebrae.nii.gz looks like a label map" in caplog.text
    assert read_scan(tmp_path / "vertebrae.nii.gz").units == "US"  # alone it is read


def test_mr_beside_mr_is_no_label_map(tmp_path):
    for name in ("t1", "t2"):
        save_nifti(tmp_path / f"{name}.nii", np.arange(60).reshape(3, 4, 5))
    assert [scan.name for scan in read_scans(tmp_path)] == ["t1", "t2"]


def test_units_are_passed_on(tmp_path, ct_values):
    save_nifti(tmp_path / "a.nii", ct_values)
    assert read_scan(tmp_path, units="US").units == "US"
    assert read_scan(tmp_path / "a.nii", units="US").units == "US"


def test_symbolic_links(tmp_path, write_series):
    write_series([0, 2], "real")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "up").symlink_to(tmp_path)
    (tmp_path / "tree" / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
    assert len(read_scan(tmp_path / "tree")) == 2
    assert len(read_scan(tmp_path)) == 2  # each folder once, so no slice comes twice
    assert len(read_scan(tmp_path / "tree" / "link")) == 2


def test_pipes_do_not_hang(tmp_path, write_series):
    write_series([0, 2])
    os.mkfifo(tmp_path / "series" / "pipe.dcm")
    assert len(read_scan(tmp_path)) == 2
    with pytest.raises(InputFileError, match="neither a file nor a folder"):
        read_scans(tmp_path / "series" / "pipe.dcm")


def test_find_files_is_sorted(tmp_path):
    for name in ("b/2", "b/1", "a", "c/.x", ".d/1"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path)]
    assert found == ["a", "b/1", "b/2"]


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputFileError, match="no such file or folder"):
        read_scans(tmp_path / "none")
    with pytest.raises(InputFileError, match="holds no DICOM, NIfTI or PNG files"):
        read_scans(tmp_path)
    (tmp_path / "empty.dcm").write_bytes(b"")
    with pytest.raises(InputFileError, match=r"empty\.dcm: the file is empty"):
        read_scans(tmp_path / "empty.dcm")
    with pytest.raises(InputFileError, match="holds no DICOM, NIfTI or PNG files"):
        read_scans(tmp_path)


def test_damaged_files_in_folders_are_errors(tmp_path, ct_values):
    save_nifti(tmp_path / "good.nii.gz", ct_values)
    (tmp_path / "bad.nii.gz").write_bytes(b"rubbish")
    with pytest.raises(InputFileError, match=r"bad\.nii\.gz"):
        read_scans(tmp_path)


def test_bad_options(tmp_path):
    with pytest.raises(ArgumentError, match="on_odd must be 'skip' or 'error'"):
        read_scans(tmp_path, on_odd="ignore")


def test_unknown_series(tmp_path, ct_values):
    save_nifti(tmp_path / "a.nii", ct_values)
    write_png(np.zeros((4, 4)), tmp_path / "b.png")
    with pytest.raises(InputFileError, match="holds no series 'x'"):
        read_scans(tmp_path, series="x")
    with pytest.raises(InputFileError, match="holds no series 'x'"):
        read_scans(tmp_path / "a.nii", series="x")


def test_lazy_scans_equal_those_in_memory(write_series, write_ct, enhanced_ct, tmp_path, ct_values):
    write_series([4, 0, 2], "ct")
    write_series([0, 2], "mr", SeriesInstanceUID="1.2.3", Modality="MR")
    write_ct("xray.dcm", SeriesInstanceUID="1.2.4", PhotometricInterpretation="MONOCHROME1",
             Modality="DX")  # fmt: skip
    edited = pydicom.dcmread(enhanced_ct([4, 0, 2, 6]))
    edited.SeriesInstanceUID = "1.2.5"
    edited.save_as(tmp_path / "enhanced.dcm")
    save_nifti(tmp_path / "z" / "volume.nii.gz", ct_values)
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
        assert part.loaded == (not one.by_slice)
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


def test_each_file_is_opened_once_or_twice(write_series, tmp_path, ct_values, monkeypatch):
    paths = {str(path) for path in write_series([4, 0, 2], "ct")}
    opened = []
    real = _From.__init__
    monkeypatch.setattr(_From, "__init__", lambda s, p: opened.append(p) or real(s, p))

    def times(work):
        opened.clear()
        work()
        assert set(opened) == paths
        return {opened.count(path) for path in paths}

    assert times(lambda: read_scan(tmp_path)) == {2}
    assert times(lambda: list_scans(tmp_path)) == {1}
    (files,), _ = list_scans(tmp_path)
    assert times(files.read) == {1}
    scan = read_scan(tmp_path, lazy=True)
    opened.clear()
    scan.read(1)
    assert opened == [scan.files[1]]


def test_reading_needs_no_tensorflow():
    code = "import sys, tfstyle.data; tfstyle.data.read_scans; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


class TestListScans:
    def test_finds_what_read_scans_finds(self, tmp_path, write_series, write_ct, ct_values):
        write_series([0, 2], "a/dicom")
        write_series([0, 2, 4], "a/other", SeriesInstanceUID="1.2.3")
        write_ct("one.dcm", SeriesInstanceUID="1.2.4")
        save_nifti(tmp_path / "b" / "volume.nii.gz", ct_values)
        save_nifti(tmp_path / "b" / "volume_seg.nii.gz", np.ones((3, 4, 5)), np.uint8)
        write_png(np.zeros((4, 4)), tmp_path / "one.png")
        (tmp_path / "readme.txt").write_text("not an image")
        (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        found, damaged = list_scans(tmp_path)
        assert damaged == []
        assert [(scan.kind, len(scan.files)) for scan in found] == [
            ("dicom", 2),
            ("dicom", 3),
            ("nifti", 1),
            ("dicom", 1),
            ("png", 1),
        ]
        assert found[1].series == "1.2.3"
        read = [scan for files in found for scan in files.read()]
        assert sorted(map(repr, read)) == sorted(map(repr, read_scans(tmp_path)))

    def test_one_file(self, tmp_path):
        write_png(np.zeros((4, 4)), tmp_path / "one.png")
        assert list_scans(tmp_path / "one.png")[0][0].files == (str(tmp_path / "one.png"),)
        with pytest.raises(InputFileError, match="no such file"):
            list_scans(tmp_path / "none")

    def test_damage_stops_nothing(self, tmp_path, write_ct, ct_values):
        write_ct("good.dcm")
        (tmp_path / "empty.dcm").write_bytes(b"")
        (tmp_path / "rubbish.dcm").write_bytes(b"rubbish")
        (tmp_path / "cut.nii.gz").write_bytes(b"rubbish")
        found, damaged = list_scans(tmp_path)
        assert [os.path.basename(scan.files[0]) for scan in found] == ["cut.nii.gz", "good.dcm"]
        assert [os.path.basename(error.path) for error in damaged] == ["empty.dcm", "rubbish.dcm"]
        with pytest.raises(InputFileError, match=r"cut\.nii\.gz"):
            found[0].read()

    def test_label_maps_and_other_objects_read_as_nothing(self, tmp_path, ct_values, non_picture):
        save_nifti(tmp_path / "ct.nii.gz", ct_values)
        save_nifti(tmp_path / "vertebrae.nii.gz", np.arange(60).reshape(3, 4, 5), np.uint8)
        (tmp_path / "broken.nii.gz").write_bytes(b"rubbish")
        non_picture()
        found = {os.path.basename(scan.files[0]): scan for scan in list_scans(tmp_path)[0]}
        assert len(found["ct.nii.gz"].read()) == 1
        assert found["vertebrae.nii.gz"].read() == []
        assert found["rtstruct.dcm"].read() == []

    def test_folders_passed_over(self, tmp_path):
        for name in ("images/a.png", "masks/a.png", "masks2/a.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_png(np.zeros((4, 4)), tmp_path / name)
        found, _ = list_scans(tmp_path, without=[tmp_path / "masks"])
        places = [os.path.relpath(scan.files[0], tmp_path) for scan in found]
        assert places == ["images/a.png", "masks2/a.png"]
