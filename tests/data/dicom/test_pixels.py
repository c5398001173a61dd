"""Stored values to the values of the scan: bits, rescale, padding, encodings, damage."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.data.conftest import make_ct
from tfstyle.data import Window, read_scan, read_scans
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

VALUES = np.array([[0, 1, 1074], [1500, 2047, 2048]])


def test_hounsfield_units_and_geometry(write_ct):
    path = write_ct()
    scan = read_scan(path)
    assert (scan.units, scan.pixels.dtype, scan.name) == ("HU", np.int16, "ct")
    np.testing.assert_array_equal(scan.pixels[0], np.arange(48).reshape(8, 6) - 1024)
    assert scan.spacing == (2.0, 0.5, 0.75)
    assert scan.header_window == Window.from_linear(40, 400)
    assert scan.files == (str(path),)
    # Row 2 lies 2 x 0.5 mm posterior, column 4 lies 4 x 0.75 mm to the left.
    np.testing.assert_allclose(scan.affine @ [0, 2, 4, 1], [-7, -19, 0, 1])


def test_lossless_encodings_give_the_same_values(sample):
    for name in (
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
    ):
        scan = read_scan(sample(name))
        assert scan.units == "US"
        np.testing.assert_array_equal(scan.pixels, read_scan(sample("MR_small.dcm")).pixels)


@pytest.mark.parametrize(
    ("stored", "changes", "expected"),
    [
        (np.arange(8, dtype=np.int16), {"RescaleSlope": "0.5", "RescaleIntercept": "-100.25"},
         np.rint(np.arange(8) * 0.5 - 100.25)),
        (np.uint16([0, 1024, 40000, 65535]), {}, [-1024, 0, 32767, 32767]),
        (np.int16([-2000, 1064, 32000]), {"PixelPaddingValue": -2000}, [-1024, 40, 30976]),
        (np.int16([-2000, 1064, 32000]), {"PixelPaddingValue": 32000}, [-1024, 40, -1024]),
        (np.int16([-2000, 1024]), {}, [-1024, 0]),  # padding that is not declared
        (np.uint16([0, 5, 10, 1024]), {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9},
         [-1024, -1024, -1014, 0]),
        (np.uint16([65535, 1074]), {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 65535},
         [-1024, 50]),  # more bits than are stored
        (np.uint16([0, 100, 900]), {"PixelPaddingValue": 0, "Modality": "MR",
         "RescaleIntercept": 0}, [100, 100, 900]),
        (np.int16([0, 47]), {"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None},
         [0, 47]),
        (np.int16([1000, 1024]), {"PhotometricInterpretation": "MONOCHROME1"}, [-24, 0]),
        (np.int16([1000, 1024]), {"PhotometricInterpretation": "MONOCHROME1", "Modality": "DX",
         "RescaleIntercept": 0}, [-1000, -1024]),  # low was bright
    ],
)  # fmt: skip
def test_stored_values_to_the_scans(write_ct, stored, changes, expected):
    path = write_ct(stored=stored[None], **changes)
    np.testing.assert_array_equal(read_scan(path).pixels, [[expected]])


def test_padding_with_a_tissue_value_spares_the_body(write_ct):
    stored = np.zeros((20, 20), np.int16)  # 0 HU all over
    scan = read_scan(write_ct(stored=stored, PixelPaddingValue=0, RescaleIntercept=0))
    assert scan.pixels[0, 0, 0] == -1024
    assert (scan.pixels[0, 5:15, 5:15] == 0).all()


def test_modality_lut(write_ct, edit_dicom):
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [3, 0, 16])
    lut.ModalityLUTType = "US"
    lut.add_new("LUTData", "US", [10, 20, 30])
    path = write_ct(stored=np.array([[0, 1, 2]], np.uint16), Modality="MR")
    edit_dicom(path, ModalityLUTSequence=[])
    assert read_scan(path).pixels.min() == -1024
    edit_dicom(path, RescaleSlope=None, RescaleIntercept=None)
    assert read_scan(path).pixels.max() == 2
    edit_dicom(path, ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(read_scan(path).pixels[0], [[10, 20, 30]])
    edit_dicom(path, ModalityLUTSequence=[Dataset()])
    with pytest.raises(InputFileError, match=r"ct\.dcm: unusable Modality LUT"):
        read_scan(path)


def test_float_pixels(write_ct):
    values = np.array([[0.5, 1.25]], np.float32)
    path = write_ct(
        stored=values, Modality="PT", RescaleIntercept=0, PixelData=None, PixelRepresentation=None
    )
    dataset = pydicom.dcmread(path)
    dataset.FloatPixelData = values.tobytes()
    del dataset.BitsStored, dataset.HighBit
    dataset.save_as(path)
    scan = read_scan(path)
    assert scan.pixels.dtype == np.float32
    np.testing.assert_array_equal(scan.pixels[0], values)
    dataset.FloatPixelData = np.array([[np.nan, 1]], np.float32).tobytes()
    dataset.save_as(path)
    with pytest.raises(InputFileError, match="NaN"):
        read_scan(path)


@pytest.mark.parametrize(
    ("allocated", "stored", "signed", "syntax"),
    [(16, 12, False, None), (16, 13, True, RLELossless), (32, 12, True, None)],
)
def test_what_lies_beside_the_value_in_its_cell(write_ct, allocated, stored, signed, syntax):
    values = VALUES - 1024 * signed
    mask = (1 << stored) - 1
    cells = (values & mask) | (~mask & ((1 << allocated) - 1))
    path = write_ct(
        stored=cells.astype(f"u{allocated // 8}"),
        **{"BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": int(signed)},
        RescaleIntercept=0,
    )
    if syntax is not None:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(path).pixels[0], values)


@pytest.mark.parametrize(
    ("syntax", "signed", "stored"),
    [(JPEGLSLossless, False, 12), (JPEG2000Lossless, True, 12), (JPEG2000Lossless, True, 16)],
)
def test_codestreams_of_12_bits(write_ct, tmp_path, syntax, signed, stored):
    values = np.array([[-1024, -1, 0, 7], [1, 50, 1000, 2047]]) + (0 if signed else 1024)
    values = np.tile(values, (32, 16))  # codecs take no picture of eight pixels
    cells = values.astype(np.int16 if signed else np.uint16)
    dataset = make_ct(cells, BitsStored=12, HighBit=11, RescaleIntercept=0)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = stored, stored - 1
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.dcm").pixels[0], values)


def test_unusable_headers(write_ct, edit_dicom):
    for changes, message in (
        ({"RescaleIntercept": None}, r"a CT image without Rescale Intercept \(0028,1052\)"),
        ({"RescaleSlope": 0}, r"Rescale Slope \(0028,1053\) is 0"),
        ({"PixelData": None}, "has no pixel data"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a color image"),
        ({"PixelRepresentation": None}, r"lacks Pixel Representation \("),
        ({"BitsStored": 12}, r"High Bit \(0028,0102\) is not one less than Bits Stored"),
    ):
        path = write_ct()
        edit_dicom(path, **changes)
        with pytest.raises(InputFileError, match=rf"ct\.dcm: .*{message}"):
            read_scan(path)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_truncated_pixels(sample, tmp_path, name):
    raw = sample(name).read_bytes()
    path = tmp_path / "short.dcm"
    path.write_bytes(raw[: len(raw) - 1500])
    for given in (path, tmp_path):  # in a folder, too, a damaged slice is not passed over
        with pytest.raises(InputFileError, match=r"short\.dcm: .*(truncated|cut short)"):
            read_scans(given)


TWELVE = "GDCM does not support 'JPEG Extended' for samples with 12-bit precision"


@pytest.mark.parametrize(
    ("syntax", "said", "advice"),
    [
        (pydicom.uid.JPEGExtended12Bit, TWELVE, r"pip install 'tfstyle\[libjpeg\]'"),
        (JPEGLSLossless, "DOE^JANE: no", r"\(JPEG-LS .* cannot be decoded .*gdcmconv"),
        (pydicom.uid.MPEG2MPML, None, "MPEG2.*convert it"),
    ],
)
def test_what_no_decoder_reads(write_ct, monkeypatch, syntax, said, advice):
    def fail(self):
        raise RuntimeError(said)

    path = write_ct(PixelData=pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(64)]))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    if said is not None:
        monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(fail))
    monkeypatch.setattr("tfstyle.data.dicom.pixels.picture_size", lambda data: (8, 6))
    with pytest.raises(InputFileError, match=rf"ct\.dcm: .*{advice}"):
        read_scan(path)


def test_fewer_frames_than_named(enhanced_ct, edit_dicom):
    path = enhanced_ct([0, 2, 4])
    edit_dicom(path, NumberOfFrames=5)
    with pytest.raises(InputFileError, match=r"enhanced\.dcm: .*cannot be decoded"):
        read_scan(path)
