"""Profiles for what derived DICOM carries of the patient: all, or what DICOM PS3.15 leaves.

The rules of Table E.1-1 come from the package dicom-anonymizer, which sees the top level alone and
is called on every item; UIDs, and what the table does not list, are dealt with here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import metadata

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset

from tfstyle._private.images import one_of
from tfstyle.data.dicom.files import code
from tfstyle.errors import InputFileError, require_packages

#: ``keep`` leaves all attributes that describe patient, study, place and staff; ``basic`` is the
#: Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E.
PROFILES = ("keep", "basic")

#: Edition of Table E.1-1, as dicom-anonymizer calls it.
TABLE = "dicomfields_2026c"

# Free text, dates and names that the table does not list are just as private.
_TALKATIVE = frozenset({"DA", "DT", "LT", "PN", "ST", "TM", "UC", "UN", "UR", "UT"})
_DATES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}

_CODES = ("LongCodeValue", "URNCodeValue")

# They say what something is, not which one.
_REGISTERED = "1.2.840.10008."
_CLASSES = ("ClassUID", "SyntaxUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID")


def check_profile(profile: str) -> None:
    """An ArgumentError if a profile is unknown, MissingPackageError without dicom-anonymizer."""
    one_of("deidentify", profile, PROFILES)
    if profile == "basic":
        _rules()


def new_key() -> str:
    """A random key for :func:`new_uid`; who has it can tell which old UID became which new one."""
    return secrets.token_hex(16)


def new_uid(uid: str, key: str) -> str:
    """The UID below 2.25 (PS3.5 B.2) for another one under a key; those of the standard stay."""
    uid = str(uid)
    if not uid or uid.startswith(_REGISTERED):
        return uid
    digest = hmac.new(key.encode(), uid.encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def check_burned_in(said: str | None, path: str) -> None:
    """Raises an InputFileError if BurnedInAnnotation says that a file's pixels hold text."""
    if str(said or "").strip().upper() == "YES":
        what = "Burned In Annotation (0028,0301) says YES, and text in the pixels is not removed"
        raise InputFileError(path, f"{what}; leave the image out, or clean it and say NO.")


def deidentify(dataset: Dataset, key: str) -> None:
    """Applies the basic profile to a data set, in place.

    Attributes are removed, emptied or replaced by dummies as Table E.1-1 says, at every level, and
    say so; UIDs of instances become :func:`new_uid`, so that files of one `key` stay together.
    Private and unknown attributes, and dates, names and free text that the table does not list, are
    removed. Geometry, windows, technique and equipment by make and model stay. Neither pixels nor
    the file meta group are looked at.

    Example:
        >>> import pydicom
        >>> dataset = pydicom.dcmread("style.dcm")
        >>> deidentify(dataset, new_key())
        >>> dataset.PatientIdentityRemoved
        'YES'
    """
    rules = _rules()
    meta = dataset.__dict__.pop("file_meta", None)
    _remove_unreadable(dataset)
    _apply(dataset, key, rules)
    if meta is not None:
        dataset.file_meta = meta
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [
        "DICOM PS3.15 Basic Application Confidentiality Profile",
        f"dicom-anonymizer {metadata.version('dicom-anonymizer')}, {TABLE}",
    ]
    dataset.DeidentificationMethodCodeSequence = code(
        "113100", "DCM", "Basic Application Confidentiality Profile"
    )
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


@lru_cache(maxsize=1)
def _rules() -> dict[tuple, Callable]:
    """Table E.1-1: tag, or tag with mask, to an action on a data set."""
    require_packages({"dicomanonymizer": "dicom-anonymizer"}, "deidentify", "deidentify='basic'")
    from dicomanonymizer import simpledicomanonymizer as theirs

    rules: dict[tuple, Callable] = {}
    for tag, action in theirs.initialize_actions(TABLE).items():
        name = action.__name__
        kind = dictionary_VR(tag) if len(tag) == 2 and dictionary_has_tag(tag) else ""
        if action is theirs.delete or (kind in _DATES and name.startswith("delete_or")):
            rules[tag] = _remove  # the package keeps dates, with a dummy
        elif kind in _DATES:
            # Its dummies, of the year 1, are refused by other software.
            value = "" if name.startswith("empty") else _DATES[kind]
            rules[tag] = partial(_set, value=value)
        elif kind == "UI" or action is theirs.delete_or_empty_or_replace_UID:
            # U, and U* for sequences of references: by new_uid in _apply.
            rules[tag] = lambda dataset, tag: None
        elif kind == "SQ" and action is not theirs.replace:
            # Items of dummies fit no image; images need none of these.
            rules[tag] = partial(_set, value=[]) if action is theirs.empty else _remove
        else:
            rules[tag] = partial(_try, action=action)
    return rules


def _set(dataset: Dataset, tag: tuple[int, int], *, value: object) -> None:
    if tag in dataset:
        dataset[tag].value = value


def _remove(dataset: Dataset, tag: tuple[int, int]) -> None:
    if tag in dataset:
        del dataset[tag]


def _try(dataset: Dataset, tag: tuple[int, int], *, action: Callable) -> None:
    """The action, but what cannot be replaced, being damaged or of a rare kind, is removed."""
    try:
        action(dataset, tag)
    except Exception:
        _remove(dataset, tag)


def _apply(dataset: Dataset, key: str, rules: dict[tuple, Callable]) -> None:
    from dicomanonymizer import anonymize_dataset

    tags = [(tag.group, tag.element) for tag in dataset.keys()]  # noqa: SIM118 - not elements
    fitting: dict[tuple, Callable] = {tag: rules[tag] for tag in tags if tag in rules}
    for mask in (tag for tag in rules if len(tag) == 4):
        if any(group & mask[2] == mask[0] & mask[2] for group, _ in tags):
            fitting[mask] = rules[mask]
    anonymize_dataset(dataset, base_rules_gen=lambda: fitting)
    for element in list(dataset):
        tag = (element.tag.group, element.tag.element)
        if element.VR == "SQ":
            for item in element.value:
                _apply(item, key, rules)
        elif element.VR == "UI":
            if tag in rules or not element.keyword.endswith(_CLASSES):
                uids = element.value if element.VM > 1 else [element.value or ""]
                element.value = [new_uid(uid, key) for uid in uids]
        elif not dictionary_has_tag(element.tag) or (
            element.VR in _TALKATIVE and tag not in rules and element.keyword not in _CODES
        ):
            del dataset[element.tag]


def _remove_unreadable(dataset: Dataset) -> None:
    """Takes out elements whose values cannot be decoded, which no rule could judge."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _remove_unreadable(item)
        except Exception:
            del dataset[tag]
