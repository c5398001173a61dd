"""Stored values of a DICOM file to Hounsfield units, or to the values of another modality."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tfstyle.data.dicom.files import (
    called,
    check_size,
    damage_is_input_error,
    integer_of,
    number_of,
    read_dataset,
)
from tfstyle.data.dicom.headers import Frame
from tfstyle.data.privacy import reason_of
from tfstyle.errors import InputFileError
from tfstyle.limits import check

#: What pixels outside the field of view become, and values below which mark such pixels.
AIR_HU, LOWEST_HU = -1024, -1500

# What no decoder can do without (PS3.3 C.7.6.3).
_REQUIRED = (
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation"),
)


def read_frame(frame: Frame) -> np.ndarray:
    """Decodes the pixels of a file that holds one frame, in its units."""
    return OpenFiles().plane(frame)


class OpenFiles:
    """DICOM files in use: those of several frames, by path, are decoded once."""

    def __init__(self) -> None:
        self._decoded: dict[str, tuple[Dataset, np.ndarray, int]] = {}

    def plane(self, frame: Frame) -> np.ndarray:
        """Pixels (rows, columns) of one frame: int16 HU, or float64 in other units."""
        found = self._decoded.get(frame.path)
        if found is None:
            dataset = read_dataset(frame.path, pixels=True)
            with damage_is_input_error(frame.path):
                found = dataset, *decode(frame.path, dataset)
            if frame.NumberOfFrames > 1:
                self._decoded[frame.path] = found
        dataset, cells, bits = found
        if frame.index >= len(cells):
            raise InputFileError(frame.path, f"lacks some of its {frame.NumberOfFrames} frames.")
        if cells[frame.index].shape != frame.shape:
            raise InputFileError(frame.where, "changed while it was read.")
        with damage_is_input_error(frame.path):
            return _values_of(frame, dataset, cells[frame.index], bits)


@dataclass(frozen=True)
class DicomPixels:
    """The pixels of sorted frames, for a lazy :class:`tfstyle.data.Scan`."""

    frames: tuple[Frame, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return len(self.frames), *self.frames[0].shape

    @property
    def by_slice(self) -> bool:
        """Whether each slice is in a file of its own."""
        return all(frame.NumberOfFrames == 1 for frame in self.frames)

    def read(self, indices: Iterable[int], files: OpenFiles | None = None) -> np.ndarray:
        """Pixels (slices, rows, columns): int16 HU, else the smallest type that fits."""
        frames = [self.frames[i] for i in indices]
        _, rows, columns = self.shape
        what = f"the first of {len(frames)} slices of {rows} x {columns} pixels"
        check(frames[0].path, "scan_pixels", len(frames) * rows * columns, what)
        files = OpenFiles() if files is None else files
        planes = np.stack([files.plane(frame) for frame in frames])
        return planes if frames[0].units == "HU" else compact(planes)


#: Damaged streams of JPEG 2000 make GDCM end the process; OpenJPEG reads and refuses them all.
_WITHOUT_GDCM = frozenset(pydicom.uid.JPEG2000TransferSyntaxes)


def decode(path: str, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Pixel data as it is in a file (frames, rows, columns), and how many bits hold a value."""
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputFileError(path, "has no pixel data; the file may be cut short.")
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # no preamble: implicit little endian is the default, PS3.5 section 10
        syntax = dataset.file_meta.TransferSyntaxUID = _native_syntax(path, dataset)
    check_size(path, dataset)
    for keyword in _REQUIRED if "PixelData" in dataset else ():
        if dataset.get(keyword) in (None, ""):
            raise InputFileError(path, f"lacks {called(keyword)}, and with it its pixels.")
    bits = integer_of(dataset, "BitsStored")
    if integer_of(dataset, "HighBit", bits - 1) != bits - 1:
        what = f"{called('HighBit')} is not one less than Bits Stored, as it must be"
        raise InputFileError(path, f"{what}; shift the values and mend the attribute.")
    _check_codestreams(path, dataset)
    # What lies beside the stored bits is dealt with in _values_of.
    plugin = "pylibjpeg" if syntax in _WITHOUT_GDCM else ""
    dataset.pixel_array_options(correct_unused_bits=False, decoding_plugin=plugin)
    try:
        stored = dataset.pixel_array
    except BaseException as error:  # decoders raise many kinds, one even beside Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        name = getattr(syntax, "name", "") or "unknown transfer syntax"
        hint = "convert it to Explicit VR Little Endian, for example with gdcmconv --raw"
        if syntax == pydicom.uid.JPEGExtended12Bit:
            hint = "JPEG of 12 bits needs pylibjpeg-libjpeg (GPL): pip install 'tfstyle[libjpeg]'"
        raise InputFileError(
            path,
            f"the pixel data ({name}) cannot be decoded ({reason_of(error)}): it is truncated or "
            f"damaged, or of a kind that is not read; {hint}.",
        ) from None
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1 or stored.size == 0 or stored.size % (rows * columns):
        raise InputFileError(path, f"the pixel data does not fit {rows} rows x {columns} columns.")
    total = 8 * stored.dtype.itemsize
    whole = stored.dtype.kind in "iu" and 0 < bits < total
    return stored.reshape(-1, rows, columns), bits if whole else total


def _native_syntax(path: str, dataset: Dataset) -> pydicom.uid.UID:
    """The transfer syntax of a data set whose file does not name it."""
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        what = "its pixels are compressed, and it does not say how"
        raise InputFileError(path, f"{what}: it lacks its Transfer Syntax UID (0002,0010).")
    implicit, little = dataset.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


_CODESTREAMS = {
    *pydicom.uid.JPEGTransferSyntaxes,
    *pydicom.uid.JPEGLSTransferSyntaxes,
    *pydicom.uid.JPEG2000TransferSyntaxes,
}


def _check_codestreams(path: str, dataset: Dataset) -> None:
    """Refuses compressed pictures of another size by their own header, which decoders go by."""
    if dataset.file_meta.TransferSyntaxUID not in _CODESTREAMS:
        return
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    count = max(1, integer_of(dataset, "NumberOfFrames", 1))
    try:
        pictures = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count)
        sizes = [picture_size(picture) for picture in pictures]
    except Exception as error:
        reason = reason_of(error)
        raise InputFileError(path, f"the pixel data is truncated or damaged ({reason}).") from None
    for size in sizes:
        if size != (rows, columns):
            found = "of no known size" if size is None else f"of {size[0]} x {size[1]} pixels"
            what = f"holds a compressed picture {found}, but names {rows} rows x {columns} columns."
            raise InputFileError(path, what)


#: Headers with the size of a picture, from their marker on: SIZ of JPEG 2000, SOF of the others.
_SIZ = re.compile(rb"\xff\x4f\xff\x51.{4}(.{16})", re.S)
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 picture; None where it is none or unsure.

    References: ISO/IEC 10918-1 (ITU-T T.81) B.2.2, ISO/IEC 14495-1 C.2.2, 15444-1 A.5.1.
    """
    if data[:2] != b"\xff\xd8":
        if (header := _SIZ.search(data)) is None:
            return None
        x, y, x0, y0 = struct.unpack(">4I", header[1])
        return y - y0, x - x0
    sizes, position = set(), 2
    while position + 4 <= len(data):
        first, marker = data[position : position + 2]
        if first != 0xFF or marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01, 0xD8, 0xD9) or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            if marker in _SOF:
                sizes.add(struct.unpack(">HH", data[position + 5 : position + 9].ljust(4, b"\0")))
            if marker == 0xDA and sizes:  # the scan begins: coded values follow
                break
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return sizes.pop() if len(sizes) == 1 else None


def _padding(dataset: Dataset, *candidates: np.ndarray) -> np.ndarray | None:
    """Where values say "outside the picture" (PS3.3 C.7.5.1.1.2), or None."""
    first = number_of(dataset, "PixelPaddingValue")
    if first is None or candidates[0].dtype.kind not in "iu":
        return None
    last = number_of(dataset, "PixelPaddingRangeLimit")
    limits = np.array([first, first if last is None else last], np.int64)
    low, high = np.sort(limits.astype(candidates[0].dtype))
    return np.logical_or.reduce([(values >= low) & (values <= high) for values in candidates])


def _outside_circle(shape: tuple[int, ...]) -> np.ndarray:
    """Pixels outside the ellipse that touches the image's borders: the reconstruction circle."""
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in shape)
    return y[:, None] ** 2 + x**2 > 1


def _rescale(frame: Frame) -> tuple[float, float]:
    """Slope and intercept, if the file says them as it must."""
    keywords = ("RescaleSlope", "RescaleIntercept")
    missing = [called(keyword) for keyword in keywords if getattr(frame, keyword) is None]
    if frame.Modality == "CT" and missing and not frame.scout:
        what = f"a CT image without {' and '.join(missing)}, so its Hounsfield units are unknown"
        raise InputFileError(frame.where, f"{what}; add the attribute.")
    if frame.RescaleSlope == 0:
        raise InputFileError(frame.where, f"{called('RescaleSlope')} is 0.")
    return frame.RescaleSlope or 1.0, frame.RescaleIntercept or 0.0


def _values_of(frame: Frame, dataset: Dataset, cells: np.ndarray, bits: int) -> np.ndarray:
    """One frame's cells (rows, columns), of so many bits used, to HU int16, or float64."""
    if cells.dtype.kind == "f" and not np.isfinite(cells).all():
        raise InputFileError(frame.where, "the pixel data holds NaN or infinite values.")
    # Without the bits above, which old files use for overlays: to the upper end and down again,
    # which extends the sign.
    above = 8 * cells.dtype.itemsize - bits
    values = (cells << above) >> above if above else cells
    # Some files pad with values that have more bits than Bits Stored.
    padding = _padding(dataset, values, cells)
    if dataset.get("ModalityLUTSequence") and frame.RescaleSlope is None:
        try:
            values = pydicom.pixels.apply_modality_lut(values, dataset).astype(np.float64)
        except Exception as error:
            reason = reason_of(error)
            raise InputFileError(frame.where, f"unusable Modality LUT ({reason}).") from None
    else:
        slope, intercept = _rescale(frame)
        values = values * np.float64(slope) + intercept
    if padding is not None and padding.any():
        level = float(np.median(values[padding]))
        if frame.units == "HU":
            if -500 < level < 3000:
                # Some files name a common tissue value as padding: only believe it outside the
                # reconstruction circle, so that the body gets no holes.
                padding = padding & _outside_circle(values.shape)
            values[padding] = AIR_HU
        elif not padding.all():
            values[padding] = values[~padding].min()
    if frame.units == "HU":
        return to_hounsfield(values)
    return -values if frame.inverted else values


def to_hounsfield(values: np.ndarray) -> np.ndarray:
    """Rounds to int16 HU; values below -1500, which mark padding, become -1024."""
    if values.dtype.kind == "f":
        values = np.rint(values)
    elif values.dtype.kind == "u" or values.dtype.itemsize == 1:  # no room for what is below 0
        values = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.float64)
    values = np.where(values < LOWEST_HU, AIR_HU, values)
    return np.minimum(values, np.iinfo(np.int16).max).astype(np.int16)


def compact(values: np.ndarray) -> np.ndarray:
    """The smallest of int16, int32 and float32 that holds the values without loss."""
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return values.astype(np.float32)
    return values.astype(smallest(values, (np.int16, np.int32)) or np.float32)


def smallest(values: np.ndarray, kinds: Sequence[type]) -> type | None:
    """The first of some types of whole numbers that holds all values, or None."""
    low, high = values.min(), values.max()
    return next((k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max), None)
