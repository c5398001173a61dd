"""How much a file may ask for: limits that readers check before they take memory or time.

Each limit is an environment variable, so that it holds in worker processes too and can be raised
without a change of code: ``TFSTYLE_LIMIT_SCAN_PIXELS=2Gi tfstyle stylize …``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from tfstyle.errors import ArgumentError, InputFileError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Limits:
    """What readers accept.

    Attributes:
        picture_pixels: Rows × columns of one slice or picture, and of a compressed picture by its
            own header.
        scan_pixels: Frames × rows × columns of a DICOM file or series, voxels of a NIfTI volume.
            Reading takes up to 48 bytes of memory a pixel, for float64 files that become HU.
        frames: Frames of one DICOM file.
        file_bytes: Size of a DICOM file, a PNG or a ``saved_model.pb``, and of what is packed in a
            file when unpacked: a deflated DICOM data set, the arrays of a ``.npz``, the members of
            a ``.keras`` archive.
        text_bytes: Size of a JSON file, a table, a ``models.config``, or of what stands before the
            voxels of a NIfTI file.
        manifest_bytes: Size of the manifest of an augmented set, which grows by a line for each
            image.
        files: Files in a folder and all below it.
        follow_links: Whether symbolic links that lead out of an input folder are read: 1 or 0.
            Links are never written through.

    Example:
        >>> limits().picture_pixels
        67108864
    """

    picture_pixels: int = 64 * 2**20
    scan_pixels: int = 512 * 2**20
    frames: int = 65_536
    file_bytes: int = 4 * 2**30
    text_bytes: int = 64 * 2**20
    manifest_bytes: int = 4 * 2**30
    files: int = 16 * 2**20
    follow_links: int = 1


_NAMES = tuple(field.name for field in fields(Limits))


def limits() -> Limits:
    """The limits in effect: the defaults, but for what the environment says.

    Raises:
        ArgumentError: A variable holds no whole number.
    """
    said = [name for name in _NAMES if variable(name) in os.environ]
    return Limits(**{name: _number(variable(name)) for name in said})


def variable(name: str) -> str:
    """Name of the environment variable of a limit."""
    return f"TFSTYLE_LIMIT_{name.upper()}"


def _number(name: str) -> int:
    text = os.environ[name]
    match = re.fullmatch(r"(\d{1,18})\s*([kmgt]?)(i?b?)", text.strip().lower())
    if match is None:
        raise ArgumentError(
            f"{name}: must be a whole number, with Ki, Mi, Gi or Ti if wanted, received {text!r}."
        )
    return int(match[1]) * _UNITS[match[2]]


@contextmanager
def limited(**changes: int) -> Iterator[Limits]:
    """Other limits, fields of :class:`Limits`, for a while, in this process and those it starts.

    Raises an ArgumentError for a limit that there is not.

    Example:
        >>> with limited(scan_pixels=2**32):
        ...     scan = tfstyle.data.read_scan("whole_body.nii.gz")  # doctest: +SKIP
    """
    for name in changes:
        if name not in _NAMES:
            raise ArgumentError(f"limits: there is no {name!r}; there are {', '.join(_NAMES)}.")
    before = {name: os.environ.get(variable(name)) for name in changes}
    os.environ.update({variable(name): str(int(value)) for name, value in changes.items()})
    try:
        yield limits()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(variable(name), None)
            else:
                os.environ[variable(name)] = value


def check(path: str | os.PathLike, name: str, value: int, what: str) -> None:
    """Raises an InputFileError for a file that asks for more than a limit, a field of `Limits`.

    `what` says in words what it asks for, with the number `value`, to begin the message with.
    """
    limit = getattr(limits(), name)
    if value > limit:
        raise InputFileError(
            path,
            f"{what}, above the limit of {limit} ({name}). If that is what it should be, set "
            f"{variable(name)} to {value} or more.",
        )
