"""Opening DICOM files: what counts as one, bounded reading, and errors that quote no value.

Attributes are read here too, by functions that take what a damaged file may hold.
"""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag

from tfstyle._private.files import reading
from tfstyle.data.privacy import reason_of, values_unsaid
from tfstyle.errors import InputFileError, TfstyleError
from tfstyle.limits import check


class NotDicomError(InputFileError):
    """A file of another kind than DICOM; folders leave it out."""


class NoPictureError(InputFileError):
    """A DICOM file without a picture; folders leave it out with a warning."""


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file begins as DICOM does: with preamble and prefix (PS3.10 7.1), or an element."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _ELEMENT.match(head) is not None


#: A first element of group 0002 or 0008 (PS3.5 7.1), where exporters leave the prefix out:
#: explicit, big endian, implicit.
_ELEMENT = re.compile(
    rb"([\x02\x08]\0..[A-Z]{2}|\0[\x02\x08]..[A-Z]{2}|[\x02\x08]\0....\0\0)", re.S
)


def read_dataset(path: str, *, pixels: bool, tags: list[str] | None = None) -> Dataset:
    """Reads a file, or its attributes alone, or some of them; an InputFileError if it cannot."""
    options: dict[str, Any] = {} if pixels else {"stop_before_pixels": True, "specific_tags": tags}
    with reading(path), damage_is_input_error(path), _Bounded(path) as file:
        head = file.peek()
        if head[128:132] == b"DICM":
            return pydicom.dcmread(file, **options)
        if not _ELEMENT.match(head):
            raise NotDicomError(path, _NOT_DICOM)
        if not pixels and tags is not None:
            options["specific_tags"] = [*tags, *_TELLING]
        dataset = pydicom.dcmread(file, force=True, **options)
        if not any(dataset.get(keyword) for keyword in _TELLING):
            raise NotDicomError(path, _NOT_DICOM)
        return dataset


_NOT_DICOM = "not a DICOM file (no 'DICM' prefix). Give one, or .nii, .nii.gz or .png by its name."
#: One of them is in any data set of an image or a report.
_TELLING = ["SOPClassUID", "Modality", "Rows", "SeriesInstanceUID"]


class _Bounded(io.BufferedReader):
    """A file whose reader can take no more than limits allow, for all lengths that it states."""

    def __init__(self, path: str):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size
        check(path, "file_bytes", self.size, f"a file of {self.size} bytes")

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size >= 0:
            return super().read(min(size, self.size))
        data = super().read()  # pydicom asks for the rest of a file where it is deflated
        total, inflate, rest = 0, zlib.decompressobj(-zlib.MAX_WBITS), data
        while rest and not inflate.eof:
            total += len(inflate.decompress(rest, 2**20))
            rest = inflate.unconsumed_tail
            check(self.name, "file_bytes", total, f"inflates to {total} bytes and more")
        return data


@contextmanager
def damage_is_input_error(path: str) -> Iterator[None]:
    """Makes InputFileError of what pydicom raises on damaged attributes, which it decodes late."""
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
        reason = reason_of(error)  # and no cause, which would quote the attribute
        raise InputFileError(path, f"the DICOM file is damaged or cut short ({reason}).") from None


def called(keyword: str) -> str:
    """How a message calls an attribute: by its name and tag."""
    tag = Tag(keyword)
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text_of(dataset: Dataset, keyword: str) -> str:
    """An attribute as text without blanks around it, "" if missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """All numbers of an attribute; an empty list if it is missing, empty or not numeric."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, (str, bytes)):
            return []
        numbers = [float(v) for v in (value if isinstance(value, Iterable) else [value])]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first number of an attribute, or None."""
    return next(iter(numbers_of(dataset, keyword)), None)


def integer_of(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """The first number of an attribute without its fraction."""
    number = number_of(dataset, keyword)
    return default if number is None else int(number)


def meta_of(dataset: Dataset) -> Dataset:
    """The file meta group, empty where there is none."""
    return getattr(dataset, "file_meta", None) or Dataset()


def sop_class_of(dataset: Dataset) -> str:
    """The SOP class, which some exporters leave to the file meta group, or ""."""
    return text_of(dataset, "SOPClassUID") or text_of(meta_of(dataset), "MediaStorageSOPClassUID")


def item(**attributes: object) -> DicomSequence:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return DicomSequence([dataset])


def code(value: str, scheme: str, meaning: str) -> DicomSequence:
    """A code as a sequence of one item (PS3.3 8.8)."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def check_size(path: str, dataset: Dataset) -> None:
    """Refuses pictures that are above the limits, or larger than their file, by their header."""
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    frames = max(1, integer_of(dataset, "NumberOfFrames", 1))
    size = f"{rows} x {columns} pixels"
    check(path, "picture_pixels", rows * columns, f"a picture of {size}")
    check(path, "frames", frames, f"{frames} frames")
    check(path, "scan_pixels", frames * rows * columns, f"{frames} frames of {size}")
    syntax = meta_of(dataset).get("TransferSyntaxUID")
    if frames == 1 or syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return
    least = 8  # the header of a fragment
    if syntax is None or not syntax.is_encapsulated:
        least = math.ceil(rows * columns * integer_of(dataset, "BitsAllocated", 1) / 8)
    if frames * least > os.path.getsize(path):
        what = f"it names {frames} frames of {size} and is too small for them"
        raise InputFileError(path, f"{what}; the file is cut short or damaged.")
