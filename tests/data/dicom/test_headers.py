"""What headers say: windows, units, spacing, and what is malformed or missing."""

import numpy as np
import pydicom
import pytest
from pydicom.tag import Tag

from tfstyle.data import Window, read_scan, read_scans
from tfstyle.data.privacy import values_unsaid
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

DERIVED = ["DERIVED", "SECONDARY", "AXIAL"]


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, Window.from_linear(40, 400)),
        ({"WindowCenter": None}, None),
        ({"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 40, "WindowWidth": 400},
         Window(40, 400)),
        ({"PhotometricInterpretation": "MONOCHROME1", "Modality": "DX", "WindowCenter": 1050.5,
          "WindowWidth": 101}, Window(-1050, 100)),
    ],
)  # fmt: skip
def test_windows(write_ct, changes, window):
    assert read_scan(write_ct(**changes)).header_window == window


def test_units(write_ct):
    for changes, units in (
        ({"ImageType": DERIVED, "RescaleType": "US"}, "US"),
        ({"RescaleType": "US"}, "HU"),  # PS3.3 C.8.2.1: originals are in HU
        ({"Modality": "MR"}, "US"),
    ):
        assert read_scan(write_ct(**changes)).units == units


def test_missing_pixel_spacing_is_said_once_a_scan(write_series, write_ct, tmp_path, caplog):
    write_series([0, 2, 4], PixelSpacing=None)
    assert read_scan(tmp_path).spacing == (2.0, 1.0, 1.0)
    assert caplog.text.count("has no Pixel Spacing (0028,0030); its pixels are taken as 1 mm") == 1
    assert str(tmp_path / "series") in caplog.text
    caplog.clear()
    xray = write_ct("xray.dcm", PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.3], Modality="DX")
    assert read_scan(xray).spacing[1:] == (0.2, 0.3)
    assert caplog.text == ""


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


def test_malformed_numbers(write_ct):
    for keyword, text, named in (
        ("RescaleSlope", "1,0", r"Rescale Slope \(0028,1053\) is not a number"),
        ("PixelSpacing", "0.5", r"Pixel Spacing \(0028,0030\) is not two"),
    ):
        path = write_ct()
        spoil(path, keyword, text)
        with pytest.raises(InputFileError, match=rf"ct\.dcm: {named}"):
            read_scan(path)


def test_enhanced_multi_frame(enhanced_ct):
    path = enhanced_ct([4, 0, 2])
    scan = read_scan(path)
    # Frame i holds 1000 + i, with an intercept of its own of -1024 + 10 i.
    assert [int(p[0, 0]) for p in scan.pixels] == [-13, -2, -24]
    assert (scan.units, scan.spacing) == ("HU", (2.0, 0.5, 0.75))
    assert scan.header_window == Window.from_linear(40, 400)
    assert scan.files == (str(path),)
    np.testing.assert_allclose(scan.affine @ [1, 0, 0, 1], [-10, -20, 2, 1])


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


def test_damaged_files_raise_nothing_else(sample, tmp_path):
    """Cuts and flipped bytes give an InputFileError or a scan, never another exception."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.dcm"
    messages = []
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"):
        raw = sample(name).read_bytes()
        for number in range(12):
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
    assert len(messages) > 18
    assert all(message.startswith(str(path)) for message in messages)
