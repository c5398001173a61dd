"""SavedModel export in TensorFlow Serving's layout: ``<folder>/<version>/``."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle._private.files import locked, read_json, remove_abandoned, temporary_beside
from tfstyle._private.images import checked_whole
from tfstyle._private.versions import package_versions
from tfstyle.errors import (
    SERVING_PACKAGES,
    ArgumentError,
    InputFileError,
    OutputError,
    require_packages,
    writing,
)
from tfstyle.export.servable import DEFAULT_SIGNATURE, Servable, read_meta_graph
from tfstyle.export.signatures import (
    SEGMENT,
    STYLIZE,
    Signature,
    segment_signature,
    stylize_signatures,
)

if TYPE_CHECKING:
    from tfstyle.segmentation import UNet

logger = logging.getLogger(__name__)

METADATA_FILE = "tfstyle.json"
METADATA_FORMAT = "tfstyle-servable/1"
# TensorFlow Serving's name for the requests that a version runs before it is available.
WARM_UP_FILE = "tf_serving_warmup_requests"

# These are registered only inside a Python process.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})

# Largest difference allowed between the model and its export, loaded back, on random images.
# A damaged export is wrong by far more; a GPU's lower-precision convolutions stay below it.
_CHECK_TOLERANCE = 1e-3


def export_stylize(
    model: Any,
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
    - ``encode_style``: ``style`` (B, H', W', 1) to ``code`` (B, *code_shape), to keep.
    - ``stylize_with_code``: ``content`` and ``code`` (B or 1, *code_shape) to ``generated``,
      without the work that the style would take.
    - ``stylize_strength``, ``stylize_with_code_strength``: also take ``strength``, one value or
      one for each content, in [0, 1].

    The graph checks its inputs itself, so every server answers INVALID_ARGUMENT for NaN or
    infinite values, gray levels outside [0, 1], empty images and a style batch that does not
    fit. See :func:`export_servable` for the rest.

    Args:
        model: A :class:`tfstyle.ToneTransfer`, :class:`tfstyle.StyleTransfer`, or anything else
            with ``generate(content, style, strength)``, and for the signatures with codes
            ``code_shape``, ``code_of(style)`` and ``generate_from_code(content, code, strength)``;
            see :func:`tfstyle.export.signatures.stylize_signatures`.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1. Defaults to the next free one.
        preset: Name of the preset that the model came from, for the metadata.
        warm_up_size: Height and width of the images in the warm-up records, in pixels; those that
            clients will send. 0 writes no records; else the extra ``serving`` is needed.

    Returns:
        The version folder, for example ``saved_models/stylize/1``.

    Raises:
        ArgumentError: ``version``, ``warm_up_size`` or ``model`` cannot be used.
        MissingPackageError: Warm-up records are wanted without the extra ``serving``.
        OutputError: The folder cannot be written, the version exists, or the exported graph
            does not work as the model does.

    Example:
        >>> export_stylize(tfstyle.from_preset(), "saved_models/stylize")   # doctest: +SKIP
        PosixPath('saved_models/stylize/1')
    """
    _check_method(model, "generate", "generate(content, style, strength)")
    side = checked_whole("warm_up_size", warm_up_size, 0)
    signatures = stylize_signatures(model)
    random = np.random.default_rng(0)
    examples: dict[str, np.ndarray] = {
        "content": random.random((2, 19, 26, 1), dtype=np.float32),
        "style": random.random((1, 13, 22, 1), dtype=np.float32),
        "strength": np.asarray(0.5, np.float32),
    }
    shapes = {"content": (1, side, side, 1), "style": (1, side, side, 1), "strength": (1,)}
    code_shape = getattr(model, "code_shape", None)
    if code_shape is not None:
        examples["code"] = np.asarray(model.code_of(examples["style"]))
        if examples["code"].shape != (1, *code_shape):
            raise ArgumentError(
                f"model: its code_shape must be that of code_of(), {examples['code'].shape[1:]}, "
                f"received {tuple(code_shape)}."
            )
        shapes["code"] = (1, *code_shape)
    return export_servable(
        signatures,
        folder,
        version,
        name="stylize",
        default=STYLIZE,
        examples=examples,
        warm_up=shapes if side else None,
        model={
            "class": type(model).__name__,
            "preset": preset,
            "code_shape": None if code_shape is None else list(code_shape),
        },
    )


def export_unet(
    model: UNet,
    folder: str | Path = "saved_models/unet",
    version: int | None = None,
    *,
    warm_up_size: int = 256,
) -> Path:
    """Export a U-Net as a servable SavedModel; see :func:`export_stylize` for arguments and errors.

    The signatures ``segment`` and ``serving_default`` take ``image``, float32 (B, H, W, 1) in
    [0, 1] of any size, and give ``mask``, int32 (B, H, W, 1), the most probable class of every
    pixel, and ``probabilities``, float32 (B, H, W, classes). The graph refuses empty images and
    values that are not finite or lie outside [0, 1]. The model may be anything with
    ``probabilities(images)`` and ``classes``.

    Example:
        >>> export_unet(tfstyle.segmentation.UNet.load("unet.keras"))  # doctest: +SKIP
        PosixPath('saved_models/unet/1')
    """
    _check_method(model, "probabilities", "probabilities(images)")
    side = checked_whole("warm_up_size", warm_up_size, 0)
    image = np.random.default_rng(0).random((2, 19, 26, 1), dtype=np.float32)
    return export_servable(
        {SEGMENT: segment_signature(model)},
        folder,
        version,
        name="unet",
        default=SEGMENT,
        examples={"image": image},
        warm_up={"image": (1, side, side, 1)} if side else None,
        model={"class": type(model).__name__, **model.get_config()},
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
        version: Version number, at least 1. Defaults to the next free one.
        name: The servable's name, as its warm-up requests give it.
        default: The signature that ``serving_default`` repeats.
        examples: Input name to an array of that input, for the comparison.
        warm_up: Input name to its shape in the warm-up records. Defaults to no records.
        model: Facts of the model for the metadata.

    Returns:
        The version folder.

    Raises:
        ArgumentError: ``version`` cannot be used, or a function cannot be traced with unknown
            sizes.
        MissingPackageError: Warm-up records are wanted without the extra ``serving``.
        OutputError: The folder cannot be written, the version exists, the graph has operations
            that a model server lacks, or it does not give what the functions give.
    """
    base = Path(folder)
    if version is not None:
        checked_whole("version", version, 1)
        _check_free(base / str(version))
    if warm_up is not None:
        require_packages(
            SERVING_PACKAGES, "serving", "an export with warm-up records (warm_up_size above 0)"
        )
    with writing(base), locked(base):
        remove_abandoned(base)
        with temporary_beside(base / "export", folder=True) as temporary:
            _write(signatures, temporary, name, default, model or {})
            if warm_up is not None:
                served = {DEFAULT_SIGNATURE: signatures[default], **signatures}
                _write_warm_up(served, temporary, name, warm_up)
            _check(signatures, temporary, examples)
            # Names alone count here: a file called 1 also stands in the way.
            numbers = [int(p.name) for p in base.iterdir() if p.name.isdecimal()]
            target = base / str(version or max(numbers, default=0) + 1)
            _check_free(target)
            os.rename(temporary, target)
    logger.info("exported %s", target)
    return target


def read_metadata(version_folder: str | Path) -> dict[str, Any]:
    """What an export, such as ``saved_models/stylize/1``, says about itself.

    Gives the contents of ``assets.extra/tfstyle.json``: ``format``, ``created``, ``model``,
    ``versions``, ``signatures`` (with units and ranges), ``parameters``. Raises an InputFileError
    if the file is missing or is not one of tfstyle's.
    """
    path = Path(version_folder) / "assets.extra" / METADATA_FILE
    try:
        data = read_json(path)
    except InputFileError:
        raise
    except FileNotFoundError:
        raise InputFileError(
            path, "no such file; this SavedModel was not exported by tfstyle."
        ) from None
    except (OSError, ValueError) as error:
        raise InputFileError(path, f"cannot be read ({error}); export the model again.") from error
    if not isinstance(data, dict) or not str(data.get("format", "")).startswith(
        "tfstyle-servable/"
    ):
        raise InputFileError(path, "is not tfstyle's servable metadata; export the model again.")
    return data


def graph_operations(version_folder: str | Path) -> list[str]:
    """Names of all operations in a SavedModel's serving graph and its functions, sorted."""
    graph = read_meta_graph(version_folder).graph_def
    functions = {f.signature.name for f in graph.library.function}
    operations = {node.op for node in graph.node}
    for function in graph.library.function:
        operations.update(node.op for node in function.node_def)
    return sorted(operations - functions)


def _check_method(model: Any, name: str, call: str) -> None:
    if not callable(getattr(model, name, None)):
        raise ArgumentError(f"model: must have {call}, received a {type(model).__name__}.")


def _check_free(target: Path) -> None:
    if target.exists():
        raise OutputError(
            target,
            "exists already; servers may be using it. Choose another version, or leave it out "
            "for the next free one.",
        )


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
    with writing(folder.parent, tf.errors.OpError):
        tf.saved_model.save(
            servable,
            str(folder),
            signatures={DEFAULT_SIGNATURE: functions[default], **functions},
        )
    known = set(dir(tf.raw_ops)) - _PYTHON_OPS
    if foreign := sorted(set(graph_operations(folder)) - known):
        raise OutputError(
            folder.parent,
            f"the model uses operations that TensorFlow Serving cannot run: {', '.join(foreign)}.",
        )
    described = {key: signature.describe() for key, signature in signatures.items()}
    described[DEFAULT_SIGNATURE] = {**described[default], "same_as": default}
    description = {
        "format": METADATA_FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": dict(model),
        "versions": package_versions(("tensorflow", "keras", "numpy")),
        "signatures": described,
        "parameters": int(sum(np.prod(v.shape) for v in servable.model_variables)),
        "intended_use": "research and development; not for diagnosis",
    }
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / METADATA_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _trace(name: str, signature: Signature) -> Any:
    import tensorflow as tf

    def function(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return signature.function(*tensors)

    specs = [tensor.spec(key) for key, tensor in signature.inputs.items()]
    try:
        traced = tf.function(function, input_signature=specs, autograph=False)
        return traced.get_concrete_function()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: its signature '{name}' cannot be traced with unknown sizes: {error}"
        ) from error


def _write_warm_up(
    signatures: Mapping[str, Signature],
    folder: Path,
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """One request for each signature; a tensor is a shape and one value that stands for all."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    file = str(folder / "assets.extra" / WARM_UP_FILE)
    with writing(folder.parent, tf.errors.OpError), tf.io.TFRecordWriter(file) as writer:
        for key, signature in signatures.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, key
            for tensor_name, tensor in signature.inputs.items():
                request.inputs[tensor_name].CopyFrom(
                    tf.make_tensor_proto(0.5, tf.as_dtype(tensor.dtype), shapes[tensor_name])
                )
            writer.write(log.SerializeToString())


def _check(
    signatures: Mapping[str, Signature], folder: Path, examples: Mapping[str, np.ndarray]
) -> None:
    """Loads the export as a server would and compares it with the functions it came from."""
    import tensorflow as tf

    try:
        servable = Servable(folder)
    except InputFileError as error:
        raise OutputError(folder.parent, f"the export {error.problem}") from error
    with servable:
        for key, signature in signatures.items():
            inputs = {k: examples[k] for k in signature.inputs}
            expected = signature.function(*(tf.constant(value) for value in inputs.values()))
            served = servable.run(key, inputs)
            for output, value in expected.items():
                right, found = np.asarray(value, np.float64), served[output]
                difference = float("nan")
                if found.shape == right.shape:
                    difference = float(np.max(np.abs(found - right)))
                # Gray levels lie in [0, 1]; codes are larger and differ in proportion.
                scale = max(1.0, float(np.max(np.abs(right), initial=0.0)))
                if not difference <= _CHECK_TOLERANCE * scale:
                    raise OutputError(
                        folder.parent,
                        f"the exported signature '{key}' differs from the model (largest "
                        f"difference {difference:g}); nothing was exported.",
                    )
