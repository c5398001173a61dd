"""SavedModel export in TensorFlow Serving's layout: ``<folder>/<version>/``."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Callable
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.serving.servable import DEFAULT_SIGNATURE, SERVE_TAG, Servable

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    from tfstyle.style_transfer import StyleTransfer

logger = logging.getLogger(__name__)

STYLIZE = "stylize"
STYLIZE_STRENGTH = "stylize_strength"
STYLIZE_PLAIN = "stylize_plain"
STYLIZE_PLAIN_STRENGTH = "stylize_plain_strength"
# By detail: the signature without and the one with strength.
_NAMES = {
    "guided": (STYLIZE, STYLIZE_STRENGTH),
    "plain": (STYLIZE_PLAIN, STYLIZE_PLAIN_STRENGTH),
}
METADATA_FILE = "tfstyle.json"
METADATA_FORMAT = "tfstyle-servable/1"

# These are registered only inside a Python process, so no model server can run them.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})

# Largest difference allowed between the model and its export, loaded back, on random images.
# A damaged export is wrong by far more; a GPU's lower-precision convolutions stay below it.
_CHECK_TOLERANCE = 1e-3

_IMAGE = {
    "dtype": "float32",
    "range": [0.0, 1.0],
    "units": "display gray level: a scan after its window, 0 black, 1 white",
}
_CONTENT = {
    **_IMAGE,
    "shape": ["batch", "height", "width", 1],
    "meaning": "images whose anatomy is kept; any height and width of at least 1",
}
_STYLE = {
    **_IMAGE,
    "shape": ["batch or 1", "style height", "style width", 1],
    "meaning": "images whose gray-scale style is taken; one for all contents, or one for each",
}
_GENERATED = {
    **_IMAGE,
    "shape": ["batch", "height", "width", 1],
    "meaning": "the content images in the style's gray scale",
}
_STRENGTH = {
    "dtype": "float32",
    "range": [0.0, 1.0],
    "units": "1",
    "shape": "scalar, [1] or [batch]",
    "meaning": "0 keeps the content's own feature statistics, 1 takes the style's in full",
}
_SIGNATURES = {
    STYLIZE: {
        "inputs": {"content": _CONTENT, "style": _STYLE},
        "outputs": {"generated": _GENERATED},
    },
    DEFAULT_SIGNATURE: {
        "inputs": {"content": _CONTENT, "style": _STYLE},
        "outputs": {"generated": _GENERATED},
        "same_as": STYLIZE,
    },
    STYLIZE_STRENGTH: {
        "inputs": {"content": _CONTENT, "style": _STYLE, "strength": _STRENGTH},
        "outputs": {"generated": _GENERATED},
    },
    STYLIZE_PLAIN: {
        "inputs": {"content": _CONTENT, "style": _STYLE},
        "outputs": {"generated": _GENERATED},
        "detail": "plain: the decoder's image; the others give the content's own pixels",
    },
    STYLIZE_PLAIN_STRENGTH: {
        "inputs": {"content": _CONTENT, "style": _STYLE, "strength": _STRENGTH},
        "outputs": {"generated": _GENERATED},
        "detail": "plain",
    },
}


def export_stylize(
    model: StyleTransfer,
    folder: str | Path = "saved_models/stylize",
    version: int | None = None,
    *,
    preset: str | None = None,
) -> Path:
    """Export a style transfer model as a servable SavedModel.

    Signatures, all with dynamic batch, height and width, float32 images in [0, 1]:

    - ``stylize`` and ``serving_default``: ``content`` (B, H, W, 1) and ``style`` (B or 1, H', W',
      1) to ``generated`` (B, H, W, 1). A style batch of 1 is broadcast over the contents.
    - ``stylize_strength``: also takes ``strength``, one value or one for each content, in [0, 1].
    - ``stylize_plain`` and ``stylize_plain_strength``: the same with ``detail="plain"``; the
      signatures above are guided. See :meth:`tfstyle.StyleTransfer.stylize`.

    The graph checks its inputs itself, so every server answers INVALID_ARGUMENT for NaN or
    infinite values, empty images and a style batch that does not fit. It holds only operations
    of core TensorFlow and only the variables that generation uses.

    The version folder appears complete or not at all: everything is written beside it under a
    hidden name, loaded back through the session loader, run, compared with the model and only
    then renamed. ``assets.extra/tfstyle.json`` records units, ranges, the model and versions.

    Args:
        model: The model; anything with its ``generate(content, style, strength, detail)``.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.
        preset: Name of the preset that the model came from, for the metadata.

    Returns:
        The version folder, for example ``saved_models/stylize/1``.

    Raises:
        ArgumentError: ``version`` is no whole number of at least 1, or ``model`` cannot generate.
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
    return export_servable(lambda target: _write(model, target, preset), folder, version)


def export_servable(
    write: Callable[[Path], None], folder: str | Path, version: int | None = None
) -> Path:
    """Publishes a SavedModel as a version folder that is complete or not there.

    Args:
        write: Writes the SavedModel into the empty folder that it is given, and checks it; see
            :func:`write_servable`.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.

    Returns:
        The version folder.

    Raises:
        ArgumentError: ``version`` is no whole number of at least 1.
        OutputError: The folder cannot be written or the version exists.
    """
    if version is not None and (
        isinstance(version, bool) or not isinstance(version, int) or version < 1
    ):
        raise ArgumentError(f"version: must be a whole number of at least 1, received {version!r}")
    base = Path(folder)
    if version is not None and (base / str(version)).exists():
        raise OutputError(
            base / str(version),
            "exists already; servers may be using it. Choose another version, or leave it out "
            "for the next free one",
        )
    temporary = base / f".export-{uuid.uuid4().hex}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            write(temporary)
            target = _publish(temporary, base, version)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            base, f"the SavedModel cannot be written here ({error.strerror or error})"
        ) from error
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
        data = json.loads(path.read_text(encoding="utf-8"))
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
    meta_graph = _read_meta_graph(Path(version_folder))
    functions = {f.signature.name for f in meta_graph.graph_def.library.function}
    operations = {node.op for node in meta_graph.graph_def.node}
    for function in meta_graph.graph_def.library.function:
        operations.update(node.op for node in function.node_def)
    return sorted(operations - functions)


def _read_meta_graph(version_folder: Path) -> MetaGraphDef:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = version_folder / "saved_model.pb"
    saved_model = SavedModel()
    try:
        saved_model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror or error})") from error
    except DecodeError as error:
        raise InputFileError(path, "is damaged; export the model again") from error
    for meta_graph in saved_model.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    raise InputFileError(path, f"holds no graph with the tag '{SERVE_TAG}'")


def _write(model: StyleTransfer, folder: Path, preset: str | None) -> None:
    try:
        functions = _trace(model)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: its generate() cannot be traced with unknown sizes: {error}"
        ) from error
    variables, operations = write_servable(
        folder, "stylize", {DEFAULT_SIGNATURE: functions[STYLIZE], **functions}
    )
    write_metadata(folder, _describe(model, preset, operations, variables))
    _check(model, folder)


def write_servable(folder: Path, name: str, signatures: dict[str, Any]) -> tuple[list, list[str]]:
    """Saves concrete functions with what they use, and refuses what no model server can run.

    Args:
        folder: An empty folder.
        name: Name of the module in the graph.
        signatures: Signature names and concrete functions.

    Returns:
        The variables saved, and the names of all operations.

    Raises:
        OutputError: The folder cannot be written, or an operation is not TensorFlow's own.
    """
    import tensorflow as tf

    servable = tf.Module(name=name)
    # tf.saved_model.save keeps what the module holds: the captured variables alone, without the
    # optimizer's state and without Keras' own description of the model.
    variables = {id(v): v for f in signatures.values() for v in f.graph.variables}
    servable.model_variables = list(variables.values())
    try:
        tf.saved_model.save(servable, str(folder), signatures=signatures)
    except tf.errors.OpError as error:
        raise OutputError(
            folder.parent, f"the SavedModel cannot be written here ({error.message})"
        ) from error
    operations = graph_operations(folder)
    foreign = [op for op in operations if not hasattr(tf.raw_ops, op) or op in _PYTHON_OPS]
    if foreign:
        raise OutputError(
            folder.parent,
            f"the model uses operations that TensorFlow Serving cannot run: {', '.join(foreign)}",
        )
    return servable.model_variables, operations


def write_metadata(folder: Path, description: dict[str, Any]) -> None:
    """Writes what :func:`read_metadata` reads."""
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / METADATA_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _trace(model: StyleTransfer) -> dict[str, Any]:
    """Signature names and their concrete functions."""
    import tensorflow as tf

    def image(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None, None, None, 1], tf.float32, name=name)

    def pair(detail: str) -> tuple[Callable, Callable]:
        def stylize(content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
            content, style = _checked_images(content, style)
            return {"generated": model.generate(content, style, None, detail)}

        def stylize_strength(
            content: tf.Tensor, style: tf.Tensor, strength: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            content, style = _checked_images(content, style)
            strength = _checked_strength(strength, tf.shape(content)[0])
            return {"generated": model.generate(content, style, strength, detail)}

        return stylize, stylize_strength

    def concrete(function: Callable, *specs: tf.TensorSpec) -> Any:
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()

    images = image("content"), image("style")
    strength = tf.TensorSpec(None, tf.float32, name="strength")
    functions = {}
    for detail, (name, name_strength) in _NAMES.items():
        stylize, stylize_strength = pair(detail)
        functions[name] = concrete(stylize, *images)
        functions[name_strength] = concrete(stylize_strength, *images, strength)
    return functions


def _checked_images(content: tf.Tensor, style: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The same tensors behind the graph's own checks, so that every server refuses bad input."""
    import tensorflow as tf

    contents, styles = tf.shape(content), tf.shape(style)
    checks = [
        _assert(tf.reduce_all(contents > 0), "content: is empty; its shape is", contents),
        _assert(tf.reduce_all(styles > 0), "style: is empty; its shape is", styles),
        _assert(
            tf.logical_or(tf.equal(styles[0], 1), tf.equal(styles[0], contents[0])),
            "style: must hold one image, or as many as content; batch sizes of style and content",
            styles[0],
            contents[0],
        ),
    ]
    with tf.control_dependencies(checks):
        return (
            tf.debugging.check_numerics(content, "content"),
            tf.debugging.check_numerics(style, "style"),
        )


def _checked_strength(strength: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """One value or one an image, as (1 or B, 1, 1, 1)."""
    import tensorflow as tf

    values = tf.reshape(strength, [-1])
    count = tf.size(values)
    fits = tf.logical_or(tf.equal(count, 1), tf.equal(count, images))
    in_range = tf.reduce_all(tf.logical_and(values >= 0.0, values <= 1.0))  # False for NaN
    checks = [
        _assert(fits, "strength: must be one value, or one for each content; values given", count),
        _assert(in_range, "strength: must lie in [0, 1]"),
    ]
    with tf.control_dependencies(checks):
        return tf.reshape(values, [-1, 1, 1, 1])


def _assert(condition: tf.Tensor, message: str, *values: tf.Tensor) -> Any:
    import tensorflow as tf

    # With text and int32 alone this is a single Assert operation, without a branch around it.
    return tf.debugging.Assert(condition, [message, *values], summarize=4)


def _describe(
    model: StyleTransfer, preset: str | None, operations: list[str], variables: list
) -> dict[str, Any]:
    encoder = getattr(model, "encoder", None)
    encoder_name = getattr(encoder, "name", None) or (type(encoder).__name__ if encoder else None)
    facts = {
        "class": type(model).__name__,
        "preset": preset,
        "encoder": encoder_name,
        "layer": getattr(model, "layer", None),
        "stride": getattr(model, "stride", None),
    }
    return describe_servable(facts, _SIGNATURES, operations, variables)


def describe_servable(
    model: dict[str, Any], signatures: dict[str, Any], operations: list[str], variables: list
) -> dict[str, Any]:
    """The metadata of a servable: what :func:`read_metadata` returns.

    Args:
        model: Facts about the model.
        signatures: Inputs and outputs of every signature, with units and ranges.
        operations: Names of all operations in the graph.
        variables: The variables saved.
    """
    return {
        "format": METADATA_FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": model,
        "versions": {
            **{name: _version_of(name) for name in ("tensorflow", "keras", "numpy")},
            "tfstyle": _tfstyle_version(),
            "python": platform.python_version(),
        },
        "signatures": signatures,
        "operations": operations,
        "parameters": int(sum(np.prod(v.shape) for v in variables)),
        "intended_use": "research and development; not for diagnosis",
    }


def _version_of(package: str) -> str | None:
    try:
        return importlib_metadata.version(package)
    except importlib_metadata.PackageNotFoundError:
        return None


def _tfstyle_version() -> str:
    import tfstyle

    return tfstyle.__version__


def _check(model: StyleTransfer, folder: Path) -> None:
    """Loads the export as a server would and compares it with the model."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    content = random.random((2, 19, 26, 1), dtype=np.float32)
    style = random.random((1, 13, 22, 1), dtype=np.float32)
    strength = np.float32(0.5)
    try:
        servable = Servable("stylize", 0, folder)
    except InputFileError as error:
        raise OutputError(folder.parent, f"the export {error.problem}") from error
    try:
        inputs = {"content": content, "style": style}
        for detail, name, value in (
            (detail, name, value)
            for detail, names in _NAMES.items()
            for name, value in zip(names, (None, strength))
        ):
            expected = np.asarray(
                model.generate(tf.constant(content), tf.constant(style), value, detail)
            )
            given = inputs if value is None else {**inputs, "strength": value}
            served = servable.run(name, given)["generated"]
            same = served.shape == expected.shape
            difference = float(np.max(np.abs(served - expected))) if same else float("nan")
            if not difference <= _CHECK_TOLERANCE:
                raise OutputError(
                    folder.parent,
                    f"the exported signature '{name}' differs from the model (largest difference "
                    f"{difference:g}); nothing was exported",
                )
    finally:
        servable.close()


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
