"""Every error that tfstyle raises on bad input.

All of them derive from :class:`TfstyleError`, itself a ``ValueError``, so that a caller may catch
one class. Messages name the file or the argument, say what was wrong, and what to do about it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec


class TfstyleError(ValueError):
    """Base of all errors that tfstyle raises on purpose."""


class ArgumentError(TfstyleError):
    """An argument has a value that cannot be used."""


class _PathError(TfstyleError):
    """An error about a file or folder; `problem` says what is wrong and what to do."""

    def __init__(self, path: object, problem: str):
        self.path = str(path)
        self.problem = problem
        super().__init__(f"{path}: {problem}")

    def __reduce__(self) -> tuple:
        """Pickles, so that it reaches another process whole."""
        return type(self), (self.path, self.problem)


class InputFileError(_PathError):
    """A file given as input is missing, damaged or of the wrong kind."""


class OutputError(_PathError):
    """An output file or folder cannot be written."""

    @staticmethod
    def of(path: object, error: BaseException) -> OutputError:
        """The error for a write that failed by an OSError, or by what a library made of one.

        It is a :class:`StorageError`, which says what to do, where the place takes no more.
        """
        number = getattr(error, "errno", None)
        if number is None:  # h5py and TensorFlow keep it in their messages alone
            text = str(error).lower()
            number = next((n for words, n in _SYMPTOMS.items() if re.search(words, text)), None)
        if number in _REMEDIES:
            return StorageError(path, f"cannot be written: {_REMEDIES[number]}")
        if number == errno.EEXIST:
            path = getattr(error, "filename", None) or path
            return OutputError(path, "is a file, where a folder is needed; choose another name.")
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        return OutputError(path, f"cannot be written ({reason}).")


class StorageError(OutputError):
    """The place of an output is full, over its quota, or takes no writes."""


@contextmanager
def writing(path: object, kind: type[Exception] = OSError) -> Iterator[None]:
    """Makes an OSError, or an error of another kind, of a write the OutputError that it is."""
    try:
        yield
    except (OSError, kind) as error:
        raise OutputError.of(path, error) from error


_AGAIN = "or choose another place, and give the same command again"
_KEPT = f"{_AGAIN}; what is finished is kept."
_FORBIDDEN = f"permission denied. Give this user the right to write there, {_AGAIN}."
_REMEDIES = {
    errno.ENOSPC: f"the disk is full. Make room there, {_KEPT}",
    errno.EDQUOT: f"the quota is used up. Make room there, {_KEPT}",
    errno.EFBIG: f"the file is larger than the system allows (ulimit -f). Raise the limit, {_KEPT}",
    errno.EROFS: f"the file system is read-only. Make it writable, {_AGAIN}.",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
}
_SYMPTOMS = {
    r"no space left|errno = 28\b": errno.ENOSPC,
    r"quota exceeded|errno = 122\b": errno.EDQUOT,
    r"file too large|errno = 27\b": errno.EFBIG,
    r"read-only file system|errno = 30\b": errno.EROFS,
    r"permission denied|errno = 13\b": errno.EACCES,
}


class WeightsError(TfstyleError):
    """Weights or a preset cannot be found, fetched, verified or matched to the model."""


class ServingError(TfstyleError):
    """A served model cannot be reached or refused the request.

    Args:
        message: What went wrong.
        code: The status that the server or the connection gave, such as ``"NOT_FOUND"``, by its
            name in gRPC; None where there was none.
    """

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.code = code


class WorkerError(TfstyleError):
    """A process or a pipeline that does a part of the work has stopped."""


class ConversionError(TfstyleError):
    """A model cannot be converted: the target cannot run it, or gives something else."""


class MissingPackageError(TfstyleError):
    """A package of one of tfstyle's extras is not installed."""


def require_packages(packages: Mapping[str, str], extra: str, purpose: str) -> None:
    """Raises a MissingPackageError, with the command that installs it, if a module is missing.

    `packages` goes from module to package, `extra` brings them, `purpose` says what needs them.
    """
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"{purpose} needs {' and '.join(missing)}: pip install 'tfstyle[{extra}]'."
        )


#: What the client, the development server and warm-up records need; for `require_packages`.
SERVING_PACKAGES = {
    "tensorflow_serving": "tensorflow-serving-api",
    "grpc_health": "grpcio-health-checking",
}


def first_line(error: BaseException) -> str:
    """What an error of another library says, without what follows; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
