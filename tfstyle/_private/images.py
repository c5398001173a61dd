"""Checks of gray images that come from outside, as arrays and as tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
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
    """An image (H, W), (H, W, 1) or (B, H, W, 1) as float32 (B, H, W, 1), and the shape it had."""
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
    """Raises an ArgumentError for an array that holds NaN or values outside [0, 1]."""
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ArgumentError(f"{argument}: {NOT_FINITE}")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ArgumentError(
            f"{argument}: values lie in [{low:g}, {high:g}], not in [0, 1]; {remedy}"
        )


def gray_tensor(images: Any, argument: str) -> tf.Tensor:
    """A batch of gray images as a float32 tensor (B, H, W, 1), as :func:`checked_gray` has it."""
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
    """The images, float of any shape, if they are finite and in [0, 1]; else an ArgumentError.

    In a graph they stand behind an assertion, an InvalidArgumentError when the graph runs. XLA
    compiles none, so that the check belongs in front of what it compiles.
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
    """Content and style of a dictionary with both, or of a pair; else an ArgumentError."""
    if isinstance(inputs, Mapping) and {"content", "style"} <= {*inputs}:
        return inputs["content"], inputs["style"]
    if isinstance(inputs, (list, tuple)) and len(inputs) == 2:
        return inputs[0], inputs[1]
    mapping = isinstance(inputs, Mapping)
    received = ", ".join(map(repr, inputs)) if mapping else type(inputs).__name__
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
    """Raises an ArgumentError for a strength outside [0, 1], NaN included."""
    if not 0.0 <= strength <= 1.0:
        raise ArgumentError(f"strength: must lie in [0, 1], received {strength!r}.")


def check_batch_size(batch_size: int) -> None:
    """Raises an ArgumentError for a number of images a call below 1."""
    if batch_size < 1:
        raise ArgumentError(f"batch_size: must be at least 1, received {batch_size!r}.")


def checked_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number, NumPy's too, as an int; an ArgumentError if it is none or out of range."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        kind = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ArgumentError(f"{name}: must be a whole number {kind}, received {value!r}.")
    return int(value)


def check_style_count(count: int, contents: int, argument: str = "style") -> None:
    """Raises an ArgumentError for styles that are neither one for all nor one for each content."""
    if count not in (1, contents):
        raise ArgumentError(
            f"{argument}: batch of {count} for {contents} contents; give one style, or "
            "one for each content."
        )


def named_styles(style: Any, style_weights: Sequence[float] | None) -> list[tuple[float, Any, str]]:
    """One style, or a list to blend, as (weight, style, name in errors); weights sum to 1."""
    if not isinstance(style, (list, tuple)):
        if style_weights is not None:
            raise ArgumentError("style_weights: need a list of styles to blend.")
        return [(1.0, style, "style")]
    if not style:
        raise ArgumentError("style: the list of styles is empty.")
    count = len(style)
    values = np.ones(count) if style_weights is None else np.asarray(style_weights, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(
            f"style_weights: need {count} finite weights of at least 0, received {style_weights!r}."
        )
    if values.sum() == 0:
        raise ArgumentError("style_weights: must not all be 0.")
    weights = (values / values.sum()).tolist()
    return [(w, one, f"style[{i}]") for i, (w, one) in enumerate(zip(weights, style))]


def one_of(name: str, value: Any, known: Iterable[str | None]) -> None:
    """Raises an ArgumentError for a value that is not one of those known."""
    if value not in (known := tuple(known)):
        raise ArgumentError(
            f"{name}: must be one of {', '.join(map(str, known))}, received {value!r}."
        )


def number(name: str, value: float, low: float, high: float) -> float:
    """A number from `low` to `high` as a float; else an ArgumentError that names it `name`."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not low <= found <= high or math.isinf(found):
        raise ArgumentError(f"{name}: must be a number in [{low:g}, {high:g}], received {value!r}.")
    return found


def number_range(name: str, value, low: float, high: float) -> tuple[float, float]:
    """A rising pair from `low` to `high`, one number counting twice; else an ArgumentError."""
    try:
        first, last = (value, value) if np.ndim(value) == 0 else value
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: must be two numbers, received {value!r}.") from None
    first, last = number(name, first, low, high), number(name, last, low, high)
    if first > last:
        raise ArgumentError(f"{name}: must be (low, high), received {value!r}.")
    return first, last
