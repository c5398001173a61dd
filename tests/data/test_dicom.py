import logging

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from tfstyle.data import Window, read_scan, read_scans
from tfstyle.data.privacy import mark_of
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def numbers(scan):
    """Which slice each plane is, as written by ``write_series``."""
    return [int(plane[0, 0]) + 1024 for plane in scan.pixels]


# -- values ------------------------------------------------------------------------------------


def test_hounsfield_units_and_geometry(write_ct):
    path = write_ct()
    scan = read_scan(path)
    assert scan.units == "HU"
    assert scan.pixels.dtype == np.int16
    np.testing.assert_array_equal(scan.pixels[0], np.arange(48).reshape(8, 6) - 1024)
    assert scan.spacing == (2.0, 0.5, 0.75)
    assert scan.header_window == Window.from_linear(40, 400)
    assert scan.files == (str(path),)
    assert scan.name == "ct"
    # Row 2 lies 2 x 0.5 mm posterior, column 4 lies 4 x 0.75 mm to the left.
    np.testing.assert_allclose(scan.affine @ [0, 2, 4, 1], [-7, -19, 0, 1])


def test_pydicoms_ct(sample):
    scan = read_scan(sample("CT_small.dcm"))
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    np.testing.assert_array_equal(scan.pixels[0], dataset.pixel_array - 1024)
    assert scan.units == "HU"
    assert scan.name == "CT_small"
    assert scan.header_window is None


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_lossless_encodings_give_the_same_values(sample, name):
    plain = read_scan(sample("MR_small.dcm"))
    scan = read_scan(sample(name))
    assert scan.units == "US"
    np.testing.assert_array_equal(scan.pixels, plain.pixels)


def test_jpeg_of_12_bits(sample):
    pytest.importorskip("libjpeg", reason="the extra libjpeg is not installed")
    assert read_scan(sample("JPGExtended.dcm")).pixels.shape == (1, 1024, 256)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_signed_ct(sample, tmp_path, syntax):
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    dataset.compress(syntax)
    dataset.save_as(tmp_path / "small.dcm")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "small.dcm").pixels, read_scan(sample("CT_small.dcm")).pixels
    )


@pytest.mark.parametrize(
    ("stored", "changes", "expected"),
    [
        (np.arange(8, dtype=np.int16), {"RescaleSlope": "0.5", "RescaleIntercept": "-100.25"},
         np.rint(np.arange(8) * 0.5 - 100.25)),
        (np.uint16([0, 1024, 40000, 65535]), {}, [-1024, 0, 32767, 32767]),
        (np.int16([1064]), {}, [40]),
        (np.int16([-2000, 1064, 32000]), {"PixelPaddingValue": -2000}, [-1024, 40, 30976]),
        (np.int16([-2000, 1064, 32000]), {"PixelPaddingValue": 32000}, [-1024, 40, -1024]),
        (np.int16([-2000, 1024]), {}, [-1024, 0]),  # padding that is not declared
        (np.uint16([0, 5, 10, 1024]), {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9},
         [-1024, -1024, -1014, 0]),
        (np.uint16([0, 100, 900]), {"PixelPaddingValue": 0, "Modality": "MR",
         "RescaleIntercept": 0}, [100, 100, 900]),
        (np.int16([0, 47]), {"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None},
         [0, 47]),
    ],
)  # fmt: skip
def test_stored_values_to_the_scans(write_ct, stored, changes, expected):
    path = write_ct(stored=stored[None], **changes)
    np.testing.assert_array_equal(read_scan(path).pixels, [[expected]])


def test_padding_with_a_tissue_value_spares_the_body(write_ct):
    stored = np.zeros((20, 20), np.int16)  # 0 HU all over
    scan = read_scan(write_ct(stored=stored, PixelPaddingValue=0, RescaleIntercept=0))
    assert scan.pixels[0, 0, 0] == -1024
    assert scan.pixels[0, 10, 10] == 0
    assert (scan.pixels[0, 5:15, 5:15] == 0).all()


def test_monochrome1(write_ct):
    stored = np.array([[1000, 1024, 1100]], np.int16)
    ct = read_scan(write_ct(stored=stored, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(ct.pixels[0], [[-24, 0, 76]])  # HU are HU
    path = write_ct(
        "xray.dcm",
        stored,
        Modality="DX",
        PhotometricInterpretation="MONOCHROME1",
        RescaleIntercept=0,
        WindowCenter=1050.5,
        WindowWidth=101,
    )
    xray = read_scan(path)
    np.testing.assert_array_equal(xray.pixels[0], [[-1000, -1024, -1100]])  # low was bright
    assert xray.header_window == Window(-1050, 100)


def test_missing_window_and_functions(write_ct):
    assert read_scan(write_ct(WindowCenter=None)).header_window is None
    exact = write_ct("exact.dcm", VOILUTFunction="LINEAR_EXACT", WindowCenter=40, WindowWidth=400)
    assert read_scan(exact).header_window == Window(40, 400)
    step = write_ct("step.dcm", WindowCenter=40, WindowWidth=1)
    assert read_scan(step).header_window is None


def test_derived_ct_in_other_units(write_ct):
    kinds = ["DERIVED", "SECONDARY", "AXIAL"]
    assert read_scan(write_ct(ImageType=kinds, RescaleType="US")).units == "US"
    assert read_scan(write_ct("hu.dcm", ImageType=kinds, RescaleType="HU")).units == "HU"
    original = write_ct("o.dcm", RescaleType="US")  # PS3.3 C.8.2.1: originals are in HU
    assert read_scan(original).units == "HU"


def test_modality_lut(write_ct):
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [3, 0, 16])
    lut.ModalityLUTType = "US"
    lut.add_new("LUTData", "US", [10, 20, 30])
    stored = np.array([[0, 1, 2]], np.uint16)
    path = write_ct(stored=stored, RescaleSlope=None, RescaleIntercept=None, Modality="DX")
    dataset = pydicom.dcmread(path)
    dataset.ModalityLUTSequence = [lut]
    dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(path).pixels[0], [[10, 20, 30]])


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


# -- series ------------------------------------------------------------------------------------


def test_sorted_by_position_not_by_name_or_number(write_series, tmp_path):
    paths = write_series([30, -10, 20, 0, 10])
    scan = read_scan(tmp_path)
    assert numbers(scan) == [1001, 1003, 1004, 1002, 1000]
    assert scan.files == tuple(str(paths[i]) for i in (1, 3, 4, 2, 0))
    assert scan.spacing[0] == 10
    np.testing.assert_allclose(scan.affine @ [4, 0, 0, 1], [-10, -20, 30, 1])
    assert scan.name == "series"


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


def test_series_are_told_apart_by_uid_across_folders(write_series, tmp_path):
    write_series([0, 2, 4], "a", SeriesInstanceUID="1.2.3.4", SeriesNumber=7)
    write_series([0, 2], "b", SeriesInstanceUID="1.2.3.5", SeriesNumber=2)
    write_series([6], "c/deep", SeriesInstanceUID="1.2.3.4", SeriesNumber=7)
    first, second = read_scans(tmp_path)
    assert len(first) == 4
    assert len(second) == 2
    assert len(read_scan(tmp_path, series="3.5")) == 2
    assert len(read_scan(tmp_path, series="7")) == 4
    assert len(read_scan(tmp_path, series=second.name)) == 2
    with pytest.raises(InputFileError, match="holds no series '99'"):
        read_scans(tmp_path, series="99")
    with pytest.raises(InputFileError, match=r"holds 2 scans.*4 slices.*b \(2 slices\)"):
        read_scan(tmp_path)


def test_series_in_one_folder_have_names_of_their_own(write_series, tmp_path):
    write_series([0, 2], "x", SeriesInstanceUID="1.2.3.4")
    for number, path in enumerate(sorted((tmp_path / "x").iterdir())):
        path.rename(path.with_name(f"first{number}.dcm"))
    write_series([0, 2], "x", SeriesInstanceUID="1.2.3.5")
    names = [scan.name for scan in read_scans(tmp_path)]
    assert sorted(names) == sorted(f"x-{mark_of(uid)}" for uid in ("1.2.3.4", "1.2.3.5"))


def test_blank_series_uids_are_grouped_by_folder(write_series, tmp_path):
    write_series([0, 2], "a", SeriesInstanceUID="")
    write_series([0, 2, 4], "b", SeriesInstanceUID="")
    assert [len(scan) for scan in read_scans(tmp_path)] == [2, 3]


@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": None, "RescaleIntercept": None}])
def test_scout_in_a_series(write_series, write_ct, tmp_path, caplog, rescale):
    write_series([0, 2, 4])
    kinds = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout = write_ct("series/scout.dcm", ImageType=kinds, **rescale)
    with caplog.at_level(logging.WARNING):
        assert numbers(read_scan(tmp_path)) == [1000, 1001, 1002]
    assert "scout.dcm" in caplog.text
    assert "LOCALIZER" in caplog.text
    with pytest.raises(InputFileError, match=r"scout\.dcm: a scout image"):
        read_scans(tmp_path, on_odd="error")
    assert len(read_scan(scout)) == 1  # asked for by itself, it is read


def test_series_of_scouts_alone(write_series, tmp_path):
    write_series([0, 2], "ct")
    scouts = {"SeriesInstanceUID": "1.2.7.77", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series([0], "scouts", **scouts)
    assert len(read_scan(tmp_path, on_odd="error")) == 2
    assert len(read_scan(tmp_path, series="7.77")) == 1
    with pytest.raises(InputFileError, match="none with slices to read"):
        read_scans(tmp_path / "scouts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stored": np.zeros((4, 4), np.int16)}, "4 x 4 pixels, unlike the 8 x 6"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "another orientation"),
        ({"PixelSpacing": [1, 1]}, "another pixel spacing"),
        ({"ImagePositionPatient": None}, "has no position"),
        ({"Modality": "OT"}, "other units"),
    ],
)
def test_odd_slices(write_series, write_ct, tmp_path, caplog, changes, message):
    write_series([0, 2, 4])
    write_ct("series/odd.dcm", **{"ImagePositionPatient": [-10, -20, 6], **changes})
    with caplog.at_level(logging.WARNING):
        assert numbers(read_scan(tmp_path)) == [1000, 1001, 1002]
    assert "odd.dcm" in caplog.text
    assert message in caplog.text
    with pytest.raises(InputFileError, match=r"odd\.dcm: .*" + message):
        read_scans(tmp_path, on_odd="error")


def test_colour(write_ct, tmp_path, write_series, caplog):
    write_series([0, 2])
    colours = np.zeros((8, 6, 3), np.uint8)
    path = write_ct("series/colour.dcm", SamplesPerPixel=3, PhotometricInterpretation="RGB")
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.PlanarConfiguration = 7, 0, 0
    dataset.PixelData = colours.tobytes()
    dataset.save_as(path)
    with pytest.raises(InputFileError, match="a color image"):
        read_scan(path)
    assert len(read_scan(tmp_path)) == 2
    assert "colour.dcm: a color image" in caplog.text


def test_copies_of_a_file(write_series, tmp_path, caplog):
    paths = write_series([0, 2])
    (tmp_path / "series" / "copy.dcm").write_bytes(paths[0].read_bytes())
    assert len(read_scan(tmp_path)) == 2
    assert "is a copy of" in caplog.text


@pytest.mark.parametrize(
    ("positions", "step", "gap"),
    [([0, 2, 4, 10, 12, 14], 2, True), ([0, 0.6, 1.3, 1.9, 2.5], 0.6, False)],
)
def test_gap(write_series, tmp_path, caplog, positions, step, gap):
    write_series(positions)
    assert read_scan(tmp_path).spacing[0] == pytest.approx(step, abs=0.05)
    assert ("unevenly spaced: 1 of 5 steps" in caplog.text) == gap
    assert ("6 mm" in caplog.text) == gap


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


def test_single_slice_has_the_header_thickness(write_ct):
    scan = read_scan(write_ct(SpacingBetweenSlices=3.5))
    assert scan.spacing[0] == 3.5
    np.testing.assert_allclose(scan.affine[:3, 0], [0, 0, 3.5])


# -- multi-frame -------------------------------------------------------------------------------


def test_enhanced_multi_frame(enhanced_ct):
    path = enhanced_ct([4, 0, 2])
    scan = read_scan(path)
    # Frame i holds 1000 + i, with an intercept of its own of -1024 + 10 i.
    assert [int(p[0, 0]) for p in scan.pixels] == [-13, -2, -24]
    assert scan.units == "HU"
    assert scan.spacing == (2.0, 0.5, 0.75)
    assert scan.header_window == Window.from_linear(40, 400)
    assert scan.files == (str(path),)
    np.testing.assert_allclose(scan.affine @ [1, 0, 0, 1], [-10, -20, 2, 1])


def test_fewer_frames_than_named(enhanced_ct, edit_dicom):
    path = enhanced_ct([0, 2, 4])
    edit_dicom(path, NumberOfFrames=5)
    with pytest.raises(InputFileError, match=r"enhanced\.dcm: .*cannot be decoded"):
        read_scan(path)


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"hello, this is no image" * 20, b"\x00" * 1000, b"DICM"])
def test_not_a_dicom_file(tmp_path, content):
    path = tmp_path / "notes.dcm"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=r"notes\.dcm: not a DICOM file"):
        read_scans(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RescaleSlope": None}, r"a CT image without Rescale Slope \(0028,1053\)"),
        ({"RescaleIntercept": None}, r"a CT image without Rescale Intercept \(0028,1052\)"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "Slope .* and Rescale Intercept"),
        ({"RescaleSlope": 0}, r"Rescale Slope \(0028,1053\) is 0"),
        ({"PixelData": None}, "has no pixel data"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a color image"),
    ],
)
def test_unusable_headers(write_ct, changes, message):
    with pytest.raises(InputFileError, match=rf"ct\.dcm: .*{message}"):
        read_scan(write_ct(**changes))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_truncated_pixels(sample, tmp_path, name):
    raw = sample(name).read_bytes()
    path = tmp_path / "short.dcm"
    path.write_bytes(raw[: len(raw) - 1500])
    for given in (path, tmp_path):  # in a folder, too, a damaged slice is not passed over
        with pytest.raises(InputFileError, match=r"short\.dcm: .*(truncated|cut short)"):
            read_scans(given)


def test_header_cut_short(sample, tmp_path, write_series, caplog):
    write_series([0, 2])
    path = tmp_path / "series" / "cut.dcm"
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(dataset, keyword)
    dataset.save_as(path)
    with pytest.raises(InputFileError, match="without Rows and Columns"):
        read_scan(path)
    assert len(read_scan(tmp_path)) == 2
    assert "cut.dcm" in caplog.text


def test_syntax_without_decoder(write_ct):
    path = write_ct()
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2
    dataset.PixelData = pydicom.encaps.encapsulate([b"\x00" * 64])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(InputFileError, match=r"ct\.dcm: the pixel data \(MPEG2"):
        read_scan(path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (pydicom.uid.JPEGLosslessSV1, "python-gdcm"),
        (pydicom.uid.JPEGLSLossless, "python-gdcm"),
        (pydicom.uid.JPEG2000Lossless, "pylibjpeg-openjpeg"),
        (pydicom.uid.HTJ2KLossless, "pylibjpeg-openjpeg"),
        (pydicom.uid.RLELossless, "pylibjpeg-rle"),
    ],
)
def test_missing_decoders_are_named(write_ct, edit_dicom, monkeypatch, syntax, package):
    def fail(self):
        raise RuntimeError("Unable to decompress: missing dependencies: gdcm")

    path = write_ct(PixelData=pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(64)]))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(fail))
    monkeypatch.setattr("tfstyle.data.dicom.pixels.picture_size", lambda data: (8, 6, 16))
    with pytest.raises(InputFileError, match=f"install .*{package}"):
        read_scan(path)


def test_jpeg_of_12_bits_names_its_extra(sample, monkeypatch):
    def fail(self):
        raise RuntimeError(
            "Unable to decode as exceptions were raised by all available plugins:\n"
            "  gdcm: GDCM does not support 'JPEG Extended' for samples with 12-bit precision"
        )

    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(fail))
    with pytest.raises(InputFileError, match=r"pip install 'tfstyle\[libjpeg\]'"):
        read_scan(sample("JPGExtended.dcm"))


def test_objects_without_pictures(non_picture, write_series, tmp_path, caplog):
    path = non_picture("series/plan.dcm")
    with pytest.raises(InputFileError, match=r"without a picture to read \(RTSTRUCT\)"):
        read_scans(path)
    write_series([0, 2])
    with caplog.at_level(logging.DEBUG):
        assert len(read_scan(tmp_path, on_odd="error")) == 2
    records = [r for r in caplog.records if "plan.dcm" in r.getMessage()]
    assert [r.levelno for r in records] == [logging.DEBUG]


def test_damaged_files_raise_nothing_else(sample, tmp_path):
    """Cuts and flipped bytes give an InputFileError or a scan, never another exception."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.dcm"
    messages = []
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"):
        raw = sample(name).read_bytes()
        for number in range(25):
            damaged = bytearray(raw)
            if number % 2:
                damaged = damaged[: rng.integers(1, len(raw))]
            else:
                for place in rng.integers(132, 3000, 20):
                    damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                read_scans(path)
            except InputFileError as error:
                messages.append(str(error))
    assert len(messages) > 40
    assert all(message.startswith(str(path)) for message in messages)
