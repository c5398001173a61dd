"""Every error that tfstyle raises on bad input.

All of them derive from :class:`TfstyleError`, itself a ``ValueError``, so that a caller may catch
one class. Messages name the file or the argument, say what was wrong, and what to do about it.
"""

from __future__ import annotations


class TfstyleError(ValueError):
    """Base of all errors that tfstyle raises on purpose."""


class ArgumentError(TfstyleError):
    """An argument has a value that cannot be used."""


class _PathError(TfstyleError):
    """An error about a file or folder.

    Args:
        path: The file or folder.
        problem: What is wrong and what to do, without the path.
    """

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
    """Another worker of a training over several machines cannot be reached or has stopped."""


class ConversionError(TfstyleError):
    """A model cannot be converted: a package is missing, or the target cannot run the model."""
