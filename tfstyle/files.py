"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile

from tfstyle.errors import OutputError


def write_atomically(path: str | os.PathLike, data: bytes, *, private: bool = False) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Args:
        path: Output file; its folder must exist.
        data: The content.
        private: Let nobody but the user read it.

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
        os.chmod(temporary, 0o600 if private else 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(path, f"cannot be written ({error.strerror or error}).") from error
