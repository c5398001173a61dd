"""What may be said of a file: not the values that messages of other libraries quote."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom.config

from tfstyle.errors import TfstyleError

_QUOTED = re.compile(r"""b?(["'])(?:(?!\1).)*(?:\1|$)""")


def reason_of(error: BaseException) -> str:
    """What another library says of a damaged file, without the values in quotes, behind a colon.

    Example:
        >>> reason_of(ValueError("could not convert string to float: 'DOE^JOHN'"))
        'could not convert string to float'
    """
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):  # which names modules, and no values
        return text
    text = _QUOTED.sub("…", text).partition(":")[0].strip(" .")
    return text if any(c.isalpha() for c in text) else type(error).__name__


def problem_of(error: Exception) -> str:
    """What is said of any error that one input gave: those of other libraries in few words."""
    if isinstance(error, (TfstyleError, OSError)):
        return str(error)
    return f"{type(error).__name__}: {reason_of(error)}"


def mark_of(uid: str) -> str:
    """Eight characters that tell a UID from others and are not part of it."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


_lock, _inside, _before = threading.Lock(), 0, (0, 0)


@contextmanager
def values_unsaid() -> Iterator[None]:
    """Keeps pydicom from warning of invalid values, since its warnings quote them.

    Threads may overlap; the last to leave puts pydicom's settings back.
    """
    global _inside, _before
    settings, off = pydicom.config.settings, pydicom.config.IGNORE
    with _lock:
        if _inside == 0:
            _before = settings.reading_validation_mode, settings.writing_validation_mode
            settings.reading_validation_mode = settings.writing_validation_mode = off
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                settings.reading_validation_mode, settings.writing_validation_mode = _before
