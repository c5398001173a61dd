"""Marked values in every attribute of the basic profile, and a search for them in outputs."""

import gzip
import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
from dicomanonymizer.simpledicomanonymizer import initialize_actions
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from tfstyle.data.dicom.deidentify import TABLE

#: Beyond the table: private, unknown, or text and names that it does not list.
PRIVATE, UNKNOWN, UNLISTED = "private", "unknown", "unlisted"

#: A UID made of 128 random bits (DICOM PS3.5, B.2).
_RANDOM_UID = re.compile(rb"(?<![0-9.])2\.25\.[0-9]{30,39}(?![0-9.])")

_SAME_IN_SERIES = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def profile_tags() -> list[tuple[int, int]]:
    """The single tags of Table E.1-1 that a data set may hold and pydicom knows."""
    return sorted(
        tag
        for tag in initialize_actions(TABLE)
        if len(tag) == 2 and tag[0] >= 8 and dictionary_has_tag(tag)
    )


def _marked(kind: str, n: int):
    if kind in ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"):
        return f"CANARY{n:05d}"
    if kind in ("OB", "UN"):
        return f"CANARY{n:05d}x".encode()
    if kind == "DA":
        return f"18{n // 300 + 10:02d}{n // 25 % 12 + 1:02d}{n % 25 + 1:02d}"
    if kind == "TM":
        return f"010203.{770000 + n}"
    if kind == "DT":
        return f"18230417010203.{880000 + n}"
    if kind == "UI":
        return f"1.2.9999.{n}.4242{n:05d}"
    if kind in ("DS", "IS"):
        return f"91{n:05d}7"
    return None  # numbers and ages cannot be told from others


def plant(dataset: Dataset, instance: int = 0) -> dict[str, bytes]:
    """Puts a value that occurs nowhere else into each attribute.

    Args:
        dataset: A data set with pixels.
        instance: Number of the file; UIDs that name it alone differ by it.

    Returns:
        What to search for, by keyword.
    """
    canaries: dict[str, bytes] = {}
    for n, tag in enumerate(profile_tags()):
        kind, keyword = dictionary_VR(tag), keyword_for_tag(tag)
        if kind == "SQ":
            item = Dataset()
            text = f"CANARY{n:05d}"
            item.PatientName = text
            item.CodeMeaning = f"CANARZ{n:05d}"
            item.ReferencedSOPInstanceUID = f"1.2.9998.{n}.4343{n:05d}"
            dataset[tag] = pydicom.DataElement(tag, "SQ", [item])
            canaries[keyword] = text.encode()
            canaries[f"{keyword}/CodeMeaning"] = item.CodeMeaning.encode()
            canaries[f"{keyword}/UID"] = item.ReferencedSOPInstanceUID.encode()
            continue
        value = _marked(kind, n)
        if value is None:
            continue
        if kind == "UI" and keyword not in _SAME_IN_SERIES:
            value += f".{instance}"
        dataset[tag] = pydicom.DataElement(tag, kind, value)
        canaries[keyword] = value if isinstance(value, bytes) else value.encode()
    # X/Z/U* and K: sequences that stay, with something in them that must not.
    item = Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = "1.2.9997.777888999"
    item.PatientComments = "CANARYKEPT"
    dataset.ReferencedImageSequence = [item]
    canaries |= {"kept sequence": b"CANARYKEPT", "reference": b"777888999"}
    dataset.private_block(0x0009, "CANARYOWNER", create=True).add_new(1, "LO", "CANARYPRIVATE")
    dataset[0x00080BAD] = pydicom.DataElement(0x00080BAD, "LO", "CANARYUNKNOWN")
    dataset.EvaluatorName, dataset.CalibrationNotes = "CANARYUNLISTED1", "CANARYUNLISTED2"
    dataset.ProcedureCreationDate = "17990131"
    canaries |= {"owner": b"CANARYOWNER", PRIVATE: b"CANARYPRIVATE", UNKNOWN: b"CANARYUNKNOWN"}
    canaries |= {UNLISTED: b"CANARYUNLISTED", "unlisted date": b"17990131"}
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return canaries


def leaks(canaries: Iterable[bytes], *places: str | bytes | Path) -> list[str]:
    """Which canaries are in texts, in files and in the names of files and folders."""
    content = b"\n".join(_all_bytes(place) for place in places)
    # The digits of a random UID hold one of the dates by chance, once in some hundred runs.
    content = _RANDOM_UID.sub(b"2.25", content)
    return sorted({canary.decode() for canary in canaries if canary in content})


def _all_bytes(place: str | bytes | Path) -> bytes:
    if isinstance(place, bytes):
        return place
    if isinstance(place, str):
        return place.encode()
    if place.is_dir():
        inside = (path for path in sorted(place.rglob("*")))
        return b"\n".join(
            path.relative_to(place).as_posix().encode()
            + (b"\n" + _all_bytes(path) if path.is_file() else b"")
            for path in inside
        )
    data = place.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data += gzip.decompress(data)
    if zipfile.is_zipfile(io.BytesIO(data)) and place.suffix == ".npz":
        with np.load(place, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                data += name.encode() + (
                    str(array).encode() if array.dtype.kind == "U" else array.tobytes()
                )
    return data
