"""Checks of gray images that come from outside, as arrays and as tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfstyle.errors import ArgumentError

if TYPE_CHECKING:
    import tensorflow as tf

#: How far rounding may carry a gray level out of [0, 1].
RANGE_TOLERANCE = 1e-3

SHAPE = "must be (B, H, W, 1), received shape"
NOT_FINITE = "holds NaN or infinite values; replace them first."
OUTSIDE = "values must lie between 0 and 1;"
WINDOW = "apply a window first (tfstyle.data.windows)."


def as_batch(image: npt.ArrayLike, argument: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Checks an image or a batch of images.

    Args:
        image: numeric array (H, W), (H, W, 1) or (B, H, W, 1), gray levels in [0, 1].
        argument: What to call it in an error.

    Returns:
        The images as float32 (B, H, W, 1), and the shape that `image` had.

    Raises:
        ArgumentError: wrong shape, empty, not finite, or gray levels outside [0, 1].

    Example:
        >>> as_batch(np.zeros((4, 5)), "content")[0].shape
        (1, 4, 5, 1)
    """
    try:
        array = np.asarray(image, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{argument}: not a numeric array ({error}).") from None
    shape = array.shape
    if array.ndim == 2:
        batch = array[None, :, :, None]
    elif array.ndim == 3 and shape[-1] == 1:
        batch = array[None]
    elif array.ndim == 4 and shape[-1] == 1:
        batch = array
    else:
        raise ArgumentError(
            f"{argument}: shape {shape} is not (H, W), (H, W, 1) or (B, H, W, 1); scans of several "
            "slices are given as (slices, H, W, 1)."
        )
    if 0 in shape:
        raise ArgumentError(f"{argument}: is empty, shape {shape}.")
    check_range(array, argument)
    return batch, shape


def check_range(array: np.ndarray, argument: str, remedy: str = WINDOW) -> None:
    """Refuses an array that holds NaN or values outside [0, 1]; any shape, not empty.

    Raises:
        ArgumentError: naming `argument`.
    """
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ArgumentError(f"{argument}: {NOT_FINITE}")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ArgumentError(
            f"{argument}: values lie in [{low:g}, {high:g}], not in [0, 1]; {remedy}"
        )


def gray_tensor(images: Any, argument: str) -> tf.Tensor:
    """Checks a batch of images as a tensor, in eager code and in graphs.

    Args:
        images: float tensor or array (B, H, W, 1), gray levels in [0, 1]; sizes may be unknown.
        argument: What to call it in an error.

    Returns:
        float32 tensor (B, H, W, 1), in a graph behind an assertion of :func:`checked_gray`.

    Raises:
        ArgumentError: ragged or sparse batches, integers, a wrong shape; and, in eager code, NaN,
            infinite values, and gray levels outside [0, 1].

    Example:
        >>> gray_tensor(np.zeros((2, 4, 5, 1)), "content").dtype
        tf.float32
    """
    import tensorflow as tf

    if isinstance(images, (tf.RaggedTensor, tf.SparseTensor)):
        raise ArgumentError(
            f"{argument}: must be a dense tensor, received a {type(images).__name__}; crop or pad "
            "the images of a batch to one size first."
        )
    try:
        tensor = tf.convert_to_tensor(images)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{argument}: not a numeric tensor ({error}).") from None
    if not tensor.dtype.is_floating:
        raise ArgumentError(
            f"{argument}: must be float gray levels in [0, 1], received {tensor.dtype.name}; apply "
            "a window, or divide by the value of white, first."
        )
    shape = tensor.shape
    if shape.rank not in (None, 4) or (shape.rank == 4 and shape[-1] not in (None, 1)):
        raise ArgumentError(f"{argument}: {SHAPE} {shape}.")
    if shape.rank is None or shape[-1] is None:
        sizes = tf.shape(tensor)
        fits = tf.equal(tf.size(sizes), 4) & tf.reduce_all(tf.equal(sizes[-1:], 1))
        check = tf.debugging.Assert(fits, [f"{argument}: {SHAPE}", sizes], summarize=8)
        with tf.control_dependencies([check]):
            tensor = tf.ensure_shape(tf.identity(tensor), (None, None, None, 1))
    return checked_gray(tf.cast(tensor, tf.float32), argument)


def checked_gray(images: tf.Tensor, argument: str, remedy: str = WINDOW) -> tf.Tensor:
    """Refuses a float tensor that holds NaN or values outside [0, 1]; any shape.

    In eager code an error is raised here. In a graph the result stands behind an assertion, which
    fails as ``tf.errors.InvalidArgumentError`` when the graph runs; XLA compiles no assertions, so
    that the check belongs in front of what XLA compiles.

    Returns:
        `images` themselves.

    Raises:
        ArgumentError: in eager code.
    """
    import tensorflow as tf

    finite = tf.reduce_all(tf.math.is_finite(images))
    outside = tf.reduce_any((images < -RANGE_TOLERANCE) | (images > 1 + RANGE_TOLERANCE))
    if tf.executing_eagerly():
        if outside or not finite:
            check_range(np.asarray(images), argument, remedy)
        return images
    # Whole numbers: an assertion that shows text and int32 alone is one operation, no branch.
    low, high = tf.floor(tf.reduce_min(images)), tf.math.ceil(tf.reduce_max(images))
    limits = [tf.cast(tf.clip_by_value(value, -1e9, 1e9), tf.int32) for value in (low, high)]
    check = tf.debugging.Assert(finite, [f"{argument}: {NOT_FINITE}"])
    with tf.control_dependencies([check]):
        problem = f"{argument}: {OUTSIDE} {remedy} Lowest and highest:"
        check = tf.debugging.Assert(tf.logical_not(outside), [problem, *limits], summarize=4)
    with tf.control_dependencies([check]):
        return tf.identity(images)


def pair_of(inputs: Any) -> tuple[Any, Any]:
    """Content and style of ``{"content": …, "style": …}``, or of the two in a list or tuple.

    Raises:
        ArgumentError: anything else.
    """
    if isinstance(inputs, Mapping) and {"content", "style"} <= {*inputs}:
        return inputs["content"], inputs["style"]
    if isinstance(inputs, (list, tuple)) and len(inputs) == 2:
        return inputs[0], inputs[1]
    received = (
        ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
    )
    raise ArgumentError(
        "inputs: must be a dictionary with 'content' and 'style', or the two in a list, received "
        f"{received}."
    )


def gray_error(error: Exception) -> ArgumentError | None:
    """The refusal of :func:`checked_gray` in a graph's error; None where it tells of another."""
    found = re.search(r"assertion failed: \[(\w+: [^\[\]]*)\]((?: \[[-\d ]*\])*)", str(error))
    if found is None or not any(part in found[1] for part in (SHAPE, NOT_FINITE, OUTSIDE)):
        return None
    return ArgumentError("".join(found.groups()))


def check_strength(strength: float) -> None:
    """Refuses a strength outside [0, 1], NaN included.

    Raises:
        ArgumentError: if `strength` does not lie in [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise ArgumentError(f"strength: must lie in [0, 1], received {strength!r}.")


def check_batch_size(batch_size: int) -> None:
    """Refuses a number of images a call below 1.

    Raises:
        ArgumentError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size: must be at least 1, received {batch_size!r}.")


def checked_whole(name: str, value: Any, least: int) -> int:
    """A whole number that may be NumPy's, as an int.

    Raises:
        ArgumentError: if `value` is not a whole number, or below `least`.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ArgumentError(
            f"{name}: must be a whole number of at least {least}, received {value!r}."
        )
    return int(value)


def check_style_count(count: int, contents: int, argument: str = "style") -> None:
    """Refuses a batch of styles that is neither one for all contents nor one for each.

    Raises:
        ArgumentError: if `count` is neither 1 nor `contents`.
    """
    if count not in (1, contents):
        raise ArgumentError(
            f"{argument}: batch of {count} for {contents} contents; give one style, or "
            "one for each content."
        )


def named_styles(style: Any, style_weights: Sequence[float] | None) -> list[tuple[float, Any, str]]:
    """The argument `style`, one or a list to blend, as a list of (weight, style, name in errors).

    Args:
        style: One style, or a list or tuple of them.
        style_weights: One weight for each style of a list, at least 0, not all 0. Defaults to
            equal weights.

    Returns:
        The styles with weights that sum to 1.

    Raises:
        ArgumentError: an empty list, or weights that cannot be used.
    """
    if isinstance(style, (list, tuple)):
        weights = _blend_weights(style_weights, len(style))
        return [(w, one, f"style[{i}]") for i, (w, one) in enumerate(zip(weights, style))]
    if style_weights is not None:
        raise ArgumentError("style_weights: need a list of styles to blend.")
    return [(1.0, style, "style")]


def _blend_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights of several styles, divided by their sum.

    Args:
        weights: One for each style, at least 0, not all 0; None for equal ones.
        count: Number of styles.

    Raises:
        ArgumentError: no styles, or weights that cannot be used.
    """
    if count == 0:
        raise ArgumentError("style: the list of styles is empty.")
    values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(
            f"style_weights: need {count} finite weights of at least 0, received {weights!r}."
        )
    if values.sum() == 0:
        raise ArgumentError("style_weights: must not all be 0.")
    return (values / values.sum()).tolist()


def number(name: str, value: float, low: float, high: float) -> float:
    """Checks a number from low to high.

    Raises:
        ArgumentError: naming the argument `name`.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not low <= found <= high or math.isinf(found):
        raise ArgumentError(f"{name}: must be a number in [{low:g}, {high:g}], received {value!r}.")
    return found


def number_range(name: str, value, low: float, high: float) -> tuple[float, float]:
    """Checks a pair (first, last) with low ≤ first ≤ last ≤ high; one number counts twice.

    Raises:
        ArgumentError: naming the argument `name`.
    """
    try:
        first, last = (value, value) if np.ndim(value) == 0 else value
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: must be two numbers, received {value!r}.") from None
    first, last = number(name, first, low, high), number(name, last, low, high)
    if first > last:
        raise ArgumentError(f"{name}: must be (low, high), received {value!r}.")
    return first, last
