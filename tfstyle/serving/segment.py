"""Export of a segmentation model: ``saved_models/unet/<version>/`` with the signature segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.serving.export import (
    describe_servable,
    export_servable,
    write_metadata,
    write_servable,
)
from tfstyle.serving.servable import DEFAULT_SIGNATURE, Servable

if TYPE_CHECKING:
    from tfstyle.segmentation import UNet

SEGMENT = "segment"

# Largest difference of a probability between the model and its export.
_CHECK_TOLERANCE = 1e-3

_IMAGE = {
    "dtype": "float32",
    "range": [0.0, 1.0],
    "units": "display gray level: a scan after its window, 0 black, 1 white",
    "shape": ["batch", "height", "width", 1],
    "meaning": "images to segment; any height and width of at least 1",
}


def export_unet(
    model: UNet, folder: str | Path = "saved_models/unet", version: int | None = None
) -> Path:
    """Export a U-Net as a servable SavedModel.

    The signatures ``segment`` and ``serving_default`` take ``image``, float32 (B, H, W, 1) in
    [0, 1] of any size, and give ``mask``, int32 (B, H, W, 1), the most probable class of every
    pixel, and ``probabilities``, float32 (B, H, W, classes). The graph refuses empty images and
    values that are not finite; see :func:`tfstyle.serving.export_stylize` for the rest.

    Args:
        model: The model; anything with its ``probabilities(images)`` and ``classes``.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.

    Returns:
        The version folder, for example ``saved_models/unet/1``.

    Raises:
        ArgumentError: ``version`` is no whole number of at least 1, or ``model`` cannot segment.
        OutputError: The folder cannot be written, the version exists, or the exported graph does
            not work as the model does.

    Example:
        >>> export_unet(tfstyle.segmentation.UNet.load("unet.keras"))  # doctest: +SKIP
        PosixPath('saved_models/unet/1')
    """
    if not callable(getattr(model, "probabilities", None)):
        raise ArgumentError(
            f"model: {type(model).__name__} has no probabilities(images); give a "
            "tfstyle.segmentation.UNet"
        )
    return export_servable(lambda target: _write(model, target), folder, version)


def _write(model: UNet, folder: Path) -> None:
    try:
        function = _trace(model)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: its probabilities() cannot be traced with unknown sizes: {error}"
        ) from error
    signatures = {SEGMENT: function, DEFAULT_SIGNATURE: function}
    variables, operations = write_servable(folder, "unet", signatures)
    described = {
        "inputs": {"image": _IMAGE},
        "outputs": {
            "mask": {
                "dtype": "int32",
                "range": [0, model.classes - 1],
                "units": "class number",
                "shape": ["batch", "height", "width", 1],
                "meaning": "most probable class of every pixel",
            },
            "probabilities": {
                "dtype": "float32",
                "range": [0.0, 1.0],
                "units": "1",
                "shape": ["batch", "height", "width", model.classes],
                "meaning": "probability of every class; sums to 1",
            },
        },
    }
    facts = {"class": type(model).__name__, **model.get_config()}
    names = {SEGMENT: described, DEFAULT_SIGNATURE: {**described, "same_as": SEGMENT}}
    write_metadata(folder, describe_servable(facts, names, operations, variables))
    _check(model, folder)


def _trace(model: UNet) -> Any:
    import tensorflow as tf

    def segment(image: tf.Tensor) -> dict[str, tf.Tensor]:
        size = tf.shape(image)
        there = tf.debugging.Assert(
            tf.reduce_all(size > 0), ["image: is empty; its shape is", size], summarize=4
        )
        with tf.control_dependencies([there]):
            image = tf.debugging.check_numerics(image, "image")
        probabilities = model.probabilities(image)
        mask = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"mask": mask[..., None], "probabilities": probabilities}

    spec = tf.TensorSpec([None, None, None, 1], tf.float32, name="image")
    return tf.function(segment, input_signature=[spec], autograph=False).get_concrete_function()


def _check(model: UNet, folder: Path) -> None:
    """Loads the export as a server would and compares it with the model."""
    import tensorflow as tf

    image = np.random.default_rng(0).random((2, 19, 26, 1), dtype=np.float32)
    expected = np.asarray(model.probabilities(tf.constant(image)))
    try:
        servable = Servable("unet", 0, folder)
    except InputFileError as error:
        raise OutputError(folder.parent, f"the export {error.problem}") from error
    try:
        for name in (SEGMENT, DEFAULT_SIGNATURE):
            served = servable.run(name, {"image": image})
            found = served["probabilities"]
            same = found.shape == expected.shape
            difference = float(np.max(np.abs(found - expected))) if same else float("nan")
            agrees = np.array_equal(served["mask"][..., 0], found.argmax(axis=-1))
            if not difference <= _CHECK_TOLERANCE or not agrees:
                raise OutputError(
                    folder.parent,
                    f"the exported signature '{name}' differs from the model (largest difference "
                    f"{difference:g}); nothing was exported",
                )
    finally:
        servable.close()
