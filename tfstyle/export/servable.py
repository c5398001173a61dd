"""A SavedModel loaded and run as TensorFlow Serving does it, without the model's Python code.

TensorFlow Serving's layout is ``<base path>/<version>/saved_model.pb`` where the version is a
whole number; any other name in the folder is ignored, which is why an export may be written
there under another name and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.errors import ArgumentError, InputFileError, first_line
from tfstyle.export.file_operations import refuse_file_operations
from tfstyle.files import check_records, read_limited
from tfstyle.limits import check
from tfstyle.logs import quiet_tensorflow

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef, TensorInfo

logger = logging.getLogger(__name__)

SERVE_TAG = "serve"
# TensorFlow Serving's name and place for the requests that a version runs before it is available.
WARM_UP_FILE = "tf_serving_warmup_requests"
DEFAULT_SIGNATURE = "serving_default"
# tf.saved_model.save adds this one for its own initialisation; it takes and gives no tensors.
_INIT_SIGNATURE = "__saved_model_init_op"


def list_versions(base_path: str | Path) -> dict[int, Path]:
    """Version folders of one model, lowest first.

    Args:
        base_path: The model's folder, for example ``saved_models/stylize``.

    Returns:
        Version number to folder, for every subfolder whose name is a whole number. Other names,
        such as an export that is still being written, are left out. Empty when there is none or
        when ``base_path`` does not exist.
    """
    base = Path(base_path)
    if not base.is_dir():
        return {}
    found = [p for p in base.iterdir() if p.name.isascii() and p.name.isdecimal() and p.is_dir()]
    return {int(p.name): p for p in sorted(found, key=lambda p: int(p.name))}


def resolve_models(models: str | Path | Mapping[str, str | Path]) -> dict[str, Path]:
    """Model names and their base paths, from what a user would naturally give.

    Args:
        models: One of a mapping of model name to base path; a base path itself (a folder with
            version folders: the model gets the folder's name); or a folder of base paths, such as
            ``saved_models``.

    Returns:
        Model name to absolute base path, each with at least one version that holds a
        ``saved_model.pb``.

    Raises:
        InputFileError: A folder is missing, holds no version, or its latest version is empty.
        ArgumentError: ``models`` is an empty mapping, or a model name is not usable.
    """
    if isinstance(models, Mapping):
        if not models:
            raise ArgumentError("models: is empty; give at least one model name and its folder")
        named = {name: Path(path) for name, path in models.items()}
    else:
        folder = Path(models)
        if not folder.is_dir():
            raise InputFileError(
                folder, "is not a folder; export a model first, for example with `tfstyle export`"
            )
        if list_versions(folder):
            named = {folder.resolve().name: folder}
        else:
            children = sorted(p for p in folder.iterdir() if p.is_dir())
            named = {p.name: p for p in children if list_versions(p)}
            if not named:
                raise InputFileError(
                    folder,
                    "holds no model: expected <model>/<version>/saved_model.pb, for example "
                    "stylize/1/saved_model.pb; export one with `tfstyle export`",
                )
    for name, path in named.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ArgumentError(f"models: {name!r} is not a usable model name")
        _latest_version(path)
    return {name: path.resolve() for name, path in named.items()}


def _latest_version(base_path: Path) -> tuple[int, Path]:
    versions = list_versions(base_path)
    if not versions:
        problem = "is not a folder" if not base_path.is_dir() else "has no version folder"
        raise InputFileError(
            base_path,
            f"{problem}: expected {base_path.name}/1/saved_model.pb or the like; export a model "
            "with `tfstyle export`",
        )
    version, path = max(versions.items())
    if not (path / "saved_model.pb").is_file():
        raise InputFileError(
            path, "has no saved_model.pb; remove this version folder or export into it again"
        )
    return version, path


def _tensor_names(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    return {name: info.name for name, info in tensors.items()}


def read_meta_graph(version_folder: Path) -> MetaGraphDef:
    """The serving graph of a SavedModel, read without running anything.

    Raises:
        InputFileError: ``saved_model.pb`` is missing, too large or damaged, or has no such graph.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = version_folder / "saved_model.pb"
    saved_model = SavedModel()
    try:
        saved_model.ParseFromString(read_limited(path, "file_bytes"))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror or error})") from error
    except DecodeError as error:
        raise InputFileError(
            path, "is damaged and cannot be loaded as a SavedModel; export the model again"
        ) from error
    for meta_graph in saved_model.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    raise InputFileError(path, f"holds no graph with the tag '{SERVE_TAG}'")


def _check_claim(path: Path, proto: TensorProto) -> None:
    """Refuses a tensor of a few bytes that would become one of many."""
    import tensorflow as tf

    sizes = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(sizes) * max(1, tf.as_dtype(proto.dtype).size or 1)
    if proto.tensor_shape.unknown_rank or min(sizes, default=0) < 0:
        raise InputFileError(path, "holds a tensor without a shape; export the model again")
    check(path, "file_bytes", size, f"holds a tensor of {size} bytes")


class Servable:
    """One version of one model, loaded through TensorFlow's session loader (tag ``serve``).

    The graph runs in a ``tf.compat.v1.Session``, as in TensorFlow Serving; the tensors to feed
    and fetch come from the signatures stored in the SavedModel. Thread-safe.

    Args:
        name: Model name, for messages.
        version: Version number.
        path: The version folder, with ``saved_model.pb``.
        intra_op_threads: Threads within one operation; 0 lets TensorFlow choose.
        inter_op_threads: Threads across operations; 0 lets TensorFlow choose.
        allow_file_ops: Load it even if it can reach for files or run code beyond its graph, see
            :mod:`tfstyle.export.file_operations`.

    Attributes:
        signatures: Signature name to ``SignatureDef``.
        all_signatures: The same with TensorFlow's internal ones, as ``GetModelMetadata`` gives.

    Raises:
        InputFileError: ``path`` is not a SavedModel that can be loaded, or one that is refused.

    Example:
        >>> servable = Servable("stylize", 1, "saved_models/stylize/1")      # doctest: +SKIP
        >>> servable.run("stylize", {"content": x, "style": y})["generated"]  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: str | Path,
        *,
        intra_op_threads: int = 0,
        inter_op_threads: int = 0,
        allow_file_ops: bool = False,
    ):
        import tensorflow as tf

        self.name = name
        self.version = version
        self.path = Path(path)
        if not allow_file_ops:
            refuse_file_operations(read_meta_graph(self.path), self.path)
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=intra_op_threads,
            inter_op_parallelism_threads=inter_op_threads,
        )
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with session.graph.as_default(), quiet_tensorflow():
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    session, [SERVE_TAG], str(self.path)
                )
        except Exception as error:
            session.close()
            raise InputFileError(
                self.path,
                f"cannot be loaded as a SavedModel with the tag '{SERVE_TAG}' "
                f"({first_line(error)}); export the model again",
            ) from error
        self._session: tf.compat.v1.Session | None = session
        self._lock = threading.Lock()
        self._closed = False
        self.all_signatures: dict[str, SignatureDef] = dict(meta_graph.signature_def)
        self.signatures = {k: v for k, v in self.all_signatures.items() if k != _INIT_SIGNATURE}
        # Plain dictionaries: protobuf's maps add the missing keys that they are asked for.
        self._inputs = {k: _tensor_names(v.inputs) for k, v in self.signatures.items()}
        self._outputs = {k: _tensor_names(v.outputs) for k, v in self.signatures.items()}
        logger.info(
            "loaded %s version %d from %s (signatures: %s)",
            name,
            version,
            self.path,
            ", ".join(sorted(self.signatures)),
        )

    @classmethod
    def load_latest(cls, name: str, base_path: str | Path, **kwargs: int) -> Servable:
        """Load the highest version in a base path.

        Args:
            name: Model name.
            base_path: The folder of version folders.
            **kwargs: Passed to the constructor.

        Raises:
            InputFileError: There is no version, or the latest cannot be loaded.
        """
        version, path = _latest_version(Path(base_path))
        return cls(name, version, path, **kwargs)

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run one signature.

        Args:
            signature_name: A key of :attr:`signatures`.
            inputs: Input name to array, with the signature's dtypes and shapes. All of them.
            outputs: Names of the outputs wanted; None for all.
            timeout: Seconds after which the run is cancelled; None for no limit.

        Returns:
            Output name to array.

        Raises:
            KeyError: ``signature_name``, an input or an output is not in the signature.
            RuntimeError: It was closed.
            tf.errors.OpError: What TensorFlow says about a run that fails.
        """
        import tensorflow as tf

        feeds, fetches = self._inputs[signature_name], self._outputs[signature_name]
        names = list(outputs) if outputs else sorted(fetches)
        options = None
        if timeout is not None:
            options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(timeout * 1000)))
        session = self._session
        if session is None:
            raise RuntimeError(f"{self.name} version {self.version} is closed")
        values = session.run(
            [fetches[name] for name in names],
            {feeds[name]: array for name, array in inputs.items()},
            options=options,
        )
        return dict(zip(names, values, strict=True))

    def warm_up(self) -> int:
        """Run the warm-up requests that the SavedModel carries, if it does.

        They are ``PredictionLog`` records in ``assets.extra/tf_serving_warmup_requests``, as for
        TensorFlow Serving; those of other calls than Predict are left out.

        Returns:
            Number of requests that were run.

        Raises:
            InputFileError: The file is damaged, or a request in it fails.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import prediction_log_pb2

        from tfstyle.serving.tensors import decode_tensor

        path = self.path / "assets.extra" / WARM_UP_FILE
        if not path.is_file():
            return 0
        count = 0
        try:
            check_records(path)
            with quiet_tensorflow():
                for record in tf.compat.v1.io.tf_record_iterator(str(path)):
                    log = prediction_log_pb2.PredictionLog.FromString(record)
                    if log.WhichOneof("log_type") != "predict_log":
                        continue
                    request = log.predict_log.request
                    for proto in request.inputs.values():
                        _check_claim(path, proto)
                    inputs = {k: decode_tensor(proto) for k, proto in request.inputs.items()}
                    self.run(request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs)
                    count += 1
        except InputFileError:
            raise
        except Exception as error:
            raise InputFileError(
                path, f"request {count + 1} fails ({first_line(error)}); export the model again"
            ) from error
        return count

    def close(self) -> None:
        """Release the session; runs in progress are cancelled. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._session.close()
        # Graph and session refer to each other and hold the weights and all that warm-up made;
        # the C library keeps what they free, in the arenas of the threads that ran them.
        self._session = None
        gc.collect()
        trim_memory()


def trim_memory() -> None:
    """Gives memory that was freed back to the system, where the C library is glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
