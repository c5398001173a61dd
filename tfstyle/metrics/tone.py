"""Whether the tone is right: the distance to the content's own HU in the style's gray scale."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfstyle._private.images import as_batch
from tfstyle.errors import ArgumentError
from tfstyle.metrics.structure import PairMean, check_pairs

#: Names of the tissues, from dark to bright.
TISSUES = ("lung", "fat", "soft_tissue", "contrast", "bone")
#: HU at which the next tissue begins: lung and gas lie below the first, fat below the second,
#: soft tissue below the third, contrast agent and spongy bone below the fourth, bone above it.
TISSUE_LIMITS = (-300.0, -20.0, 100.0, 300.0)
#: A tissue with fewer pixels in an image counts as absent there.
LEAST_PIXELS = 50


def tone_errors(y_true, y_pred, hu, mask=None):
    """Mean absolute difference to the right gray levels, by tissue, for batches and in graphs.

    For CT the right answer of a transfer is known: the content's own HU in the style's gray scale.
    With P_t the pixels of tissue t that count and T the tissues present::

        e_t = mean over P_t of |y_pred − y_true|,   balanced = mean over T of e_t

    so that a rare tissue, such as bone, weighs as much as a common one. A tissue of fewer than
    ``LEAST_PIXELS`` pixels counts as absent.

    Args:
        y_true: right answer, float tensor (B, H, W, 1) in [0, 1].
        y_pred: generated image, float tensor (B, H, W, 1) in [0, 1].
        hu: content in HU, tensor (B, H, W, 1); decides the tissue of each pixel.
        mask: bool tensor (B, H, W, 1) of the pixels that count: inside the body, and where the
            content's window has not clipped. All pixels by default.

    Returns:
        Dictionary of float32 tensors (B,): one for each name in ``TISSUES``, NaN where the tissue
        is absent; ``"balanced"``, NaN where all are; ``"all"``, the mean over all pixels that
        count, NaN where none does. Infinite where a counted pixel of `y_pred` is not finite.

    Raises:
        ArgumentError: shapes that differ or are not (B, H, W, 1), where they are static.

    Example:
        >>> tone_errors(images, images, 2000 * images - 1000)["balanced"]   # (B,)
        <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.], dtype=float32)>
    """
    y_true, y_pred, hu = (ops.convert_to_tensor(x) for x in (y_true, y_pred, hu))
    named = {"y_pred": y_pred, "hu": hu}
    if mask is not None:
        named["mask"] = mask = ops.convert_to_tensor(mask)
    for name, other in named.items():
        check_pairs(y_true, other, names=("y_true", name))
    y_true, y_pred, hu = (ops.cast(x, "float32") for x in (y_true, y_pred, hu))
    counted = ops.ones_like(hu, dtype="bool") if mask is None else ops.cast(mask, "bool")
    difference = ops.abs(y_pred - y_true)
    difference = ops.where(ops.isfinite(difference), difference, np.float32(np.inf))

    def mean(pixels, least):
        count = ops.sum(ops.cast(pixels, "float32"), axis=(1, 2, 3))
        total = ops.sum(ops.where(pixels, difference, 0.0), axis=(1, 2, 3))
        return ops.where(count >= least, total / ops.maximum(count, 1.0), np.float32(np.nan))

    edges = (-np.inf, *TISSUE_LIMITS, np.inf)
    errors = {}
    for name, low, high in zip(TISSUES, edges, edges[1:]):
        tissue = ops.logical_and(hu >= np.float32(low), hu < np.float32(high))
        errors[name] = mean(ops.logical_and(counted, tissue), LEAST_PIXELS)
    each = ops.stack(list(errors.values()), axis=-1)
    there = ops.logical_not(ops.isnan(each))
    present = ops.sum(ops.cast(there, "float32"), axis=-1)
    total = ops.sum(ops.where(there, each, 0.0), axis=-1)
    errors["balanced"] = ops.where(
        present > 0, total / ops.maximum(present, 1.0), np.float32(np.nan)
    )
    errors["all"] = mean(counted, 1)
    return errors


def tone_error(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    hu: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """:func:`tone_errors` of one image.

    Args:
        y_true: right answer, float array (H, W) or (H, W, 1) in [0, 1].
        y_pred: generated image, the same shape, in [0, 1].
        hu: content in HU, the same shape.
        mask: bool array of the same shape, the pixels that count; all by default.

    Returns:
        Dictionary of numbers, as there.

    Raises:
        ArgumentError: shapes that differ, gray levels outside [0, 1], values that are not finite,
            or an `hu` that holds gray levels.

    Example:
        >>> right = tfstyle.data.WINDOWS["bone"].to_unit(hu)
        >>> tone_error(right, right, hu)["balanced"]
        0.0
    """
    for value, name in ((y_true, "y_true"), (y_pred, "y_pred")):
        as_batch(value, name)
    counted = np.ones(np.shape(hu), bool) if mask is None else np.asarray(mask, bool)
    images = [*(np.asarray(image, np.float32) for image in (y_true, y_pred, hu)), counted]
    planes = [x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x for x in images]
    if planes[0].ndim != 2 or len({plane.shape for plane in planes}) > 1:
        raise ArgumentError(
            "y_true, y_pred, hu and mask: must have one shape (H, W), received "
            f"{', '.join(str(x.shape) for x in images)}."
        )
    inside = planes[2][planes[3]]
    if not np.isfinite(inside).all():
        raise ArgumentError("hu: must be finite where the mask is set, received NaN or infinity.")
    if inside.size and np.abs(inside).max() <= 1 and (inside % 1 != 0).any():
        raise ArgumentError(
            f"hu: must be in Hounsfield units, received values in [{inside.min():g}, "
            f"{inside.max():g}]."
        )
    batch = (plane[None, ..., None] for plane in planes)
    return {name: float(error[0]) for name, error in tone_errors(*batch).items()}


@keras.saving.register_keras_serializable(package="tfstyle")
class ToneError(PairMean):
    """Mean of the balanced :func:`tone_errors` over all images seen, as a Keras metric.

    ``y_true`` has the right answer and the content's HU as channels, and the pixels that count as
    a third where not all do: (B, H, W, 2) or (B, H, W, 3). ``sample_weight`` holds one weight an
    image, (B,), or a mask (B, H, W, 1) of the pixels that count. Images without any tissue are left
    out.

    Args:
        name: Defaults to ``"tone_error"``.
        dtype: Of the sum.

    Raises:
        ArgumentError: see :func:`tone_errors`.

    Example:
        >>> metric = ToneError()
        >>> right, body = images, np.ones_like(images)
        >>> y_true = np.concatenate([right, 2000 * images - 1000, body], axis=-1)
        >>> metric.update_state(y_true, images)
    """

    def __init__(self, name: str = "tone_error", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def scores(self, content, generated, mask=None):
        channels = content.shape[-1] if len(content.shape) == 4 else None
        if channels not in (2, 3):
            raise ArgumentError(
                "y_true: must be (B, H, W, 2), right answer and HU, or (B, H, W, 3) with the "
                f"mask, received {tuple(content.shape)}."
            )
        counted = None if channels == 2 else ops.cast(content[..., 2:], "bool")
        if mask is not None:
            counted = mask if counted is None else ops.logical_and(mask, counted)
        errors = tone_errors(content[..., :1], generated, content[..., 1:2], counted)
        return errors["balanced"]
