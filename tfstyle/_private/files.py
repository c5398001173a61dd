"""Files and folders that are either whole or not there, and reading within limits.

What is being written has a hidden name beside its place, ``.NAME.XXXXXXXX.tfstyle``; then it is
renamed. A process that is killed leaves such a name behind. Commands hold the lock of the folder
they write, so that what has such a name when they begin is abandoned.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tfstyle.errors import InputFileError, OutputError, writing
from tfstyle.limits import check, limits

if TYPE_CHECKING:
    import numpy as np

#: In a folder as long as a process writes it.
LOCK = ".tfstyle.lock"

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tfstyle$")


def write_atomically(path: str | os.PathLike, data: bytes, *, private: bool = False) -> None:
    """Writes a file whole, with `private` for the user alone; an OutputError if it cannot be."""
    with writing(path), temporary_beside(path) as temporary:
        if private:
            temporary.chmod(0o600)
        temporary.write_bytes(data)
        os.replace(temporary, path)


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Makes an OSError of an input the InputFileError that it is."""
    try:
        yield
    except FileNotFoundError:
        raise InputFileError(path, "no such file.") from None
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror}).") from error


@contextmanager
def temporary_beside(path: str | os.PathLike, folder: bool = False) -> Iterator[Path]:
    """A new, empty file or folder beside `path`, removed at the end if it has not been renamed.

    The folder that it lies in is made if need be. Raises an OSError if it cannot be made.
    """
    parent, name = os.path.split(os.fspath(path))
    name = os.fsencode(name)[:200].decode(errors="ignore")  # names of files end at 255 bytes
    temporary = Path(parent, f".{name}.{secrets.token_hex(4)}.tfstyle")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir() if folder else temporary.touch(exist_ok=False)
    try:
        yield temporary
    finally:
        remove(temporary)


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Makes a folder if need be, and locks it; an OutputError if it cannot be, or is locked."""
    lock = FileLock(Path(folder, LOCK), timeout=0)
    try:
        os.makedirs(folder, exist_ok=True)
        lock.acquire()
    except Timeout:
        if not os.access(folder, os.W_OK):
            raise OutputError.of(folder, PermissionError(errno.EACCES, "")) from None
        raise OutputError(folder, "is being written by another run.") from None
    except OSError as error:
        raise OutputError.of(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # a lock that is held cannot be removed on Windows
            os.unlink(lock.lock_file)
        lock.release()


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of something unfinished."""
    return _TEMPORARY.match(name) is not None


def is_unused(folder: str | os.PathLike) -> bool:
    """Whether a folder holds nothing but a lock and what is unfinished."""
    return all(name == LOCK or is_temporary(name) for name in os.listdir(folder))


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_abandoned(folder: str | os.PathLike, deep: bool = False) -> None:
    """Removes what has a temporary name in a folder whose lock is held; if `deep`, below it too."""
    for root, folders, files in os.walk(os.fspath(folder)):
        for name in [each for each in (*folders, *files) if is_temporary(each)]:
            with suppress(OSError):
                remove(Path(root, name))
        folders[:] = [name for name in folders if deep and not is_temporary(name)]


def read_limited(path: str | os.PathLike, limit: str = "text_bytes") -> bytes:
    """The content of a file; an InputFileError above `limit` of the `Limits`, or an OSError."""
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
    """The content of a JSON file; an OSError, or a ValueError if it is not JSON or too large."""
    return parse_json(read_limited(path).decode("utf-8"))


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``; sizes are checked before memory is taken, pickles are refused.

    Raises a FileNotFoundError, an InputFileError if it is larger, unpacked, than ``file_bytes`` of
    :class:`tfstyle.limits.Limits`, and a ValueError if it is damaged or something else.
    """
    import numpy as np

    check_zip(path)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    shape, _, kind = readers[np.lib.format.read_magic(file)](file)
                    size = kind.itemsize * math.prod(shape)
                    if kind.hasobject or not 0 <= size <= member.file_size:
                        raise ValueError(f"{member.filename}: objects, or cut short")
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except InputFileError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds on damaged files
        raise ValueError(f"damaged or no plain arrays: {error or type(error).__name__}") from error


def check_zip(path: str | os.PathLike) -> None:
    """An InputFileError for a ZIP archive too large, or leading elsewhere, when unpacked.

    Raises a FileNotFoundError, and a ValueError for what is not a ZIP archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"not a ZIP archive, or damaged: {error}") from error
    size = sum(member.file_size for member in members)
    check(path, "file_bytes", size, f"unpacks to {size} bytes")
    for member in members:
        if not is_inside(".", member.filename):
            problem = f"its member {member.filename!r} leads out of it; do not use this file."
            raise InputFileError(path, problem)


def is_inside(folder: str | os.PathLike, path: str | os.PathLike) -> bool:
    """Whether a path, absolute or from the folder, lies in it once links are resolved."""
    try:
        return Path(folder, path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
        return False


def safe_name(text: str, otherwise: str = "scan") -> str:
    """A text as one part of a path: no separators, no control characters, not hidden, no ``..``."""
    return re.sub(r"[^\w\-. +,()#=@]", "_", text).strip(". ")[:200] or otherwise


def free_name(name: str, taken: Collection[str], ending: str = "") -> str:
    """The name, with a number behind it where with its ending it is taken."""
    free, number = name, 1
    while free + ending in taken:
        number += 1
        free = f"{name}-{number}"
    return free
