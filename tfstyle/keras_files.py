"""Models in one ``.keras`` file: written whole or not at all, read with clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import keras

from tfstyle.errors import InputFileError, OutputError
from tfstyle.files import check_zip, temporary_beside


class KerasFile:
    """Gives a ``keras.Model`` that stands behind it in its bases :meth:`save` and :meth:`load`."""

    def save(self, filepath, overwrite: bool = True, **kwargs):
        """Writes the model, its losses and the optimizer's state to one ``.keras`` file.

        Raises:
            OutputError: if the file cannot be written or does not end in ``.keras``.
        """
        path = Path(filepath)
        if path.suffix != ".keras":
            raise OutputError(path, "model files end in .keras; choose such a name.")
        if path.exists() and not overwrite:
            raise OutputError(path, "exists already; choose another name or overwrite=True.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(path, folder=True) as folder:
                super().save(folder / path.name, **kwargs)
                os.replace(folder / path.name, path)
        except OSError as error:
            raise OutputError.of(path, error) from error

    @classmethod
    def load(cls, filepath):
        """Reads a model that :meth:`save` wrote.

        Raises:
            InputFileError: if the file is missing, damaged or holds something else.
        """
        path = Path(filepath)
        if not path.is_file():
            raise InputFileError(path, "no such model file.")
        try:
            check_zip(path)
            model = keras.saving.load_model(path, safe_mode=True)
        except InputFileError:
            raise
        except Exception as error:
            raise InputFileError(path, f"not a readable .keras model ({error}).") from error
        if not isinstance(model, cls):
            raise InputFileError(path, f"holds a {type(model).__name__}, not a {cls.__name__}.")
        return model
