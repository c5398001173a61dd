"""Where the domain of a scan is written: a DICOM tag, or a JSON file beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.datadict import tag_for_keyword

from tfstyle._private.files import read_json
from tfstyle.data.dicom import damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.dicom.files import meta_of, text_of
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import stem_of
from tfstyle.data.privacy import TECHNICAL, mark_of, reason_of
from tfstyle.errors import ArgumentError, InputFileError

if TYPE_CHECKING:
    from tfstyle.data.labelled import LabelledFiles

logger = logging.getLogger(__name__)

#: Domain of a scan whose tag or table cell is empty.
UNKNOWN = "unknown"


def domain_source(
    source: str | Callable[[LabelledFiles], str], argument: str
) -> Callable[[LabelledFiles], str]:
    """The function from a scan to its domain or subject, by what find_labelled takes.

    Raises:
        ArgumentError: The source, called `argument`, cannot be used.
    """
    if source == "folder":
        return lambda record: record.domain
    keyword = source.removeprefix("tag:") if isinstance(source, str) else ""
    if not callable(source) and (keyword == source or not keyword):
        raise ArgumentError(
            f"{argument}: must be 'folder', 'tag:KEYWORD' or a function, received {source!r}."
        )
    if keyword and tag_for_keyword(keyword) is None:
        raise ArgumentError(f"{argument}: {keyword!r} is not a DICOM keyword, see PS3.6.")
    numbers: dict[str, int] = {}

    def find(record: LabelledFiles) -> str:
        value = source(record) if callable(source) else tag_or_sidecar(_first_file(record), keyword)
        if not value:
            logger.warning("%s: nothing found by %s; counted as %s.", record.image, source, UNKNOWN)
            return UNKNOWN
        if not keyword or keyword in TECHNICAL:
            return value
        # May say who the patient is: numbered, and not told.
        return f"{keyword}-{numbers.setdefault(value, len(numbers) + 1)}"

    return find


def tag_of(file: str, keyword: str) -> str:
    """A value of a DICOM header as text, "" where there is none."""
    dataset = read_dataset(file, pixels=False, tags=[keyword])
    with damage_is_input_error(file):
        if keyword == "SOPClassUID" and keyword not in dataset:
            return text_of(meta_of(dataset), "MediaStorageSOPClassUID")
        return text_of(dataset, keyword)


def tag_or_sidecar(file: str, keyword: str) -> str:
    """A value of the DICOM header, or of the JSON file beside another image, as in BIDS."""
    if is_dicom(file):
        return tag_of(file, keyword)
    sidecar = Path(f"{os.path.dirname(file)}/{stem_of(os.path.basename(file))}.json")
    try:
        values = read_json(sidecar)
    except FileNotFoundError:
        return ""
    except InputFileError:
        raise
    except (OSError, ValueError) as error:
        raise InputFileError(sidecar, f"cannot be read as JSON ({reason_of(error)}).") from None
    return str(values.get(keyword, "")).strip() if isinstance(values, dict) else ""


def _first_file(record: LabelledFiles) -> str:
    """A file of the image, to read tags from."""
    if not os.path.isdir(record.image):
        return record.image
    for file in find_files(record.image):
        if is_dicom(file) and record.series in (None, mark_of(tag_of(file, "SeriesInstanceUID"))):
            return file
    return record.image
