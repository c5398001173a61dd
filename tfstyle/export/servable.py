"""A SavedModel loaded and run as TensorFlow Serving does it, without the model's Python code."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfstyle._private.files import read_limited
from tfstyle._private.logs import quiet_tensorflow
from tfstyle.errors import InputFileError, first_line

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef

logger = logging.getLogger(__name__)

SERVE_TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"
# tf.saved_model.save adds this one for its own initialization; it takes and gives no tensors.
INIT_SIGNATURE = "__saved_model_init_op"


def list_versions(base_path: str | Path) -> dict[int, Path]:
    """Version folders of one model by their numbers, lowest first.

    Subfolders whose name is not a whole number, such as an export that is still being written, are
    left out. Empty where the model's folder, for example ``saved_models/stylize``, does not exist.
    """
    base = Path(base_path)
    if not base.is_dir():
        return {}
    found = [p for p in base.iterdir() if p.name.isascii() and p.name.isdecimal() and p.is_dir()]
    return {int(p.name): p for p in sorted(found, key=lambda p: int(p.name))}


def saved_model_folder(path: str | os.PathLike) -> Path:
    """The version folder that a path means: itself, or the latest version in it.

    Raises an InputFileError where there is neither.
    """
    folder = Path(path)
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = list_versions(folder)
    latest = versions[max(versions)] if versions else folder
    if (latest / "saved_model.pb").is_file():
        return latest
    if not folder.exists():
        problem = "no such folder"
    elif versions:
        folder, problem = latest, "has no saved_model.pb; remove this version folder"
    else:
        problem = "is not a SavedModel: it has neither saved_model.pb nor a version folder"
    raise InputFileError(folder, f"{problem}; export a model with `tfstyle export`.")


def read_meta_graph(version_folder: str | Path) -> MetaGraphDef:
    """The serving graph of a SavedModel, read without running anything.

    Raises an InputFileError if ``saved_model.pb`` is missing, too large or damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = Path(version_folder) / "saved_model.pb"
    saved_model = SavedModel()
    try:
        saved_model.ParseFromString(read_limited(path, "file_bytes"))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror or error}).") from error
    except DecodeError as error:
        raise InputFileError(
            path, "is damaged and cannot be loaded as a SavedModel; export the model again."
        ) from error
    for meta_graph in saved_model.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    raise InputFileError(path, f"has no graph with the tag '{SERVE_TAG}'.")


class Servable:
    """One version of a model, loaded through TensorFlow's session loader (tag ``serve``).

    The graph runs in a ``tf.compat.v1.Session``, as in TensorFlow Serving; the tensors to feed
    and fetch come from the signatures stored in the SavedModel. Thread-safe. A SavedModel is a
    program: load only those whose origin you trust.

    Args:
        path: The version folder, with ``saved_model.pb``.

    Attributes:
        signatures: Signature name to ``SignatureDef``.

    Raises:
        InputFileError: ``path`` is not a SavedModel that can be loaded.

    Example:
        >>> with Servable("saved_models/stylize/1") as servable:         # doctest: +SKIP
        ...     servable.run("stylize", {"content": x, "style": y})["generated"]
    """

    def __init__(self, path: str | Path):
        import tensorflow as tf

        self.path = Path(path)
        session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            read_meta_graph(self.path)
            with session.graph.as_default(), quiet_tensorflow():
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    session, [SERVE_TAG], str(self.path)
                )
        except Exception as error:
            session.close()
            if isinstance(error, InputFileError):
                raise
            raise InputFileError(
                self.path,
                f"cannot be loaded as a SavedModel with the tag '{SERVE_TAG}' "
                f"({first_line(error)}); export the model again.",
            ) from error
        self._session: tf.compat.v1.Session | None = session
        self.signatures: dict[str, SignatureDef] = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if name != INIT_SIGNATURE
        }
        # Plain dictionaries: protobuf's maps add the missing keys that they are asked for.
        self._tensors = {
            name: tuple(
                {key: info.name for key, info in side.items()}
                for side in (signature.inputs, signature.outputs)
            )
            for name, signature in self.signatures.items()
        }
        logger.info("loaded %s (signatures: %s)", self.path, ", ".join(sorted(self.signatures)))

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run one signature.

        Args:
            signature: A key of :attr:`signatures`.
            inputs: Input name to array, with the signature's dtypes and shapes. All of them.
            outputs: Names of the outputs wanted. Defaults to all.
            timeout: Seconds after which the run is canceled; None for no limit.

        Returns:
            Output name to array.

        Raises:
            KeyError: ``signature``, an input or an output is not in the SavedModel.
            RuntimeError: It was closed.
            tf.errors.OpError: What TensorFlow says about a run that fails.
        """
        import tensorflow as tf

        feeds, fetches = self._tensors[signature]
        names = list(outputs) if outputs else sorted(fetches)
        options = None
        if timeout is not None:
            options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(timeout * 1000)))
        session = self._session
        if session is None:
            raise RuntimeError(f"{self.path} is closed")
        values = session.run(
            [fetches[name] for name in names],
            {feeds[name]: array for name, array in inputs.items()},
            options=options,
        )
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Release the session; runs in progress are canceled. May be called again."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Servable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
