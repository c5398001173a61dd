"""Where the domain of a scan is written: a DICOM tag, a JSON file beside it, or a table."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.datadict import tag_for_keyword

from tfstyle._private.files import read_json, read_limited
from tfstyle.data.dicom import damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.dicom.files import meta_of
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import key_of
from tfstyle.data.privacy import TECHNICAL, mark_of, reason_of
from tfstyle.errors import ArgumentError, InputFileError

if TYPE_CHECKING:
    from tfstyle.data.labelled import LabelledFiles

logger = logging.getLogger(__name__)

#: Domain of a scan whose tag or table cell is empty.
UNKNOWN = "unknown"

#: Columns of a table that say which scan a row is of, by preference.
_ID_COLUMNS = (
    *("subject", "subject_id", "participant_id", "image_id", "patient_id", "case_id", "id"),
    *("case", "image", "name", "filename", "file"),
)


def domain_source(spec: str, root: Path, argument: str) -> Callable[[LabelledFiles], str]:
    """The function from a scan to its domain or subject, by a specification as in find_labelled.

    Raises:
        ArgumentError: The specification, called `argument`, cannot be used.
        InputFileError: The table cannot be read.
    """
    kind, _, rest = str(spec).partition(":")
    if spec == "folder":
        return lambda record: record.domain
    if kind == "tag" and rest:
        if tag_for_keyword(rest) is None:
            raise ArgumentError(f"{argument}: {rest!r} is not a DICOM keyword, see PS3.6.")
        numbers: dict[str, int] = {}

        def find(record: LabelledFiles) -> str:
            value = tag_or_sidecar(_first_file(record), rest)
            if not value or rest in TECHNICAL:
                return value
            # May say who the patient is: numbered, and not told.
            return f"{rest}-{numbers.setdefault(value, len(numbers) + 1)}"

    elif kind == "csv" and ":" in rest:
        file, _, column = rest.rpartition(":")
        table = read_table(file, column, root)

        def find(record: LabelledFiles) -> str:
            return _look_up(table, record)

    else:
        raise ArgumentError(
            f"{argument}: must be 'folder', 'tag:KEYWORD' or 'csv:FILE:COLUMN', received {spec!r}."
        )

    def known(record: LabelledFiles) -> str:
        value = find(record)
        if not value:
            logger.warning("%s: nothing found by %s; counted as %s.", record.image, spec, UNKNOWN)
        return value or UNKNOWN

    return known


def tag_of(file: str, keyword: str) -> str:
    """A value of a DICOM header as text, "" where there is none."""
    dataset = read_dataset(file, pixels=False, tags=[keyword])
    with damage_is_input_error(file):
        value = dataset.get(keyword)
        if value is None and keyword == "SOPClassUID":
            value = meta_of(dataset).get("MediaStorageSOPClassUID")
        return "" if value is None else str(value).strip()


def tag_or_sidecar(file: str, keyword: str) -> str:
    """The same for DICOM, for other files the key of the JSON file beside them, as in BIDS."""
    if is_dicom(file):
        return tag_of(file, keyword)
    sidecar = Path(re.sub(r"\.(nii(\.gz)?|png)$", "", file) + ".json")
    if not sidecar.is_file():
        return ""
    try:
        values = read_json(sidecar)
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(sidecar, f"cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputFileError(sidecar, f"is not JSON ({reason_of(error)}).") from None
    return str(values.get(keyword, "")).strip() if isinstance(values, dict) else ""


def read_table(file: str, column: str, root: Path) -> dict[str, str]:
    """Identifier to value, of a table with a header in which commas, semicolons or tabs divide.

    Raises:
        InputFileError: There is no such table, here or in `root`, or column, or it is damaged.
    """
    path = next((p for p in (Path(file), root / file) if p.is_file()), None)
    if path is None:
        raise InputFileError(file, "no such table.")
    try:
        text = read_limited(path).decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror}).") from error
    except (ValueError, csv.Error) as error:
        raise InputFileError(path, f"is not a table of UTF-8 text ({error}).") from error
    names = list(rows[0]) if rows else []
    if column not in names:
        raise InputFileError(
            path, f"has no column {column!r}; its columns are {', '.join(map(str, names))}."
        )
    lower = {str(name).strip().lower(): name for name in names}
    identifier = next((lower[name] for name in _ID_COLUMNS if name in lower), names[0])
    return {
        key_of(str(row[identifier]).strip()): str(row[column] or "").strip()
        for row in rows
        if row[identifier]
    }


def _look_up(table: Mapping[str, str], record: LabelledFiles) -> str:
    name, subject = os.path.basename(record.image), record.subject
    candidates = (subject, os.path.basename(subject), subject.removeprefix("sub-"), key_of(name))
    return next((table[c] for c in (*candidates, name) if c in table), "")


def _first_file(record: LabelledFiles) -> str:
    """A file of the image, to read tags from."""
    if not os.path.isdir(record.image):
        return record.image
    for file in find_files(record.image):
        if is_dicom(file) and record.series in (None, mark_of(tag_of(file, "SeriesInstanceUID"))):
            return file
    return record.image
