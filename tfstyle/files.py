"""Files and folders that are either whole or not there.

What is being written has a hidden name beside its place, ``.NAME.XXXXXXXX.tfstyle``, and is locked
by the process that writes it; then it is renamed. A process that is killed leaves such a name
behind without its lock, by which :func:`remove_abandoned` tells it from one still in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfstyle.errors import OutputError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tfstyle$")


def write_atomically(path: str | os.PathLike, data: bytes, *, private: bool = False) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Args:
        path: Output file; its folder must exist.
        data: The content.
        private: Let nobody but the user read it.

    Raises:
        OutputError: If the file cannot be written; a :class:`~tfstyle.errors.StorageError` where
            the disk is full or takes no writes.
    """
    try:
        with temporary_beside(path) as temporary:
            if private:
                temporary.chmod(0o600)
            temporary.write_bytes(data)
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError.of(path, error) from error


@contextmanager
def temporary_beside(path: str | os.PathLike, folder: bool = False) -> Iterator[Path]:
    """A temporary file or folder beside `path`, to be filled and renamed inside the ``with``.

    It is removed at the end if it still has its temporary name.

    Args:
        path: What is to be written; its folder must exist.
        folder: Make a folder, for writers that insist on a name or make several files.

    Returns:
        A context manager that gives the path of the new, empty file or folder.

    Raises:
        OSError: If it cannot be made.

    Example:
        >>> with temporary_beside("model.keras", folder=True) as folder:
        ...     model.save(folder / "model.keras")
        ...     os.replace(folder / "model.keras", "model.keras")
    """
    parent, name = os.path.split(os.fspath(path))
    name = os.fsencode(name)[:200].decode(errors="ignore")  # names of files end at 255 bytes
    temporary, handle = _take(parent or ".", name, folder)
    try:
        yield temporary
    finally:
        # As long as the lock is held nobody takes the file for abandoned.
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        os.close(handle)


def _take(parent: str, name: str, folder: bool) -> tuple[Path, int]:
    """A new temporary name and a handle that locks it."""
    while True:
        temporary = Path(parent, f".{name}.{secrets.token_hex(4)}.tfstyle")
        try:
            if folder:
                temporary.mkdir()
                handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
            else:
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if folder and os.path.isdir(parent):
                continue  # removed between the two calls, as below
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nothing there is ever taken for abandoned
            return temporary, handle
        if os.fstat(handle).st_nlink and temporary.exists():
            return temporary, handle
        os.close(handle)  # taken for abandoned before it was locked


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of something unfinished."""
    return _TEMPORARY.match(name) is not None


def is_unused(folder: str | os.PathLike) -> bool:
    """Whether a folder is empty, but for what killed processes left, which is removed."""
    remove_abandoned(folder)
    return not any(os.scandir(folder))


def remove_abandoned(folder: str | os.PathLike, deep: bool = False) -> None:
    """Removes what killed processes left under temporary names; what is in use stays.

    Where the file system has no locks, as for folders on NFS, it stays too.

    Args:
        folder: Where to look; may be missing.
        deep: Look in the folders below as well.
    """
    for root, folders, files in os.walk(folder):
        for name in filter(is_temporary, [*folders, *files]):
            _remove_if_abandoned(Path(root, name))
        folders[:] = [name for name in folders if deep and not is_temporary(name)]


def _remove_if_abandoned(path: Path) -> None:
    try:
        # NFS locks only what is open for writing.
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
        handle = os.open(path, mode | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # in use, or where there are no locks and nobody can tell
        pass
    finally:
        os.close(handle)


__all__ = ["is_temporary", "is_unused", "remove_abandoned", "temporary_beside", "write_atomically"]
