"""Opening DICOM files: what counts as one, bounded reading, and errors that quote no value."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from tfstyle.data.privacy import reason_of, values_unsaid
from tfstyle.errors import InputFileError, TfstyleError
from tfstyle.limits import check


class NotDicomError(InputFileError):
    """A file that holds something other than DICOM; folders leave it out."""


class NoPictureError(InputFileError):
    """A DICOM file that holds something other than a picture; folders leave it out."""


class NoSizeError(NoPictureError):
    """A slice without its size; folders leave it out with a warning."""


_PREAMBLE = 128
#: First bytes that tell a DICOM file from others.
HEAD = 1024
_VRS = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file begins as DICOM does: with or without preamble and prefix.

    DICOM PS3.10 section 7.1 wants 128 bytes and ``DICM`` before the data set. Many exporters leave
    them out; such a file begins with the elements of group 0002 or 0008.
    """
    try:
        with open(path, "rb") as file:
            return begins_as_dicom(file.read(HEAD))
    except OSError:
        return False


def begins_as_dicom(head: bytes) -> bool:
    """Whether these first bytes of a file are those of a DICOM file; see :func:`is_dicom`."""
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM" or _start_of_data_set(head) is not None


def _start_of_data_set(head: bytes) -> int | None:
    """Where a data set begins in a file without the prefix ``DICM``."""
    places = (4,) if head[:4] == b"DICM" else (0, _PREAMBLE)
    return next((at for at in places if _are_elements(head[at:])), None)


def _are_elements(data: bytes) -> bool:
    """Whether these bytes begin with three data elements in ascending order (PS3.5 7.1)."""
    order = ">" if data[:1] == b"\0" else "<"
    before, at = (0, 0), 0
    for number in range(3):
        if at + 8 > len(data):
            return number > 1
        tag = struct.unpack_from(f"{order}HH", data, at)
        if (number == 0 and tag[0] not in (0x0002, 0x0008)) or tag <= before:
            return False
        vr = data[at + 4 : at + 6]
        if vr in _LONG_VRS:
            if at + 12 > len(data):
                return number > 1
            (length,), size = struct.unpack_from(f"{order}I", data, at + 8), 12
        elif vr in _VRS:
            (length,), size = struct.unpack_from(f"{order}H", data, at + 6), 8
        elif order == "<":  # implicit
            (length,), size = struct.unpack_from("<I", data, at + 4), 8
        else:
            return False
        if length == 0xFFFFFFFF:  # a sequence
            return number > 0
        if length > 2**20:
            return False
        before, at = tag, at + size + length
    return True


def read_dataset(path: str, *, pixels: bool, tags: list[str] | None = None) -> Dataset:
    """Reads a file, with or without its pixels.

    Args:
        path: The file.
        pixels: Whether to read the pixels.
        tags: Keywords of the attributes to read where pixels are not; None for all.

    Returns:
        The data set.

    Raises:
        InputFileError: If the file is missing, damaged, or is not a DICOM file.
    """
    options = {} if pixels else {"stop_before_pixels": True, "specific_tags": tags}
    try:
        with values_unsaid():
            return _parse(path, options)
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
        return _read_without_prefix(path, options)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise InputFileError(path, f"the DICOM file is damaged ({reason_of(error)}).") from None


class _From(io.FileIO):
    """A file from some byte on."""

    def __init__(self, path: str, start: int):
        self._start = start
        super().__init__(path)
        self.seek(0)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        place += self._start if whence == os.SEEK_SET else 0
        return super().seek(place, whence) - self._start

    def tell(self) -> int:
        return super().tell() - self._start


class _Bounded(io.BufferedReader):
    """A file whose reader can take no more than limits allow, whatever the lengths in it say."""

    def __init__(self, path: str, start: int = 0):
        super().__init__(_From(path, start) if start else io.FileIO(path))
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


def _parse(path: str, options: dict, start: int = 0) -> Dataset:
    with _Bounded(path, start) as file:
        return pydicom.dcmread(file, **options)


#: One of them is in any data set of an image or a report.
_TELLING = ["SOPClassUID", "Modality", "Rows", "SeriesInstanceUID"]


def _read_without_prefix(path: str, options: dict) -> Dataset:
    options = {**options, "force": True}
    if options.get("specific_tags") is not None:
        options["specific_tags"] = [*options["specific_tags"], *_TELLING]
    problem = "not a DICOM file (no 'DICM' prefix). Give a DICOM, NIfTI or PNG file."
    try:
        with open(path, "rb") as file:
            start = _start_of_data_set(file.read(HEAD))
        if start is None:
            raise NotDicomError(path, problem)
        with values_unsaid():
            dataset = _parse(path, options, start)
            known = any(dataset.get(keyword) for keyword in _TELLING)
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(
            path, f"the DICOM file (without 'DICM' prefix) is damaged ({reason_of(error)})."
        ) from None
    if not known:
        raise NotDicomError(path, problem)
    return dataset


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
