"""Files made to harm: bombs, absurd sizes, paths that lead elsewhere, pickles, code."""

import copy
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.data.conftest import make_ct, save_nifti, save_segmentation
from tfstyle import presets
from tfstyle.data import list_scans, read_scan, read_scans, write_png
from tfstyle.data.dicom import picture_size, read_frame
from tfstyle.data.dicom.segmentation import read_dicom_seg
from tfstyle.data.png import read_png
from tfstyle.encoders.weights import load_arrays, load_npz
from tfstyle.errors import InputFileError, WeightsError
from tfstyle.limits import limited
from tfstyle.segmentation import UNet
from tfstyle.style_bank import StyleBank

DEEP = "[" * 100_000


def ct(**changes) -> Dataset:
    """A CT slice of 6 x 8 pixels; None takes an attribute out."""
    stored = np.arange(48, dtype=np.uint16).reshape(6, 8)
    return make_ct(stored, **{"SOPInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", **changes})


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


@contextmanager
def peak(megabytes: float):
    """Fails if more memory is taken for a while than so many megabytes."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1] / 2**20
        assert taken < megabytes, f"{taken:.0f} MiB"
    finally:
        tracemalloc.stop()


def save_volume(path: Path) -> Path:
    return save_nifti(path, np.arange(8).reshape(2, 2, 2))


class TestSizes:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"Rows": 65535, "Columns": 65535}, r"65535 x 65535 pixels, .* \(picture_pixels\)"),
            ({"Rows": 8192, "Columns": 8192, "NumberOfFrames": 9}, r"9 frames .* \(scan_pixels\)"),
            ({"NumberOfFrames": 60_000}, "names 60000 frames of 6 x 8 pixels and is too small"),
        ],
    )
    def test_dicom_header(self, tmp_path, changes, message):
        path = save(ct(**changes), tmp_path / "a.dcm")
        with peak(20), pytest.raises(InputFileError, match=f"a.dcm: .*{message}"):
            read_scans(path)

    @pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
    def test_compressed_picture_that_is_larger_than_it_says(self, tmp_path, name):
        path = get_testdata_file(name)
        assert read_scan(path).pixels.shape == (1, 64, 64)
        dataset = pydicom.dcmread(path)
        (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        assert picture_size(frame)[:2] == (64, 64)
        frame = bytearray(frame)
        if "jp2k" in name:
            at = frame.index(b"\xff\x51") + 6
            frame[at : at + 8] = struct.pack(">II", 2**20, 2**20)
            said = "1048576 x 1048576"
        else:
            at = frame.index(b"\xff\xf7") + 5
            frame[at : at + 4] = struct.pack(">HH", 65535, 65535)
            said = "65535 x 65535"
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
        path = save(dataset, tmp_path / "a.dcm")
        with pytest.raises(InputFileError, match=f"picture of {said} pixels, but names 64 rows"):
            read_scans(path)

    def test_nifti_header(self, tmp_path):
        header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes()
        header = bytearray(header)
        header[42:48] = np.array([1000, 1000, 1000], "<i2").tobytes()
        path = tmp_path / "a.nii"
        with open(path, "wb") as file:  # sparse, so that the size of the file fits
            file.write(header)
            file.truncate(3 * 10**9)
        with peak(20), pytest.raises(InputFileError, match="1000 x 1000 x 1000 voxels, above"):
            read_scan(path)
        with limited(scan_pixels=7), pytest.raises(InputFileError, match="TFSTYLE_LIMIT_SCAN"):
            read_scan(save_volume(tmp_path / "b.nii"))

    def test_png_header(self, tmp_path):
        path = tmp_path / "a.png"
        write_png(np.zeros((2, 2)), path)
        raw = bytearray(path.read_bytes())
        raw[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
        path.write_bytes(raw)
        with peak(20), pytest.raises(InputFileError, match="picture of 2147483647 x 2147483647"):
            read_png(path)

    def test_segmentation_that_spans_too_much(self, tmp_path):
        slices = [
            ct(ImagePositionPatient=[0, 0, 2 * i], SOPInstanceUID=f"1.2.9.{i}") for i in range(3)
        ]
        mask = np.zeros((3, 6, 8), np.uint8)
        mask[:, 2:4] = 1
        path = save_segmentation(slices, mask, tmp_path / "seg.dcm")
        labels, _ = read_dicom_seg(path)
        assert labels.shape == (3, 6, 8)
        with limited(scan_pixels=100), pytest.raises(InputFileError, match="scan_pixels"):
            read_dicom_seg(path)
        dataset = pydicom.dcmread(path)  # two slices of three are stored: 1 and 3, now far apart
        group = dataset.PerFrameFunctionalGroupsSequence[-1]
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 1e9]
        with peak(20), pytest.raises(InputFileError, match=r"segmentation|spans"):
            read_dicom_seg(save(dataset, tmp_path / "far.dcm"))

    def test_files_of_a_folder(self, tmp_path):
        for number in range(4):
            (tmp_path / f"{number}.png").write_bytes(b"x")
        with limited(files=3), pytest.raises(InputFileError, match=r"holds 4 files .* \(files\)"):
            list_scans(tmp_path)


class TestBombs:
    def test_deflated_dicom(self, tmp_path):
        dataset = ct()
        dataset.add_new(0x00091001, "OB", bytes(50 * 2**20))
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        path = save(dataset, tmp_path / "a.dcm")
        assert path.stat().st_size < 2**17
        with limited(file_bytes=2**20):
            with peak(10), pytest.raises(InputFileError, match=r"inflates to .* \(file_bytes\)"):
                read_scans(path)
            found, damaged = list_scans(tmp_path)
        assert (found, len(damaged)) == ([], 1)
        assert read_scan(path).pixels.shape == (1, 6, 8)

    @pytest.mark.parametrize("bomb", ["extension", "offset"])
    def test_gzipped_nifti(self, tmp_path, bomb):
        raw = bytearray(nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)).to_bytes())
        size = 50 * 2**20
        raw[348] = 1
        raw[108:112] = struct.pack("<f", float(size) if bomb == "offset" else 0.0)
        raw[352:352] = struct.pack("<ii", size, 6)
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(bytes(raw) + bytes(size), 1))
        with limited(text_bytes=2**20), peak(10):
            if bomb == "offset":
                with pytest.raises(InputFileError, match=r"before the voxels, .*\(text_bytes\)"):
                    read_scan(path)
            else:
                assert read_scan(path).pixels.shape == (2, 2, 2)

    def test_arrays(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez_compressed(path, codes=np.zeros(10**7), about="{}")
        with limited(file_bytes=2**20), peak(10):
            with pytest.raises(InputFileError, match="unpacks to 8000"):
                StyleBank.load(path)
            with pytest.raises(WeightsError, match="unpacks to 8000"):
                load_npz(path)

    def test_array_that_claims_more_than_there_is(self, tmp_path):
        path = tmp_path / "a.npz"
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("codes.npy", head.getvalue())
        with peak(10), pytest.raises(WeightsError, match="cut short"):
            load_npz(path)

    def test_keras_archive(self, tmp_path):
        path = tmp_path / "a.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", bytes(20 * 2**20))
        with limited(file_bytes=2**20), pytest.raises(InputFileError, match="unpacks to"):
            UNet.load(path)

    def test_texts(self, tmp_path):
        for text, message in (
            (b'{"format": 1, "config": "' + b"x" * 2**20 + b'"}', "text_bytes"),
            (DEEP.encode(), "nested too deeply"),
        ):
            (tmp_path / "preset.json").write_bytes(text)
            with (
                limited(text_bytes=2**20),
                pytest.raises(WeightsError, match=rf"preset\.json: .*{message}"),
            ):
                presets.card(tmp_path)


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path("harmed").touch, ()


class TestCode:
    def test_pickles_are_not_loaded(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        array = np.array([Harmful()], object)
        np.savez("objects.npz", codes=array, about=np.array("{}"))
        np.save("objects.npy", array)
        Path("plain.npz").write_bytes(pickle.dumps(Harmful()))
        os.rename("objects.npy", "array.npz")
        for name in ("objects.npz", "array.npz", "plain.npz"):
            with pytest.raises(InputFileError):
                StyleBank.load(name)
            with pytest.raises(WeightsError):
                load_npz(Path(name))
        with pytest.raises(WeightsError, match="refused"):
            load_arrays(pickle.dumps(Harmful()))
        assert not Path("harmed").exists()

    def test_pickle_with_a_huge_memo(self):
        with pytest.raises(WeightsError, match="a memo larger than the file"):
            load_arrays(b"\x80\x02}r\xff\xff\xff\x7f.")

    def test_lambda_layer(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        inputs = keras.Input((4,))

        harm = lambda x: (__import__("pathlib").Path("harmed").touch(), x)[1]  # noqa: E731
        outputs = keras.layers.Lambda(harm, output_shape=(4,))(inputs)
        keras.Model(inputs, outputs).save("lambda.keras")
        Path("harmed").unlink(missing_ok=True)
        with pytest.raises(InputFileError, match=r"(?s)lambda\.keras: .*safe_mode"):
            UNet.load("lambda.keras")
        assert not Path("harmed").exists()


def test_what_pydicom_decodes_late_is_an_error_of_ours(tmp_path):
    dataset = ct(NumberOfFrames=2, PixelData=bytes(192))
    shared = Dataset()
    shared.PixelSpacing = [1, 1]
    dataset.SharedFunctionalGroupsSequence = [copy.deepcopy(shared)]
    raw = io.BytesIO()
    dataset.save_as(raw, enforce_file_format=True)
    data = bytearray(raw.getvalue())
    at = data.index(b"\x00\x52\x29\x92SQ") + 8  # the sequence ends within its item's tag
    length = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4 + length] = struct.pack("<I", 3) + b"\xfe\xff\x00"
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=r"a\.dcm"):
        read_scans(path)


def test_limits_hold_for_one_slice_too(tmp_path):
    path = save(ct(), tmp_path / "a.dcm")
    (series,) = read_scans(path, lazy=True)
    frame = series.frames[0]
    assert read_frame(frame).shape == (6, 8)
    save(ct(Rows=60000, Columns=60000), path)  # changed since its header was read
    with pytest.raises(InputFileError, match="60000 x 60000 pixels, above"):
        read_frame(frame)


def test_damaged_jpeg_2000_does_not_end_the_process(tmp_path):
    """GDCM aborts on this one, found by the fuzzer, so that a process of its own reads it."""
    dataset = pydicom.dcmread(get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False))
    sizes = "002900000000020000000200000000000000000000000200000002"  # shifted by a byte
    stream = bytes.fromhex(f"ff4fff51{sizes}") + bytes(10) + bytes.fromhex("c7d78236bee7008e")
    dataset.PixelData = encapsulate([stream])
    dataset.save_as(tmp_path / "damaged.dcm")
    script = f"from tfstyle.data import read_scan; read_scan({str(tmp_path / 'damaged.dcm')!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "damaged.dcm: the pixel data (JPEG 2000" in done.stderr
