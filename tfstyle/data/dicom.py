"""Reading DICOM: one file, or all series of a set of files, as scans in Hounsfield units.

Slices are grouped by Series Instance UID (0020,000E) and sorted by their position along the slice
normal, Image Position (Patient) (0020,0032) and Image Orientation (Patient) (0020,0037), never by
file name. Single-frame and enhanced multi-frame objects give the same scans.
"""

from __future__ import annotations

import io
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from tfstyle.data.privacy import mark_of, reason_of, values_unsaid
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import InputFileError, TfstyleError
from tfstyle.files import safe_name
from tfstyle.limits import check

logger = logging.getLogger(__name__)

AIR_HU = -1024
"""What pixels outside the field of view become."""

LOWEST_HU = -1500
"""Values below this are no attenuation that a scanner measures, but mark what lies outside."""

_NOT_PICTURES = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "SR"})

_HEADER_TAGS = [
    "AcquisitionNumber",
    "BitsAllocated",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "ImagerPixelSpacing",
    "InstanceNumber",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "SpacingBetweenSlices",
    "TemporalPositionIdentifier",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
]


@dataclass(eq=False)
class Frame:
    """One slice of one DICOM file, described by its header; the pixels are read later.

    Attributes:
        path: The file.
        index: Frame number in the file, from 0.
        uid: SOP Instance UID, from the file meta group if the data set has none.
        series: Series Instance UID, or "" if the file has none.
        shape: Rows and columns.
        colour: Whether the pixels are colours (several samples, or a palette).
        inverted: Whether low values are bright, MONOCHROME1.
        position: Image Position (Patient) in mm, or None.
        orientation: The six numbers of Image Orientation (Patient), or None.
        pixel_spacing: mm between rows and between columns.
        step: mm between slices by the header (spacing or thickness), or None.
        units: "HU" or "US".
        slope: Rescale Slope, or None if missing.
        intercept: Rescale Intercept, or None if missing.
        window: First window of the header, or None.
        scout: Whether Image Type says LOCALIZER.
        order: Acquisition, temporal and instance numbers, to tell repeated positions apart.
        series_number: Series Number, or 0.
        modality: Modality (0008,0060).
        frames: Number of frames in the file.
    """

    path: str
    index: int = 0
    uid: str = ""
    series: str = ""
    shape: tuple[int, int] = (0, 0)
    colour: bool = False
    inverted: bool = False
    position: np.ndarray | None = None
    orientation: np.ndarray | None = None
    pixel_spacing: tuple[float, float] = (1.0, 1.0)
    step: float | None = None
    units: str = "US"
    slope: float | None = None
    intercept: float | None = None
    window: Window | None = None
    scout: bool = False
    order: tuple[int, int, int] = (0, 0, 0)
    series_number: int = 0
    modality: str = ""
    frames: int = 1

    @property
    def normal(self) -> np.ndarray:
        """Unit vector along the slice normal."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def where(self) -> str:
        """The file, with the frame number if it holds several."""
        return self.path if self.frames == 1 else f"{self.path} (frame {self.index + 1})"


# ---------------------------------------------------------------------------------------------
# Headers


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether the file begins with the preamble and prefix of DICOM PS3.10 section 7.1."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dataset(path: str, *, pixels: bool, tags: list[str] | None = None) -> Dataset:
    """Reads a file, with or without its pixels; every failure becomes an InputFileError."""
    options = {} if pixels else {"stop_before_pixels": True, "specific_tags": tags}
    try:
        with values_unsaid():
            dataset = _parse(path, options)
    except InputFileError:
        raise
    except FileNotFoundError:
        raise InputFileError(path, "no such file.") from None
    except OSError as error:
        if isinstance(error, EOFError) or error.errno is None:
            raise InputFileError(
                path, f"the DICOM file is cut short or damaged ({reason_of(error)})."
            ) from None
        raise InputFileError(path, f"cannot be read ({error.strerror}).") from error
    except InvalidDicomError:
        dataset = _read_without_preamble(path, options)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise InputFileError(path, f"the DICOM file is damaged ({reason_of(error)}).") from None
    return dataset


class _Bounded(io.BufferedReader):
    """A file whose reader can take no more than limits allow, whatever the lengths in it say."""

    def __init__(self, path: str):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size
        check(path, "file_bytes", self.size, f"a file of {self.size} bytes")

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size >= 0:
            return super().read(min(size, self.size))
        data = super().read()  # pydicom asks for the rest of a file where it is deflated
        self._check_inflated(data)
        return data

    def _check_inflated(self, data: bytes) -> None:
        total, inflate = 0, zlib.decompressobj(-zlib.MAX_WBITS)
        while data and not inflate.eof:
            total += len(inflate.decompress(data, _INFLATED_AT_ONCE))
            data = inflate.unconsumed_tail
            check(self.name, "file_bytes", total, f"inflates to {total} bytes and more")


_INFLATED_AT_ONCE = 2**20


def _parse(path: str, options: dict) -> Dataset:
    with _Bounded(path) as file:
        return pydicom.dcmread(file, **options)


def _read_without_preamble(path: str, options: dict) -> Dataset:
    """Old files may lack the preamble; they count as DICOM if they name a SOP class."""
    try:
        with values_unsaid():
            dataset = _parse(path, {"force": True, **options})
            known = bool(dataset.get("SOPClassUID"))
            known = known and ("Rows" in dataset or "Modality" in dataset)
    except InputFileError:
        raise
    except Exception:
        known = False
    if not known:
        raise InputFileError(
            path, "not a DICOM file (no 'DICM' prefix). Give a DICOM, NIfTI or PNG file."
        )
    return dataset


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    """All numbers of an attribute; an empty list if it is missing, empty or not numeric."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, (str, bytes)):
            return []
        values = list(value) if isinstance(value, Iterable) else [value]
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers else None


def _integer(dataset: Dataset, keyword: str, default: int = 0) -> int:
    number = _number(dataset, keyword)
    return default if number is None else int(number)


def functional_group(dataset: Dataset, index: int, sequence: str) -> Dataset:
    """The item of a functional group macro that holds for a frame (PS3.3 C.7.6.16).

    Args:
        dataset: A single-frame or multi-frame data set.
        index: Frame number from 0.
        sequence: Keyword of the macro's sequence, such as ``"PlanePositionSequence"``.

    Returns:
        The per-frame item, else the shared one, else the data set itself.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    candidates = [per_frame[index]] if index < len(per_frame) else []
    candidates += [shared[0]] if len(shared) else []
    for group in candidates:
        items = group.get(sequence)
        if items:
            return items[0]
    return dataset


def _window_of(dataset: Dataset) -> Window | None:
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    if _text(dataset, "VOILUTFunction") in ("", "LINEAR"):
        return Window.from_linear(centre, width) if width > 1 else None
    return Window(centre, width) if width > 0 else None


@contextmanager
def damage_is_input_error(path: str) -> Iterator[None]:
    """Makes InputFileError of what pydicom raises on damaged attributes, which it decodes late.

    The error has no cause: that would quote the attribute.
    """
    try:
        with values_unsaid():
            yield
    except TfstyleError:
        raise
    except MemoryError as error:
        raise InputFileError(path, "takes more memory than there is.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, not of pydicom
        raise InputFileError(path, f"the DICOM file is damaged ({reason_of(error)}).") from None


def frames_of(path: str, dataset: Dataset) -> list[Frame]:
    """Describes every frame of a data set read without pixels.

    Raises:
        InputFileError: If the data set is damaged or holds no picture.
    """
    with damage_is_input_error(path):
        return _describe(path, dataset)


def check_size(path: str, dataset: Dataset) -> None:
    """Refuses pictures that are too large by their header, before anything is decoded.

    Raises:
        InputFileError: Rows, Columns or Number of Frames are above the limits, or there are more
            frames than the file has room for.
    """
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    frames = max(1, _integer(dataset, "NumberOfFrames", 1))
    check(path, "picture_pixels", rows * columns, f"a picture of {rows} x {columns} pixels")
    check(path, "frames", frames, f"{frames} frames")
    check(
        path,
        "scan_pixels",
        frames * rows * columns,
        f"{frames} frames of {rows} x {columns} pixels",
    )
    if frames == 1:
        return
    syntax = (getattr(dataset, "file_meta", None) or Dataset()).get("TransferSyntaxUID")
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return
    if syntax is not None and syntax.is_encapsulated:
        least = 8  # the header of a fragment
    else:
        least = math.ceil(rows * columns * _integer(dataset, "BitsAllocated", 1) / 8)
    if frames * least > os.path.getsize(path):
        raise InputFileError(
            path,
            f"it names {frames} frames of {rows} x {columns} pixels and is too small for them; the "
            "file is cut short or damaged.",
        )


def _describe(path: str, dataset: Dataset) -> list[Frame]:
    modality = _text(dataset, "Modality")
    sop_class = _text(dataset, "SOPClassUID")
    meta = getattr(dataset, "file_meta", None) or Dataset()
    if "Rows" not in dataset or "Columns" not in dataset or modality in _NOT_PICTURES:
        what = modality or (pydicom.uid.UID(sop_class).name if sop_class else "unknown object")
        if modality in ("CT", "MR", "PT"):
            raise _NoSizeError(
                path, f"a {modality} file without Rows and Columns; it may be cut short."
            )
        raise _NoPictureError(path, f"a DICOM file without a picture to read ({what}).")
    check_size(path, dataset)
    count = max(1, _integer(dataset, "NumberOfFrames", 1))
    # Frames beyond those that have functional groups of their own are alike.
    described = min(count, len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) + 1)
    if modality == "":
        uid = sop_class or _text(meta, "MediaStorageSOPClassUID")
        modality = "CT" if uid in _CT_CLASSES else ""
    frames = []
    for index in range(described):
        plane = functional_group(dataset, index, "PlanePositionSequence")
        orientation = functional_group(dataset, index, "PlaneOrientationSequence")
        measures = functional_group(dataset, index, "PixelMeasuresSequence")
        rescale = functional_group(dataset, index, "PixelValueTransformationSequence")
        voi = functional_group(dataset, index, "FrameVOILUTSequence")
        frame_type = functional_group(dataset, index, "CTImageFrameTypeSequence")
        content = functional_group(dataset, index, "FrameContentSequence")
        image_type = [str(v) for v in _values(frame_type, "FrameType")]
        image_type = image_type or [str(v) for v in _values(dataset, "ImageType")]
        position = np.array(_numbers(plane, "ImagePositionPatient"))
        cosines = np.array(_numbers(orientation, "ImageOrientationPatient"))
        pixel_spacing = _numbers(measures, "PixelSpacing")
        if len(pixel_spacing) != 2 or min(pixel_spacing) <= 0:
            pixel_spacing = _numbers(dataset, "ImagerPixelSpacing")
        if len(pixel_spacing) != 2 or min(pixel_spacing) <= 0:
            pixel_spacing = [1.0, 1.0]
        step = _number(measures, "SpacingBetweenSlices") or _number(measures, "SliceThickness")
        scout = "LOCALIZER" in image_type
        temporal = _number(content, "TemporalPositionIndex")
        if temporal is None:
            temporal = _number(dataset, "TemporalPositionIdentifier") or 0
        frames.append(
            Frame(
                path=path,
                index=index,
                frames=count,
                uid=_text(dataset, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID"),
                series=_text(dataset, "SeriesInstanceUID"),
                shape=(_integer(dataset, "Rows"), _integer(dataset, "Columns")),
                inverted=_text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
                colour=_integer(dataset, "SamplesPerPixel", 1) != 1
                or _text(dataset, "PhotometricInterpretation") == "PALETTE COLOR",
                position=position if position.shape == (3,) else None,
                orientation=_unit_cosines(cosines),
                pixel_spacing=(pixel_spacing[0], pixel_spacing[1]),
                step=abs(step) if step else None,
                units=_units(modality, image_type, _text(rescale, "RescaleType"), scout),
                slope=_number(rescale, "RescaleSlope"),
                intercept=_number(rescale, "RescaleIntercept"),
                window=_window_of(voi),
                scout=scout,
                order=(
                    _integer(dataset, "AcquisitionNumber"),
                    int(temporal),
                    _integer(dataset, "InstanceNumber") + index,
                ),
                series_number=_integer(dataset, "SeriesNumber"),
                modality=modality,
            )
        )
    last = frames[-1]
    for index in range(described, count):
        order = (*last.order[:2], last.order[2] + index - last.index)
        frames.append(replace(last, index=index, order=order))
    return frames


_CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)


class _NoPictureError(InputFileError):
    """A DICOM file that holds something other than a picture; folders leave it out."""


class _NoSizeError(_NoPictureError):
    """A slice without its size; folders leave it out with a warning."""


def _values(dataset: Dataset, keyword: str) -> list:
    value = dataset.get(keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _unit_cosines(cosines: np.ndarray) -> np.ndarray | None:
    """Normalised direction cosines, or None if they do not span a plane."""
    if cosines.shape != (6,):
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 1e-3 or np.linalg.norm(np.cross(row, column)) < 1e-3:
        return None
    return np.concatenate([row / lengths[0], column / lengths[1]])


def _units(modality: str, image_type: list[str], rescale_type: str, scout: bool) -> str:
    """HU for CT, unless a derived image or a scout says otherwise (PS3.3 C.8.2.1.1.4)."""
    if modality != "CT":
        return "US"
    if rescale_type.upper() in ("", "HU", "HU_MOD"):
        return "HU"
    original = bool(image_type) and image_type[0].strip() == "ORIGINAL" and not scout
    return "HU" if original else "US"


# ---------------------------------------------------------------------------------------------
# Pixels


def _decode(path: str, dataset: Dataset) -> np.ndarray:
    """Stored values, (frames, rows, columns)."""
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputFileError(path, "has no pixel data; the file may be cut short.")
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None and not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if syntax is None:  # no preamble: implicit little endian is the default, PS3.5 section 10
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    check_size(path, dataset)
    _check_compressed(path, dataset)
    try:
        stored = dataset.pixel_array
    except BaseException as error:  # decoders raise many kinds, one even beside Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        name = getattr(syntax, "name", "") or "unknown transfer syntax"
        text, reason = str(error), reason_of(error)
        if "missing dependencies" in text or "Unable to decompress" in text:
            advice = (
                "no decoder could read it; install pylibjpeg, pylibjpeg-libjpeg, "
                "pylibjpeg-openjpeg and pylibjpeg-rle, or decompress the file"
            )
            raise InputFileError(path, f"pixel data in {name}: {advice} ({reason}).") from None
        raise InputFileError(
            path,
            f"the pixel data ({name}) cannot be decoded: it is truncated or damaged, or compressed "
            f"in an unusual way ({reason}).",
        ) from None
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1 or stored.size == 0 or stored.size % (rows * columns):
        raise InputFileError(path, f"the pixel data does not fit {rows} rows x {columns} columns.")
    return stored.reshape(-1, rows, columns)


_CODESTREAMS = frozenset(
    (
        *pydicom.uid.JPEGTransferSyntaxes,
        *pydicom.uid.JPEGLSTransferSyntaxes,
        *pydicom.uid.JPEG2000TransferSyntaxes,
    )
)


def _check_compressed(path: str, dataset: Dataset) -> None:
    """Refuses compressed pictures that say, in their own header, to be of another size.

    Decoders take memory and time by that header, not by Rows and Columns.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _CODESTREAMS:
        return
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    try:
        frames = pydicom.encaps.generate_frames(
            dataset.PixelData, number_of_frames=max(1, _integer(dataset, "NumberOfFrames", 1))
        )
        sizes = {picture_size(frame) for frame in frames}
    except Exception as error:
        reason = reason_of(error)
        raise InputFileError(path, f"the pixel data is truncated or damaged ({reason}).") from None
    for size in sizes - {(rows, columns)}:
        found = "of no known size" if size is None else f"of {size[0]} x {size[1]} pixels"
        raise InputFileError(
            path,
            f"holds a compressed picture {found}, but names {rows} rows x {columns} columns.",
        )


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 picture, by its first header.

    Args:
        data: The picture; JPEG 2000 as a bare codestream or in a JP2 file.

    Returns:
        Its size, or None where it is none of these, or names it twice and not alike.

    References: ISO/IEC 10918-1 (ITU-T T.81) B.2.2, ISO/IEC 14495-1 C.2.2, 15444-1 A.5.1.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start >= 0 and data[:2] != b"\xff\xd8":
        values = data[start + 8 : start + 24]
        if len(values) < 16:
            return None
        x, y, x0, y0 = (int.from_bytes(values[i : i + 4], "big") for i in range(0, 16, 4))
        return y - y0, x - x0
    if data[:2] != b"\xff\xd8":
        return None
    sizes, position = set(), 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01, 0xD8, 0xD9) or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
                size = data[position + 5 : position + 9]
                sizes.add((int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")))
            if marker == 0xDA and sizes:  # the scan begins: coded values follow
                break
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return sizes.pop() if len(sizes) == 1 else None


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Where the stored values say "outside the picture" (PS3.3 C.7.5.1.1.2), or None."""
    first = _number(dataset, "PixelPaddingValue")
    if first is None or stored.dtype.kind not in "iu":
        return None
    last = _number(dataset, "PixelPaddingRangeLimit")
    limits = np.array([first, first if last is None else last], np.int64).astype(stored.dtype)
    low, high = limits.min(), limits.max()
    return (stored >= low) & (stored <= high)


def _used_bits(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Clears bits above Bits Stored, which old files use for overlays, and extends the sign."""
    bits = _integer(dataset, "BitsStored", 8 * stored.dtype.itemsize)
    total = 8 * stored.dtype.itemsize
    if stored.dtype.kind not in "iu" or not 0 < bits < total:
        return stored
    high_bit = _integer(dataset, "HighBit", bits - 1)
    shift = max(0, min(high_bit + 1, total) - bits)
    native = not dataset.file_meta.TransferSyntaxUID.is_compressed
    if shift and native:
        stored = stored >> shift
    if stored.dtype.kind == "u":
        return stored & np.array((1 << bits) - 1, stored.dtype)
    return (stored << (total - bits)) >> (total - bits)


def _outside_circle(rows: int, columns: int) -> np.ndarray:
    """Pixels outside the ellipse that touches the image's borders: the reconstruction circle."""
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    return y[:, None] ** 2 + x[None] ** 2 > 1


def _values_of(frame: Frame, dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """One frame's stored values (rows, columns) to HU int16, or float64 in other units."""
    padding = _padding(dataset, stored)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise InputFileError(frame.where, "the pixel data holds NaN or infinite values.")
    stored = _used_bits(dataset, stored)
    if "ModalityLUTSequence" in dataset and frame.slope is None:
        try:
            values = pydicom.pixels.apply_modality_lut(stored, dataset).astype(np.float64)
        except Exception as error:
            reason = reason_of(error)
            raise InputFileError(frame.where, f"unusable Modality LUT ({reason}).") from None
    else:
        if frame.modality == "CT" and (frame.slope is None or frame.intercept is None):
            missing = "Rescale Slope (0028,1053)" if frame.slope is None else ""
            if frame.intercept is None:
                missing += " and " if missing else ""
                missing += "Rescale Intercept (0028,1052)"
            if not frame.scout:
                raise InputFileError(
                    frame.where,
                    f"a CT image without {missing}, so its Hounsfield units are unknown. "
                    "Get the file again from its source, or add the missing attribute.",
                )
        slope = 1.0 if frame.slope is None else frame.slope
        intercept = 0.0 if frame.intercept is None else frame.intercept
        if slope == 0:
            raise InputFileError(frame.where, "Rescale Slope (0028,1053) is 0.")
        values = stored * np.float64(slope) + intercept
    if padding is not None and padding.any():
        level = float(np.median(values[padding]))
        if frame.units == "HU":
            if -500 < level < 3000:
                # Some files name a common tissue value as padding: only believe it outside the
                # reconstruction circle, so that the body gets no holes.
                padding = padding & _outside_circle(*stored.shape)
            values[padding] = AIR_HU
        elif not padding.all():
            values[padding] = values[~padding].min()
    if frame.units == "HU":
        return to_hounsfield(values)
    return values


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
    low, high = values.min(), values.max()
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.float32)


# ---------------------------------------------------------------------------------------------
# Series


def read_dicom(
    paths: Sequence[str | os.PathLike],
    *,
    series: str | None = None,
    on_odd: str = "skip",
    as_given: bool = False,
    lazy: bool = False,
) -> list[Scan | DicomSeries]:
    """Reads the series that a set of DICOM files holds.

    Args:
        paths: DICOM files, in any order.
        series: Keep only the series whose Series Instance UID ends with this text, or whose name,
            Series Number or mark (:func:`tfstyle.data.privacy.mark_of`) equals it.
        on_odd: What to do with files that do not fit their series (scouts, colour pictures, slices
            of another size, orientation or pixel spacing): ``"skip"`` leaves them out with a
            warning in the log that names them, ``"error"`` raises.
        as_given: Whether these very files were asked for: then scouts are read like slices, and an
            object without a picture is an error.
        lazy: Give a :class:`DicomSeries` where slices can be read one by one.

    Returns:
        One scan a series (several, where a series repeats its positions), in the order of folder
        and Series Number.

    Raises:
        InputFileError: If a file cannot be used; the message names it.
    """
    groups: dict[tuple[str, str], list[Frame]] = {}
    for path in sorted(os.fspath(p) for p in paths):
        try:
            frames = frames_of(path, read_dataset(path, pixels=False, tags=_HEADER_TAGS))
        except _NoPictureError as error:
            if as_given:
                raise
            # A report or a plan in the folder is normal, a slice that lost its size is not.
            lost = isinstance(error, _NoSizeError)
            logger.log(logging.WARNING if lost else logging.DEBUG, "Left out: %s", error)
            continue
        uid = frames[0].series
        key = (uid, "" if uid else os.path.dirname(path))
        groups.setdefault(key, []).extend(frames)
    names = _names(groups)
    order = sorted(
        groups,
        key=lambda key: (
            os.path.dirname(groups[key][0].path),
            groups[key][0].series_number,
            groups[key][0].path,
        ),
    )
    if series is not None:
        order = [
            key
            for key in order
            if series == names[key]
            or series == str(groups[key][0].series_number)
            or (key[0] and (key[0].endswith(series) or series == mark_of(key[0])))
        ]
    scans: list[Scan] = []
    for key in order:
        frames = groups[key]
        if as_given or (series is not None and all(f.scout for f in frames)):
            fitting = frames
            if frames[0].colour:
                _raise_colour(frames[0])
        else:
            fitting = _fitting(frames, names[key], on_odd)
        if fitting:
            clusters = _clusters(fitting)
            if len(clusters) > 1:
                fitting = _main_cluster(clusters, names[key], on_odd)
            decoded: dict[str, tuple[Dataset, np.ndarray]] = {}  # once for all stacks
            for stack in _stacks(fitting, names[key]):
                if lazy and DicomSeries.can_read(stack):
                    scans.append(DicomSeries(stack, names[key]))
                else:
                    scans.append(_load(stack, names[key], decoded))
    return scans


def _names(groups: dict[tuple[str, str], list[Frame]]) -> dict[tuple[str, str], str]:
    """A short label a series: file stem, folder, or folder and a mark made of the UID."""
    labels: dict[tuple[str, str], str] = {}
    for key, frames in groups.items():
        paths = {f.path for f in frames}
        first = os.path.abspath(frames[0].path)
        if len(paths) == 1:
            labels[key] = os.path.splitext(os.path.basename(first))[0] or os.path.basename(first)
        else:
            common = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
            labels[key] = os.path.basename(common) or "series"
    taken = list(labels.values())
    for key, label in labels.items():
        if taken.count(label) > 1:
            tail = mark_of(key[0]) if key[0] else str(groups[key][0].series_number)
            labels[key] = f"{label}-{tail}"
    return {key: safe_name(label, "series") for key, label in labels.items()}


def _raise_colour(frame: Frame) -> None:
    raise InputFileError(
        frame.where, "a colour image; scans have one gray value a pixel. Give the gray original."
    )


def _odd(frame: Frame, reason: str, name: str, on_odd: str) -> None:
    if on_odd == "error":
        raise InputFileError(
            frame.where, f"{reason}; take it out of series {name}, or read with on_odd='skip'."
        )
    logger.warning("Left out of series %s: %s: %s.", name, frame.where, reason)


def _fitting(frames: list[Frame], name: str, on_odd: str) -> list[Frame]:
    """Drops scouts and colour pictures."""
    if all(f.scout for f in frames):
        # A separate series of scouts is usual in a study and nothing wrong with it.
        logger.warning("Left out: series %s holds only scout images (%s).", name, frames[0].where)
        return []
    fitting = []
    for frame in frames:
        if frame.scout:
            _odd(frame, "a scout image (Image Type LOCALIZER)", name, on_odd)
        elif frame.colour:
            _odd(frame, "a colour image", name, on_odd)
        else:
            fitting.append(frame)
    return fitting


def _clusters(frames: list[Frame]) -> list[list[Frame]]:
    """Groups frames of equal size, orientation, pixel spacing and units."""
    clusters: list[list[Frame]] = []
    for frame in frames:
        for cluster in clusters:
            if _alike(cluster[0], frame):
                cluster.append(frame)
                break
        else:
            clusters.append([frame])
    return clusters


def _alike(a: Frame, b: Frame) -> bool:
    if (a.shape, a.units, a.scout, a.inverted) != (b.shape, b.units, b.scout, b.inverted):
        return False
    if (a.orientation is None) != (b.orientation is None):
        return False
    if (a.position is None) != (b.position is None):
        return False
    if a.orientation is b.orientation and a.pixel_spacing == b.pixel_spacing:
        return True
    if a.orientation is not None and not np.allclose(a.orientation, b.orientation, atol=2e-3):
        return False
    return np.allclose(a.pixel_spacing, b.pixel_spacing, rtol=1e-3)


def _main_cluster(clusters: list[list[Frame]], name: str, on_odd: str) -> list[Frame]:
    main = max(clusters, key=len)
    for cluster in clusters:
        if cluster is main:
            continue
        for frame in cluster:
            expected, found = main[0], frame
            if found.shape != expected.shape:
                reason = (
                    f"{found.shape[0]} x {found.shape[1]} pixels, unlike the "
                    f"{expected.shape[0]} x {expected.shape[1]} of its series"
                )
            elif not np.allclose(found.pixel_spacing, expected.pixel_spacing, rtol=1e-3):
                reason = "another pixel spacing than its series"
            elif (found.position is None) != (expected.position is None):
                reason = "has no position, unlike its series"
            elif found.units != expected.units:
                reason = "other units than its series"
            else:
                reason = "another orientation than its series"
            _odd(frame, reason, name, on_odd)
    return main


def stacks_of(frames: list[Frame]) -> list[list[Frame]]:
    """The stacks that :func:`read_dicom` would make of the main part of a series, without logs."""
    return _stacks(max(_clusters(frames), key=len), None)


def _stacks(frames: list[Frame], name: str | None) -> list[list[Frame]]:
    """Sorts along the slice normal; repeated positions become separate stacks.

    Warnings are logged for a series with a name.
    """
    if any(f.position is None or f.orientation is None for f in frames):
        if len(frames) > 1 and name is not None:
            logger.warning(
                "Series %s has no Image Position (Patient); sorted by Instance Number.", name
            )
        return [sorted(frames, key=lambda f: (f.order[2], f.path, f.index))]
    normal = frames[0].normal
    frames = sorted(frames, key=lambda f: (f.order, f.path, f.index))
    unique: dict[tuple[str, int], Frame] = {}
    for frame in frames:
        key = (frame.uid or frame.path, frame.index)
        first = unique.setdefault(key, frame)
        if first is not frame and name is not None:
            logger.warning(
                "Left out of series %s: %s is a copy of %s.", name, frame.where, first.where
            )
    stacks: list[list[Frame]] = []
    placed = sorted(
        ((float(f.position @ normal), i, f) for i, f in enumerate(unique.values())),
        key=lambda item: item[:2],
    )
    start = None
    rank = 0
    for place, _, frame in placed:
        rank = rank + 1 if start is not None and abs(place - start) < 1e-3 else 0
        start = place if rank == 0 else start
        if rank == len(stacks):
            stacks.append([])
        stacks[rank].append(frame)
    if len(stacks) > 1 and name is not None:
        logger.warning(
            "Series %s holds up to %d images at one position; read as so many scans, in the order "
            "of acquisition, time and instance number.",
            name,
            len(stacks),
        )
    return stacks


class DicomSeries:
    """A sorted series in HU of one file a slice, described by its headers; pixels come when asked.

    It has the attributes of a :class:`tfstyle.data.Scan`, and its slices are those of the scan, so
    that a series of any length takes the memory of the slices in use. ``pixels`` reads all of
    them, anew each time.

    Args:
        frames: The slices, sorted.
        name: Label of the series.

    Example:
        >>> (series,) = read_dicom(files, lazy=True)  # doctest: +SKIP
        >>> first = series.read(0)  # doctest: +SKIP
    """

    units = "HU"

    def __init__(self, frames: Sequence[Frame], name: str):
        self.frames = tuple(frames)
        self.name = name
        self.affine, step = _geometry(list(frames), name)
        self.spacing = (step, *frames[0].pixel_spacing)
        self.header_window = _window_of_stack(frames)
        self.files = tuple(frame.path for frame in frames)
        self.shape = (len(frames), *frames[0].shape)

    @staticmethod
    def can_read(frames: Sequence[Frame]) -> bool:
        """Whether slices can be read on their own: in HU, and each in a file of its own.

        In other units the type of the pixels, and where low is bright, depends on all of them.
        """
        return all(frame.units == "HU" and frame.frames == 1 for frame in frames)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.frames)

    def read(self, index: int) -> np.ndarray:
        """Pixels of one slice: int16 HU (rows, columns).

        Raises:
            InputFileError: If the file is damaged.
        """
        return read_frame(self.frames[index])

    @property
    def pixels(self) -> np.ndarray:
        """All pixels, int16 HU (slices, rows, columns), read at each use."""
        return self.load().pixels

    def load(self) -> Scan:
        """The whole series as a scan.

        Raises:
            InputFileError: If a file is damaged.
        """
        return _load(list(self.frames), self.name)


def read_frame(frame: Frame) -> np.ndarray:
    """Decodes the pixels of a file that holds one frame, in its units."""
    dataset = read_dataset(frame.path, pixels=True)
    with damage_is_input_error(frame.path):
        return _plane(frame, dataset, _decode(frame.path, dataset))


def _plane(frame: Frame, dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """One frame out of the stored values of its file, in its units."""
    if frame.index >= len(stored):
        raise InputFileError(frame.path, f"holds fewer frames than the {frame.frames} it names.")
    if stored[frame.index].shape != frame.shape:
        raise InputFileError(frame.where, "changed while it was read.")
    return _values_of(frame, dataset, stored[frame.index])


def _window_of_stack(frames: Sequence[Frame]) -> Window | None:
    return frames[len(frames) // 2].window or next((f.window for f in frames if f.window), None)


def _load(
    frames: list[Frame],
    name: str,
    decoded: dict[str, tuple[Dataset, np.ndarray]] | None = None,
) -> Scan:
    """Decodes the pixels of a sorted stack.

    Args:
        frames: The slices.
        name: Label of the scan.
        decoded: Files of several frames that other stacks have used, to which others are added.
    """
    units = frames[0].units
    datasets: dict[str, tuple[Dataset, np.ndarray]] = {} if decoded is None else decoded
    rows, columns = frames[0].shape
    check(
        frames[0].path,
        "scan_pixels",
        len(frames) * rows * columns,
        f"the first of {len(frames)} slices of {rows} x {columns} pixels",
    )
    last_use = {f.path: i for i, f in enumerate(frames)}
    planes = []
    for i, frame in enumerate(frames):
        if frame.path not in datasets:
            dataset = read_dataset(frame.path, pixels=True)
            with damage_is_input_error(frame.path):
                datasets[frame.path] = dataset, _decode(frame.path, dataset)
        with damage_is_input_error(frame.path):
            planes.append(_plane(frame, *datasets[frame.path]))
        if last_use[frame.path] == i and (decoded is None or frame.frames == 1):
            del datasets[frame.path]
    pixels = np.stack(planes)
    window = _window_of_stack(frames)
    if units != "HU":
        pixels = compact(pixels)
        if frames[0].inverted:  # low values are bright: turn them and the window round
            ends = pixels.min() + pixels.max()
            pixels = compact(pixels.astype(np.float64) * -1 + float(ends))
            if window is not None:
                window = Window(float(ends) - window.centre, window.width)
    affine, step = _geometry(frames, name)
    paths = [f.path for f in frames]
    files = (paths[0],) if len(set(paths)) == 1 else tuple(paths)
    row_spacing, column_spacing = frames[0].pixel_spacing
    return Scan(
        pixels=pixels,
        spacing=(step, row_spacing, column_spacing),
        units=units,
        name=name,
        affine=affine,
        header_window=window,
        files=files,
    )


def _geometry(frames: list[Frame], name: str) -> tuple[np.ndarray | None, float]:
    """Affine (PS3.3 C.7.6.2.1.1) and slice spacing of a sorted stack; warns of gaps and tilt."""
    first = frames[0]
    step = first.step or 1.0
    if first.position is None or first.orientation is None:
        return None, step
    normal = first.normal / np.linalg.norm(first.normal)
    vector = normal * step
    if len(frames) > 1:
        positions = np.array([f.position for f in frames])
        steps = np.diff(positions @ normal)
        step = float(np.median(steps))
        gaps = np.flatnonzero(np.abs(steps - step) > 0.25 * step)
        if len(gaps):
            logger.warning(
                "Series %s is unevenly spaced: %d of %d steps differ from %.3g mm, the first "
                "(%.3g mm) after %s. Slices may be missing.",
                name,
                len(gaps),
                len(steps),
                step,
                steps[gaps[0]],
                frames[gaps[0]].where,
            )
        direction = positions[-1] - positions[0]
        vector = direction * (step / float(direction @ normal))
        tilt = np.degrees(np.arctan2(np.linalg.norm(vector - normal * step), step))
        if tilt > 0.5:
            logger.warning(
                "Series %s is sheared by %.1f degrees (gantry tilt); slices are read as they are.",
                name,
                tilt,
            )
    affine = np.eye(4)
    affine[:3, 0] = vector
    affine[:3, 1] = first.orientation[3:] * first.pixel_spacing[0]
    affine[:3, 2] = first.orientation[:3] * first.pixel_spacing[1]
    affine[:3, 3] = first.position
    return affine, step
