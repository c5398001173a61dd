"""Where the value lies in its cell: Bits Allocated, Bits Stored, High Bit (PS3.5 8.1.1)."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.data.conftest import make_ct
from tfstyle.data import read_scan

VALUES = np.array([[0, 1, 1074], [2047, 2048, 4095]])


@pytest.mark.parametrize(("allocated", "syntax"), [(16, None), (32, None), (16, RLELossless)])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (12, 13), (16, 15), (13, 14)])
@pytest.mark.parametrize("dirt", [0, -1])
def test_unsigned(write_ct, allocated, stored, high, dirt, syntax):
    shift = high + 1 - stored
    mask = ((1 << stored) - 1) << shift
    cells = (VALUES << shift) | (dirt & ~mask & ((1 << allocated) - 1))
    path = write_ct(stored=cells.astype(f"u{allocated // 8}"), BitsStored=stored, HighBit=high)
    if syntax is not None:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(path).pixels[0], VALUES - 1024)


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (13, 14)])
@pytest.mark.parametrize("dirt", [0, -1])
def test_signed(write_ct, stored, high, dirt):
    values = np.array([[-1024, -1, 0], [1, 1000, 2047]])
    shift = high + 1 - stored
    mask = ((1 << stored) - 1) << shift
    cells = ((values << shift) & mask) | (dirt & ~mask & 0xFFFF)
    path = write_ct(
        stored=cells.astype("<u2"),
        BitsStored=stored,
        HighBit=high,
        PixelRepresentation=1,
        RescaleIntercept=0,
    )
    np.testing.assert_array_equal(read_scan(path).pixels[0], values)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("stored", "high", "precision"),
    [(12, 11, 12), (12, 15, 12), (12, 15, 16), (12, 11, 16), (12, 13, 16), (16, 15, 12)],
)
def test_codestreams_hold_the_value_or_the_cell(
    write_ct, tmp_path, syntax, signed, stored, high, precision
):
    values = np.array([[-1024, -1, 0, 7], [1, 50, 1000, 2047]]) + (0 if signed else 1024)
    values = np.tile(values, (32, 16))  # codecs take no picture of eight pixels
    if precision == 16:  # whole cells were compressed, with the value where HighBit says
        cells = (values & (2**stored - 1)) << (high + 1 - stored)
        cells = cells.astype(np.uint16).view(np.int16 if signed else np.uint16)
    else:
        cells = values.astype(np.int16 if signed else np.uint16)
    dataset = make_ct(cells, BitsStored=precision, HighBit=precision - 1)
    dataset.RescaleIntercept = 0 if signed else -1024
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = stored, high
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(
        read_scan(tmp_path / "a.dcm").pixels[0], values - (0 if signed else 1024)
    )


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15)])
def test_padding_is_a_value_not_a_cell(write_ct, stored, high):
    cells = np.array([[4090, 1074, 4090]], np.uint16) << (high + 1 - stored)
    path = write_ct(stored=cells, BitsStored=stored, HighBit=high, PixelPaddingValue=4090)
    np.testing.assert_array_equal(read_scan(path).pixels[0], [[-1024, 50, -1024]])


def test_padding_with_more_bits_than_stored(write_ct):
    cells = np.array([[65535, 1074, 65535]], np.uint16)
    path = write_ct(stored=cells, BitsStored=12, HighBit=11, PixelPaddingValue=65535)
    np.testing.assert_array_equal(read_scan(path).pixels[0], [[-1024, 50, -1024]])


@pytest.mark.parametrize("high", [11, 0, 20])
def test_impossible_high_bit_is_passed_over(write_ct, high):
    path = write_ct(stored=VALUES.astype(np.uint16), BitsStored=16)
    dataset = pydicom.dcmread(path)
    dataset.HighBit = high
    dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(path).pixels[0], VALUES - 1024)
