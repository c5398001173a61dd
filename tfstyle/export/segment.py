"""Export of a segmentation model: ``saved_models/unet/<version>/`` with the signature segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.errors import ArgumentError
from tfstyle.export.saved_model import export_servable
from tfstyle.export.signatures import GRAY, SEGMENT, Signature, Tensor

if TYPE_CHECKING:
    import tensorflow as tf

    from tfstyle.segmentation import UNet

IMAGE = Tensor(
    ("batch", "height", "width", 1), "images to segment; any height and width of at least 1", GRAY
)


def export_unet(
    model: UNet,
    folder: str | Path = "saved_models/unet",
    version: int | None = None,
    *,
    warm_up_size: int = 256,
) -> Path:
    """Export a U-Net as a servable SavedModel.

    The signatures ``segment`` and ``serving_default`` take ``image``, float32 (B, H, W, 1) in
    [0, 1] of any size, and give ``mask``, int32 (B, H, W, 1), the most probable class of every
    pixel, and ``probabilities``, float32 (B, H, W, classes). The graph refuses empty images and
    values that are not finite; see :func:`tfstyle.export.export_stylize` for the rest.

    Args:
        model: The model; anything with its ``probabilities(images)`` and ``classes``.
        folder: The servable's base path; made if missing.
        version: Version number, at least 1; the next free one unless given.
        warm_up_size: Side of the image in the warm-up request; 0 writes none.

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
    image = np.random.default_rng(0).random((2, 19, 26, 1), dtype=np.float32)
    return export_servable(
        {SEGMENT: segment_signature(model)},
        folder,
        version,
        name="unet",
        default=SEGMENT,
        examples={"image": image},
        warm_up={"image": (1, warm_up_size, warm_up_size, 1)} if warm_up_size else None,
        model={"class": type(model).__name__, **model.get_config()},
    )


def segment_signature(model: UNet) -> Signature:
    """The signature ``segment`` of a model."""
    import tensorflow as tf

    def segment(image: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = model.probabilities(image)
        mask = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"mask": mask[..., None], "probabilities": probabilities}

    def guard(image: tf.Tensor) -> tuple[tf.Tensor]:
        size = tf.shape(image)
        there = tf.debugging.Assert(
            tf.reduce_all(size > 0), ["image: is empty; its shape is", size], summarize=4
        )
        with tf.control_dependencies([there]):
            return (tf.debugging.check_numerics(image, "image"),)

    sizes = "batch", "height", "width"
    classes = int(model.classes)
    return Signature(
        inputs={"image": IMAGE},
        outputs={
            "mask": Tensor(
                (*sizes, 1),
                "most probable class of every pixel",
                "class number",
                range=(0, classes - 1),
                dtype="int32",
            ),
            "probabilities": Tensor(
                (*sizes, classes), "probability of every class; sums to 1", "1"
            ),
        },
        function=segment,
        guard=guard,
    )
