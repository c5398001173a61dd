"""Files that are either whole or not there, and reading that a hostile file cannot abuse."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfstyle.errors import InputFileError, OutputError
from tfstyle.limits import check, limits

if TYPE_CHECKING:
    import numpy as np


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Args:
        path: Output file; its folder must exist.
        data: The content.

    Raises:
        OutputError: If the file cannot be written.
    """
    path = os.fspath(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path) or "."
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(path, f"cannot be written ({error.strerror or error}).") from error


def read_limited(path: str | os.PathLike, limit: str = "text_bytes") -> bytes:
    """The content of a file of limited size.

    Args:
        path: The file.
        limit: The field of :class:`tfstyle.limits.Limits` that says how large it may be.

    Raises:
        OSError: It cannot be read.
        InputFileError: It is larger.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        check(path, limit, size, f"a file of {size} bytes")
        data = file.read(size)
        most = getattr(limits(), limit)
        while len(data) <= most and (more := file.read(2**16)):  # what has no size, such as a pipe
            data += more
    check(path, limit, len(data), f"a file of more than {most} bytes")
    return data


def parse_json(text: str | bytes) -> Any:
    """JSON, where nesting too deep for Python is a ValueError like other faults of the text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: It cannot be read.
        InputFileError: It is larger than ``text_bytes`` of :class:`tfstyle.limits.Limits`.
        ValueError: It is no JSON. (:class:`InputFileError` is a ValueError too.)
    """
    return parse_json(read_limited(path).decode("utf-8"))


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``; sizes are checked before memory is taken, pickles are refused.

    Raises:
        FileNotFoundError: There is no such file.
        InputFileError: It is larger, unpacked, than ``file_bytes`` of
            :class:`tfstyle.limits.Limits`.
        ValueError: It is no ``.npz`` of plain arrays, or damaged.
    """
    import numpy as np

    check_zip(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }[version]
                    shape, _, kind = read(file)
                    size = kind.itemsize
                    for length in shape:
                        size *= length
                    if kind.hasobject or not 0 <= size <= member.file_size:
                        raise ValueError(f"{member.filename}: objects, or cut short")
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except InputFileError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds on damaged files
        raise ValueError(f"damaged or no plain arrays: {error or type(error).__name__}") from error
    return arrays


def check_zip(path: str | os.PathLike) -> None:
    """Refuses a ZIP archive whose members would be too large, or lie elsewhere, when unpacked.

    Raises:
        FileNotFoundError: There is no such file.
        InputFileError: Its members take more than ``file_bytes`` of
            :class:`tfstyle.limits.Limits`, or one has a path that leads out of the archive.
        ValueError: It is no ZIP archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"no ZIP archive, or damaged: {error}") from error
    size = sum(member.file_size for member in members)
    check(path, "file_bytes", size, f"unpacks to {size} bytes")
    for member in members:
        if not is_inside(".", member.filename):
            raise InputFileError(
                path, f"its member {member.filename!r} leads out of it; do not use this file."
            )


def check_records(path: str | os.PathLike) -> None:
    """Refuses a TFRecord file whose records claim to be longer than the file.

    TensorFlow takes the memory that a record claims before it looks for it, and falls with it.

    Raises:
        OSError: It cannot be read.
        InputFileError: It is larger than ``file_bytes`` of :class:`tfstyle.limits.Limits`.
        ValueError: It is cut short or damaged.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        check(path, "file_bytes", size, f"a file of {size} bytes")
        at = 0
        while at < size:
            file.seek(at)
            at += 16 + int.from_bytes(file.read(8), "little")  # length, checksum, data, checksum
        if at != size:
            raise ValueError("a record is longer than the file")


def is_inside(folder: str | os.PathLike, path: str | os.PathLike) -> bool:
    """Whether a path lies in a folder, after links and ``..`` are resolved.

    Args:
        folder: The folder.
        path: Absolute, or from the folder.
    """
    try:
        inside = Path(folder, path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
        return False
    return inside


def safe_name(text: str, otherwise: str = "scan") -> str:
    """A text as one part of a path: no separators, no control characters, not hidden, no ``..``.

    Args:
        text: For example a UID or a name out of a file that others wrote.
        otherwise: What an empty result becomes.

    Example:
        >>> safe_name("1.2/../../etc")
        '1.2_.._.._etc'
    """
    return re.sub(r"[^\w\-. +,()#=@]", "_", text).strip(". ")[:200] or otherwise
