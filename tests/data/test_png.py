import numpy as np
import pytest
import tensorflow as tf

from tfstyle.data import read_png, read_scan, scan_to_unit, write_png
from tfstyle.errors import ArgumentError, InputFileError, OutputError


@pytest.fixture
def save(tmp_path):
    """Writes an array (rows, columns, channels) as PNG."""

    def write(array, name="picture.png"):
        path = tmp_path / name
        path.write_bytes(tf.io.encode_png(np.asarray(array)).numpy())
        return path

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray(save, dtype):
    array = np.linspace(0, np.iinfo(dtype).max, 15).astype(dtype).reshape(3, 5, 1)
    path = save(array)
    scan = read_png(path)
    assert scan.pixels.dtype == dtype
    np.testing.assert_array_equal(scan.pixels[0], array[..., 0])
    assert (scan.units, scan.spacing, scan.affine) == ("gray", (1.0, 1.0, 1.0), None)
    assert (scan.name, scan.files) == ("picture", (str(path),))
    unit = scan_to_unit(scan)
    assert (unit.min(), unit.max()) == (0, 1)


def test_gray_saved_as_color(save):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    np.testing.assert_array_equal(
        read_png(save(np.repeat(gray, 3, axis=-1))).pixels[0], gray[..., 0]
    )
    opaque = np.full_like(gray, 255)
    for channels in ([gray, opaque], [gray, gray, gray, opaque]):
        path = save(np.concatenate(channels, axis=-1))
        np.testing.assert_array_equal(read_png(path).pixels[0], gray[..., 0])


def test_color_and_transparency(save):
    color = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    with pytest.raises(InputFileError, match=r"picture\.png: a color picture; convert it to gray"):
        read_png(save(color))
    gray = np.full((3, 4, 1), 7, np.uint8)
    with pytest.raises(InputFileError, match="transparent pixels"):
        read_png(save(np.concatenate([gray, gray], axis=-1)))


def test_damaged(save, tmp_path):
    raw = save(np.random.default_rng(0).integers(0, 256, (40, 40, 1)).astype(np.uint8)).read_bytes()
    path = tmp_path / "bad.png"
    for content, message in (
        (raw[:400], "truncated or damaged"),
        (raw[:20], "not a PNG file"),
        (b"GIF89a" + b"\0" * 100, "not a PNG file"),
        (raw[:50] + bytes(200) + raw[250:], "truncated or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputFileError, match=r"bad\.png: .*" + message):
            read_scan(path)
    with pytest.raises(InputFileError, match="no such file"):
        read_png(tmp_path / "none.png")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_png(tmp_path)


@pytest.mark.parametrize("bits", [8, 16])
def test_round_trip(tmp_path, bits):
    unit = np.random.default_rng(bits).uniform(-0.1, 1.1, (5, 7))
    for image in (unit * 0, unit[..., None]):  # replaced, clipped
        write_png(image, tmp_path / "a.png", bits=bits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    back = scan_to_unit(read_png(tmp_path / "a.png"))[0, ..., 0]
    np.testing.assert_allclose(back, unit.clip(0, 1), atol=0.501 / (2**bits - 1) + 1e-6)


def test_write_errors(tmp_path):
    for image, bits, message in (
        (np.zeros((2, 2)), 12, "bits: must be 8 or 16"),
        (np.zeros((2, 2, 3)), 8, r"shape \(2, 2, 3\)"),
        (np.full((2, 2), np.nan), 8, "NaN"),
    ):
        with pytest.raises(ArgumentError, match=message):
            write_png(image, tmp_path / "a.png", bits=bits)
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "file" / "a.png", "/file: is a file, where a folder is needed"),
        (tmp_path, "cannot be written"),
    ):
        with pytest.raises(OutputError, match=message):
            write_png(np.zeros((2, 2)), path)
