"""Reading and writing gray PNG pictures, 8 or 16 bit."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfstyle._private.files import read_limited, reading, safe_name, write_atomically
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import check

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_png(path: str | os.PathLike, lazy: bool = False) -> Scan:
    """Reads a gray PNG as a scan of one slice; equal color channels and opaque alpha will do.

    Args:
        path: A PNG file.
        lazy: Leave the pixels until they are asked for.

    Returns:
        The scan: uint8, or uint16 for 16-bit files, spacing (1, 1, 1), units ``"gray"``.

    Raises:
        InputFileError: If the file is missing, damaged, in color or partly transparent.
    """
    path = os.fspath(path)
    pixels: Any = PngPixels(path)
    name = safe_name(os.path.splitext(os.path.basename(path))[0], "picture")
    scan = Scan(pixels, units="gray", name=name, files=(path,))
    return scan if lazy else scan.load()


class PngPixels:
    """The pixels of a file, for a lazy :class:`tfstyle.data.Scan`."""

    by_slice = False

    def __init__(self, path: str):
        self.path = path
        with reading(path), open(path, "rb") as file:
            self.shape, self._bits = _size(path, file.read(33))

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The picture, uint8 or uint16 (1, rows, columns)."""
        import tensorflow as tf

        path, kind = self.path, tf.uint16 if self._bits == 16 else tf.uint8
        with reading(path):
            data = read_limited(path, "file_bytes")
        if _size(path, data) != (self.shape, self._bits):
            raise InputFileError(path, "changed while it was read.")
        try:
            with tf.device("CPU"):
                image = tf.io.decode_png(data, dtype=kind).numpy()
        except (tf.errors.OpError, ValueError) as error:
            raise InputFileError(path, "the PNG file is truncated or damaged.") from error
        colors = image.shape[-1] - (image.shape[-1] in (2, 4))  # without alpha
        if (image[..., colors:] != np.iinfo(image.dtype).max).any():
            raise InputFileError(path, "has transparent pixels; save it without an alpha channel.")
        if (image[..., :colors] != image[..., :1]).any():
            raise InputFileError(path, "a color picture; convert it to gray first.")
        return np.ascontiguousarray(image[None, ..., 0])


def _size(path: str, data: bytes) -> tuple[tuple[int, int, int], int]:
    """Shape of the pixels and bits a sample, by the header of a file."""
    if data[:8] != _SIGNATURE or len(data) < 33 or data[12:16] != b"IHDR":
        raise InputFileError(path, "not a PNG file.")
    columns, rows, bits = struct.unpack(">IIB", data[16:25])
    check(path, "picture_pixels", rows * columns, f"a picture of {rows} x {columns} pixels")
    return (1, rows, columns), bits


def write_png(
    unit: np.ndarray, path: str | os.PathLike, bits: int = 8, *, description: str = ""
) -> None:
    """Writes an image in [0, 1] as a gray PNG.

    Args:
        unit: Floats (rows, columns) or (rows, columns, 1); values beyond [0, 1] are clipped.
        path: Output file; an older file is replaced as a whole.
        bits: 8 or 16.
        description: Text for the file's header, in Latin-1.

    Raises:
        ArgumentError: If the shape, a value (NaN) or ``bits`` cannot be used.
        OutputError: If the file cannot be written.
    """
    if bits not in (8, 16):
        raise ArgumentError(f"bits: must be 8 or 16, received {bits!r}.")
    unit = np.asarray(unit, np.float64)
    if unit.ndim == 2:
        unit = unit[..., None]
    if unit.ndim != 3 or unit.shape[-1] != 1 or unit.size == 0:
        raise ArgumentError(f"unit: must be (rows, columns), received shape {unit.shape}.")
    if not np.isfinite(unit).all():
        raise ArgumentError("unit: holds NaN or infinite values.")
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.rint(np.clip(unit, 0, 1) * np.iinfo(kind).max).astype(kind)
    write_pixels(stored, path, description)


def write_pixels(pixels: np.ndarray, path: str | os.PathLike, description: str = "") -> None:
    """Writes uint8 or uint16 (rows, columns, 1) as a gray PNG; see :func:`write_png`."""
    import tensorflow as tf

    with tf.device("CPU"):
        data = tf.io.encode_png(pixels).numpy()
    if description:  # a text chunk behind the header, PNG section 11.3.3
        chunk = b"tEXtDescription\0" + description.encode("latin-1", "replace")
        size, checksum = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
        data = data[:33] + size + chunk + checksum + data[33:]
    write_atomically(path, data)
