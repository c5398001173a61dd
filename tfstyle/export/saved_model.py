"""SavedModel export in TensorFlow Serving's layout: ``<folder>/<version>/``.

:func:`export_servable` is for any kind of model: it takes a table of signatures
(:mod:`tfstyle.export.signatures`), writes, checks and publishes. :func:`export_stylize` is the
table of a style transfer model put through it.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
from collections.abc import Mapping
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.export.servable import (
    DEFAULT_SIGNATURE,
    WARM_UP_FILE,
    Servable,
    read_meta_graph,
)
from tfstyle.export.signatures import STYLIZE, Signature, stylize_signatures
from tfstyle.files import read_json, remove_abandoned, temporary_beside

if TYPE_CHECKING:
    from tfstyle.style_transfer import StyleTransfer

logger = logging.getLogger(__name__)

METADATA_FILE = "tfstyle.json"
METADATA_FORMAT = "tfstyle-servable/1"

# These are registered only inside a Python process, so no model server can run them.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})

# Largest difference allowed between the model and its export, loaded back, on random images.
# A damaged export is wrong by far more; a GPU's lower-precision convolutions stay below it.
_CHECK_TOLERANCE = 1e-3


def export_stylize(
    model: StyleTransfer,
    folder: str | Path = "saved_models/stylize",
    version: int | None = None,
    *,
    preset: str | None = None,
    warm_up_size: int = 256,
) -> Path:
    """Export a style transfer model as a servable SavedModel.

    Signatures, all with dynamic batch, height and width, float32 images in [0, 1]:

    - ``stylize`` and ``serving_default``: ``content`` (B, H, W, 1) and ``style`` (B or 1, H', W',
      1) to ``generated`` (B, H, W, 1). A style batch of 1 is broadcast over the contents.
    - ``encode_style``: ``style`` (B, H', W', 1) to ``code`` (B, 2, C + 33), to keep.
    - ``stylize_with_code``: ``content`` and ``code`` (B or 1, 2, C + 33) to ``generated``, without
      the work that the style would take.
    - ``stylize_strength``, ``stylize_with_code_strength``: also take ``strength``, one value or
      one for each content, in [0, 1].
    - ``stylize_plain…``, ``encode_style_plain``, ``stylize_with_code_plain…``: the same with
      ``detail="plain"``; the signatures above are guided. See
      :meth:`tfstyle.StyleTransfer.stylize`.

    The graph checks its inputs itself, so every server answers INVALID_ARGUMENT for NaN or
    infinite values, empty images and a style batch that does not fit. See
    :func:`export_servable` for the rest.

    Args:
        model: The model; anything with its ``generate(content, style, strength, detail)``, and
            for the signatures with codes ``code_of`` and ``generate_from_code``.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.
        preset: Name of the preset that the model came from, for the metadata.
        warm_up_size: Height and width of the images in the warm-up records, in pixels; those that
            clients will send. 0 writes no records.

    Returns:
        The version folder, for example ``saved_models/stylize/1``.

    Raises:
        ArgumentError: ``version`` is no whole number of at least 1, ``warm_up_size`` is below 0,
            or ``model`` cannot generate.
        OutputError: The folder cannot be written, the version exists, or the exported graph
            does not work as the model does.

    Example:
        >>> model = tfstyle.StyleTransfer.from_preset("vgg16_ct")     # doctest: +SKIP
        >>> export_stylize(model, "saved_models/stylize")             # doctest: +SKIP
        PosixPath('saved_models/stylize/1')
    """
    if not callable(getattr(model, "generate", None)):
        raise ArgumentError(
            f"model: {type(model).__name__} has no generate(content, style, strength, "
            "detail); give a tfstyle.StyleTransfer"
        )
    if (
        isinstance(warm_up_size, bool)
        or not isinstance(warm_up_size, (int, np.integer))
        or warm_up_size < 0
    ):
        raise ArgumentError(
            f"warm_up_size: must be a whole number of at least 0, received {warm_up_size!r}"
        )
    _check_version(version)
    try:
        signatures = stylize_signatures(model)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: its code_of() cannot be traced with unknown sizes: {error}"
        ) from error
    random = np.random.default_rng(0)
    examples: dict[str, np.ndarray] = {
        "content": random.random((2, 19, 26, 1), dtype=np.float32),
        "style": random.random((1, 13, 22, 1), dtype=np.float32),
        "strength": np.float32(0.5),
    }
    side = int(warm_up_size)
    warm_up = {
        "content": (1, side, side, 1),
        "style": (1, side, side, 1),
        "strength": (1,),
    }
    if "encode_style" in signatures:
        examples["code"] = np.asarray(model.code_of(examples["style"]))
        warm_up["code"] = (1, *examples["code"].shape[1:])
    encoder = getattr(model, "encoder", None)
    facts = {
        "class": type(model).__name__,
        "preset": preset,
        "encoder": getattr(encoder, "name", None) or (type(encoder).__name__ if encoder else None),
        "layer": getattr(model, "layer", None),
        "stride": getattr(model, "stride", None),
    }
    return export_servable(
        signatures,
        folder,
        version,
        name="stylize",
        default=STYLIZE,
        examples=examples,
        warm_up=warm_up if side else None,
        model=facts,
    )


def export_servable(
    signatures: Mapping[str, Signature],
    folder: str | Path,
    version: int | None = None,
    *,
    name: str,
    default: str,
    examples: Mapping[str, np.ndarray],
    warm_up: Mapping[str, tuple[int, ...]] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Write a table of signatures as one version of a servable.

    The graph holds only operations of core TensorFlow, which every TensorFlow Serving registers,
    and only the variables that the signatures use. The version folder appears complete or not at
    all: everything is written beside it under a hidden name, loaded back through the session
    loader, run, compared with the functions it came from and only then renamed.
    ``assets.extra/tfstyle.json`` records units, ranges, the model and versions;
    ``assets.extra/tf_serving_warmup_requests`` holds one request for each signature, which servers
    run before they call the version available.

    Args:
        signatures: Signature name to signature.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.
        name: The servable's name, as its warm-up requests give it.
        default: The signature that ``serving_default`` repeats.
        examples: Input name to an array of that input, for the comparison.
        warm_up: Input name to its shape in the warm-up records; no records unless given.
        model: Facts of the model for the metadata.

    Returns:
        The version folder.

    Raises:
        ArgumentError: ``version`` is no whole number of at least 1, or a function cannot be
            traced with unknown sizes.
        OutputError: The folder cannot be written, the version exists, the graph has operations
            that a model server lacks, or it does not give what the functions give.
    """
    _check_version(version)
    base = Path(folder)
    if version is not None and (base / str(version)).exists():
        raise OutputError(
            base / str(version),
            "exists already; servers may be using it. Choose another version, or leave it out "
            "for the next free one",
        )
    try:
        base.mkdir(parents=True, exist_ok=True)
        remove_abandoned(base)
        with temporary_beside(base / "export", folder=True) as temporary:
            _write(signatures, temporary, name, default, model or {})
            if warm_up is not None:
                _write_warm_up(signatures, temporary, name, default, warm_up)
            _check(signatures, temporary, name, examples)
            target = _publish(temporary, base, version)
    except OSError as error:
        raise OutputError.of(base, error) from error
    logger.info("exported %s", target)
    return target


def read_metadata(version_folder: str | Path) -> dict[str, Any]:
    """What an export says about itself.

    Args:
        version_folder: For example ``saved_models/stylize/1``.

    Returns:
        The contents of ``assets.extra/tfstyle.json``: ``format``, ``created``, ``model``,
        ``versions``, ``signatures`` (with units and ranges), ``operations``, ``parameters``.

    Raises:
        InputFileError: The file is missing or is not one of tfstyle's.
    """
    path = Path(version_folder) / "assets.extra" / METADATA_FILE
    try:
        data = read_json(path)
    except InputFileError:
        raise
    except FileNotFoundError:
        raise InputFileError(
            path, "no such file; this SavedModel was not exported by tfstyle"
        ) from None
    except (OSError, ValueError) as error:
        raise InputFileError(path, f"cannot be read ({error}); export the model again") from error
    if not isinstance(data, dict) or not str(data.get("format", "")).startswith(
        "tfstyle-servable/"
    ):
        raise InputFileError(path, "is not tfstyle's servable metadata; export the model again")
    return data


def graph_operations(version_folder: str | Path) -> list[str]:
    """Names of all operations in a SavedModel's serving graph and its functions, sorted.

    Args:
        version_folder: The folder with ``saved_model.pb``.

    Raises:
        InputFileError: ``saved_model.pb`` is missing or damaged.
    """
    meta_graph = read_meta_graph(Path(version_folder))
    functions = {f.signature.name for f in meta_graph.graph_def.library.function}
    operations = {node.op for node in meta_graph.graph_def.node}
    for function in meta_graph.graph_def.library.function:
        operations.update(node.op for node in function.node_def)
    return sorted(operations - functions)


def _check_version(version: int | None) -> None:
    if version is not None and (
        isinstance(version, bool) or not isinstance(version, int) or version < 1
    ):
        raise ArgumentError(f"version: must be a whole number of at least 1, received {version!r}")


def _write(
    signatures: Mapping[str, Signature],
    folder: Path,
    name: str,
    default: str,
    model: Mapping[str, Any],
) -> None:
    import tensorflow as tf

    functions = {key: _trace(key, signature) for key, signature in signatures.items()}
    servable = tf.Module(name=name)
    # tf.saved_model.save keeps what the module holds: the captured variables alone, without the
    # optimizer's state and without Keras' own description of the model.
    variables = {id(v): v for f in functions.values() for v in f.graph.variables}
    servable.model_variables = list(variables.values())
    try:
        tf.saved_model.save(
            servable,
            str(folder),
            signatures={DEFAULT_SIGNATURE: functions[default], **functions},
        )
    except tf.errors.OpError as error:
        raise OutputError.of(folder.parent, error) from error
    operations = graph_operations(folder)
    foreign = [op for op in operations if not hasattr(tf.raw_ops, op) or op in _PYTHON_OPS]
    if foreign:
        raise OutputError(
            folder.parent,
            f"the model uses operations that TensorFlow Serving cannot run: {', '.join(foreign)}",
        )
    described = {key: signature.describe() for key, signature in signatures.items()}
    described[DEFAULT_SIGNATURE] = {**described[default], "same_as": default}
    description = {
        "format": METADATA_FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": dict(model),
        "versions": {
            **{package: _version_of(package) for package in ("tensorflow", "keras", "numpy")},
            "tfstyle": _tfstyle_version(),
            "python": platform.python_version(),
        },
        "signatures": described,
        "operations": operations,
        "parameters": int(sum(np.prod(v.shape) for v in servable.model_variables)),
        "intended_use": "research and development; not for diagnosis",
    }
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / METADATA_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _trace(name: str, signature: Signature) -> Any:
    """The concrete function of a signature, its guard before it."""
    import tensorflow as tf

    def guarded(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return signature.function(*(signature.guard(*tensors) if signature.guard else tensors))

    specs = [tensor.spec(key) for key, tensor in signature.inputs.items()]
    try:
        function = tf.function(guarded, input_signature=specs, autograph=False)
        return function.get_concrete_function()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: its signature '{name}' cannot be traced with unknown sizes: {error}"
        ) from error


def _write_warm_up(
    signatures: Mapping[str, Signature],
    folder: Path,
    name: str,
    default: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """One request for each signature, as TensorFlow Serving's SavedModel warm-up wants them.

    Each tensor is its shape and a single value, which stands for all: what a warm-up prepares
    depends on sizes alone, and the file stays small.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    records = []
    # serving_default has the same graph, but a server prepares it anew.
    for key, signature in {DEFAULT_SIGNATURE: signatures[default], **signatures}.items():
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = key
        for tensor_name, tensor in signature.inputs.items():
            proto = tf.make_tensor_proto(
                0.5, dtype=tf.as_dtype(tensor.dtype), shape=shapes[tensor_name]
            )
            request.inputs[tensor_name].CopyFrom(proto)
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(request)
        records.append(log.SerializeToString())
    path = folder / "assets.extra" / WARM_UP_FILE
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.OpError as error:
        raise OutputError.of(folder.parent, error) from error


def _version_of(package: str) -> str | None:
    try:
        return importlib_metadata.version(package)
    except importlib_metadata.PackageNotFoundError:
        return None


def _tfstyle_version() -> str:
    import tfstyle

    return tfstyle.__version__


def _check(
    signatures: Mapping[str, Signature],
    folder: Path,
    name: str,
    examples: Mapping[str, np.ndarray],
) -> None:
    """Loads the export as a server would and compares it with the functions it came from."""
    import tensorflow as tf

    try:
        servable = Servable(name, 0, folder)
    except InputFileError as error:
        raise OutputError(folder.parent, f"the export {error.problem}") from error
    try:
        for key, signature in signatures.items():
            inputs = {k: examples[k] for k in signature.inputs}
            expected = signature.function(*(tf.constant(value) for value in inputs.values()))
            served = servable.run(key, inputs)
            for output, value in expected.items():
                _compare(folder.parent, key, served[output], np.asarray(value))
    finally:
        servable.close()


def _compare(base: Path, signature: str, served: np.ndarray, expected: np.ndarray) -> None:
    same = served.shape == expected.shape
    difference = float("nan")
    if same:
        difference = float(np.max(np.abs(served.astype(np.float64) - expected.astype(np.float64))))
    # Gray levels and probabilities lie in [0, 1]; codes are larger and differ in proportion.
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    if not difference <= _CHECK_TOLERANCE * scale:
        raise OutputError(
            base,
            f"the exported signature '{signature}' differs from the model (largest difference "
            f"{difference:g}); nothing was exported",
        )


def _publish(temporary: Path, base: Path, version: int | None) -> Path:
    """Renames the complete export to its version folder in one step."""
    while True:
        number = version
        if number is None:
            # Names alone count here: a file called 1 also stands in the way.
            numbers = [int(p.name) for p in base.iterdir() if p.name.isdecimal()]
            number = max(numbers, default=0) + 1
        target = base / str(number)
        try:
            # A rename onto an existing folder replaces it when it is empty, hence the test.
            if target.exists():
                raise FileExistsError(target)
            os.rename(temporary, target)
        except OSError as error:
            taken = target.exists()
            if taken and version is None:
                continue  # another export took this number; take the next
            if taken:
                raise OutputError(target, "exists already; choose another version") from error
            raise
        return target
