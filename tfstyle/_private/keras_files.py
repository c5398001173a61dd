"""What every model here has beside Keras's own: files written whole, exports, clear errors."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from tfstyle._private.files import check_zip, temporary_beside
from tfstyle._private.images import gray_error
from tfstyle.errors import InputFileError, OutputError, writing


def _telling(method):
    """The method with its graph's refusal of images as an ArgumentError."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            refusal = gray_error(error)
            if refusal is None:
                raise
            raise refusal from error

    return run


class KerasFile:
    """A mixin in front of ``keras.Model`` for models whose constructor builds them.

    It gives :meth:`save`, :meth:`load` and :meth:`export`, and makes an
    :class:`~tfstyle.errors.ArgumentError` of the assertion by which a graph refuses images in
    ``fit``, ``evaluate``, ``predict`` and their forms for one batch.
    """

    fit = _telling(keras.Model.fit)
    evaluate = _telling(keras.Model.evaluate)
    predict = _telling(keras.Model.predict)
    train_on_batch = _telling(keras.Model.train_on_batch)
    test_on_batch = _telling(keras.Model.test_on_batch)
    predict_on_batch = _telling(keras.Model.predict_on_batch)

    images_spec = tf.TensorSpec((None, None, None, 1), tf.float32)

    def traced(self, name: str, function: Callable, *specs: tf.TensorSpec):
        """`function` as a ``tf.function`` of this signature, made once for each `name`."""
        functions = self.__dict__.setdefault("_traced_functions", {})
        if name not in functions:
            functions[name] = tf.function(function, input_signature=specs, autograph=False)
        return functions[name]

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
        with writing(path), temporary_beside(path, folder=True) as folder:
            keras.Model.save(self, folder / path.name, **kwargs)
            os.replace(folder / path.name, path)

    @classmethod
    def load(cls, filepath):
        """Reads a model that :meth:`save` wrote; an InputFileError if it cannot."""
        return load_model(filepath, cls)

    def export(
        self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs
    ):
        """Writes the model's call for inference as ``keras.Model.export`` does, all sizes open.

        `input_signature` defaults to the shapes and types that the model was built for, with None
        for batch, height and width. Raises an OutputError if it cannot be written.
        """
        if input_signature is None:
            shapes = self.get_build_config()["input_shape"]
            input_signature = [
                keras.tree.map_shape_structure(
                    lambda shape: keras.InputSpec(shape=shape, dtype=self.input_dtype), shapes
                )
            ]
        with writing(filepath):
            return super().export(
                filepath, format, verbose, input_signature=input_signature, **kwargs
            )


def load_model(filepath: str | os.PathLike, classes: type | tuple[type, ...]):
    """Reads a ``.keras`` file that holds a model of one of `classes`; else an InputFileError."""
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
    if not isinstance(model, classes):
        wanted = classes if isinstance(classes, tuple) else (classes,)
        names = " or ".join(cls.__name__ for cls in wanted)
        raise InputFileError(path, f"holds a {type(model).__name__}, not a {names}.")
    return model
