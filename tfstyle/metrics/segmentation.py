"""Segmentations compared: pixel accuracy, intersection over union, Dice.

All are read off one confusion matrix, so that a class means the same everywhere. Predictions are
told apart by their type: whole numbers are classes, one a pixel; floats are probabilities or
logits with the classes along the last axis, of which the largest wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfstyle._private.images import checked_whole
from tfstyle.errors import ArgumentError


def confusion_matrix(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    num_classes: int,
    *,
    ignore_class: int | None = None,
) -> np.ndarray:
    """Counts pixels by true and predicted class.

    Args:
        y_true: whole numbers in [0, num_classes), any shape; a last axis of length 1 may be there.
        y_pred: whole numbers of the same shape, or floats with a last axis of `num_classes`.
        num_classes: Number of classes, background included.
        ignore_class: Pixels of this true class are left out; it may lie outside [0, num_classes).

    Returns:
        int64 array (num_classes, num_classes), rows true, columns predicted.

    Raises:
        ArgumentError: shapes that do not fit, or classes outside the range.

    Example:
        >>> tfstyle.metrics.confusion_matrix([0, 1, 1], [0, 1, 0], num_classes=2)
        array([[1, 0],
               [1, 1]])
    """
    checked_whole("num_classes", num_classes, 2)
    true, pred = np.asarray(y_true), np.asarray(y_pred)
    if pred.dtype.kind == "f":
        if pred.ndim == 0 or pred.shape[-1] != num_classes:
            raise ArgumentError(
                f"y_pred: floats need a last axis of {num_classes} classes, received shape "
                f"{pred.shape}; give masks as whole numbers."
            )
        pred = pred.argmax(axis=-1)
    if true.shape not in (pred.shape, (*pred.shape, 1)) and pred.shape != (*true.shape, 1):
        raise ArgumentError(f"y_true and y_pred: shapes {true.shape} and {pred.shape} do not fit.")
    rows, columns = true.ravel(), pred.ravel()
    if ignore_class is not None:
        keep = rows != ignore_class
        rows, columns = rows[keep], columns[keep]
    for name, values in (("y_true", rows), ("y_pred", columns)):
        whole = values.dtype.kind in "iub" or np.array_equal(values, np.rint(values))
        if not whole or (values.size and not 0 <= values.min() <= values.max() < num_classes):
            raise ArgumentError(f"{name}: must hold whole numbers from 0 to {num_classes - 1}.")
    index = rows.astype(np.int64) * num_classes + columns.astype(np.int64)
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def pixel_accuracy(y_true, y_pred, num_classes: int, *, ignore_class: int | None = None) -> float:
    """Share of pixels with the right class, in [0, 1]; NaN when no pixel counts.

    Takes the arguments of :func:`confusion_matrix` and raises its errors.

    Example:
        >>> tfstyle.metrics.pixel_accuracy([0, 1, 1, 1], [0, 1, 0, 1], num_classes=2)
        0.75

    Reference: Long, Shelhamer and Darrell, "Fully convolutional networks for semantic
    segmentation", CVPR 2015, section 5.
    """
    matrix = confusion_matrix(y_true, y_pred, num_classes, ignore_class=ignore_class)
    return float(np.trace(matrix) / matrix.sum()) if matrix.any() else float("nan")


def iou_by_class(y_true, y_pred, num_classes: int, *, ignore_class: int | None = None):
    """Intersection over union of every class, TP / (TP + FP + FN).

    Takes the arguments of :func:`confusion_matrix` and raises its errors.

    Returns:
        float64 array (num_classes,) in [0, 1]; NaN for classes absent in both.
    """
    return _scores(y_true, y_pred, num_classes, ignore_class, "mean_iou")


def dice_by_class(y_true, y_pred, num_classes: int, *, ignore_class: int | None = None):
    """Dice coefficient of every class, 2·TP / (2·TP + FP + FN), as :func:`iou_by_class`."""
    return _scores(y_true, y_pred, num_classes, ignore_class, "dice")


def mean_iou(
    y_true,
    y_pred,
    num_classes: int,
    *,
    target_classes: Sequence[int] | None = None,
    ignore_class: int | None = None,
) -> float:
    """Mean intersection over union of the classes that `y_true` or `y_pred` holds.

    Takes the arguments of :func:`confusion_matrix` and raises its errors, and `target_classes`:
    average over these classes alone, for example without the background.

    Returns:
        A number in [0, 1]; NaN when none of the classes is present in either.

    Example:
        >>> # Class 2 is in neither and does not count.
        >>> tfstyle.metrics.mean_iou([0, 1, 1], [0, 1, 0], num_classes=3)
        0.5

    Reference: Everingham et al., "The Pascal visual object classes challenge: a retrospective",
    IJCV 111 (2015), section 4.1.
    """
    values = iou_by_class(y_true, y_pred, num_classes, ignore_class=ignore_class)
    return _mean(values, _targets(target_classes, num_classes))


def dice(
    y_true,
    y_pred,
    num_classes: int,
    *,
    target_classes: Sequence[int] | None = None,
    ignore_class: int | None = None,
) -> float:
    """Mean Dice coefficient of the classes that `y_true` or `y_pred` holds; as :func:`mean_iou`.

    Reference: Dice, "Measures of the amount of ecologic association between species", Ecology
    26:3 (1945).
    """
    values = dice_by_class(y_true, y_pred, num_classes, ignore_class=ignore_class)
    return _mean(values, _targets(target_classes, num_classes))


def _scores(y_true, y_pred, num_classes, ignore_class, measure: str) -> np.ndarray:
    matrix = confusion_matrix(y_true, y_pred, num_classes, ignore_class=ignore_class)
    return ops.convert_to_numpy(_by_class(ops.convert_to_tensor(matrix, "float64"), measure))


def _by_class(matrix, measure: str):
    """Found share, IoU or Dice of each class, a tensor; NaN where it is absent in both."""
    hits, rows, columns = ops.diagonal(matrix), ops.sum(matrix, axis=1), ops.sum(matrix, axis=0)
    factor = 2.0 if measure == "dice" else 1.0
    union = rows if measure == "pixel_accuracy" else rows + columns - (2.0 - factor) * hits
    return ops.where(union > 0, factor * hits / ops.maximum(union, 1e-9), np.nan)


def _mean(values: np.ndarray, targets: list[int]) -> float:
    present = values[targets][np.isfinite(values[targets])]
    return float(present.mean()) if present.size else float("nan")


def _targets(target_classes: Sequence[int] | None, num_classes: int) -> list[int]:
    """The classes to average over, checked."""
    if target_classes is None:
        return list(range(num_classes))
    targets = [int(c) for c in target_classes]
    if not targets or any(not 0 <= c < num_classes for c in targets):
        raise ArgumentError(
            f"target_classes: must name classes from 0 to {num_classes - 1}, received "
            f"{target_classes}."
        )
    return targets


class _ConfusionMetric(keras.metrics.MeanIoU):
    """Keras's confusion matrix under the rule for predictions that this module has.

    The state is the matrix alone, summed over batches and replicas, so the result is that of all
    pixels together and not a mean of batches.
    """

    measure = ""

    def __init__(
        self,
        num_classes: int,
        target_classes: Sequence[int] | None = None,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype=None,
    ):
        checked_whole("num_classes", num_classes, 2)
        super().__init__(int(num_classes), name=name or self.measure, dtype=dtype or "float32")
        self.target_classes = _targets(target_classes, self.num_classes)
        self.ignored = None if ignore_class is None else int(ignore_class)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch, as :func:`confusion_matrix`; `sample_weight` broadcasts to the pixels."""
        truth, given = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        scores = keras.backend.is_float_dtype(keras.backend.standardize_dtype(given.dtype))
        prediction = ops.argmax(given, axis=-1) if scores else given
        if scores and given.shape[-1] != self.num_classes:
            raise ArgumentError(
                f"{self.name}: predictions that are floats need a last axis of "
                f"{self.num_classes} classes, received shape {tuple(given.shape)}."
            )
        ranks = len(truth.shape), len(prediction.shape)
        if ranks[0] != ranks[1] and not (ranks[0] == ranks[1] + 1 and truth.shape[-1] == 1):
            raise ArgumentError(
                f"{self.name}: truth of shape {tuple(truth.shape)} does not fit predictions of "
                f"classes with shape {tuple(prediction.shape)}."
            )
        rows, columns = (ops.reshape(ops.cast(x, "int32"), (-1,)) for x in (truth, prediction))
        # What does not count goes to a cell of its own behind the matrix: sizes stay static.
        n = self.num_classes
        inside = (rows >= 0) & (rows < n) & (columns >= 0) & (columns < n)
        if self.ignored is not None:
            inside = inside & (rows != self.ignored)
        index = ops.where(inside, rows * n + columns, n * n)
        each = ops.ones_like(index)  # whole numbers add up exactly, however many there are
        if sample_weight is not None:
            weights, shape = ops.cast(sample_weight, "float32"), ops.shape(prediction)
            while len(weights.shape) < len(shape):
                weights = weights[..., None]
            each = ops.reshape(ops.broadcast_to(weights, shape), (-1,))
        counted = ops.segment_sum(each, index, num_segments=n * n + 1)[:-1]
        self.total_cm.assign_add(ops.reshape(ops.cast(counted, self.dtype), (n, n)))

    def result(self):
        matrix = ops.convert_to_tensor(self.total_cm)
        if self.measure == "pixel_accuracy":
            return ops.sum(ops.diagonal(matrix)) / ops.sum(matrix)
        values = ops.take(_by_class(matrix, self.measure), self.target_classes)
        there = ops.logical_not(ops.isnan(values))
        return ops.sum(ops.where(there, values, 0.0)) / ops.sum(ops.cast(there, self.dtype))

    def by_class(self) -> np.ndarray:
        """float64 array (num_classes,) of each class so far; NaN for classes absent in both.

        Of pixel accuracy it is the share of each true class that was found.
        """
        matrix = ops.cast(ops.convert_to_tensor(self.total_cm), "float64")
        return ops.convert_to_numpy(_by_class(matrix, self.measure))

    def get_config(self):
        return {
            "num_classes": self.num_classes,
            "target_classes": self.target_classes,
            "ignore_class": self.ignored,
            "name": self.name,
            "dtype": self.dtype,
        }


@keras.saving.register_keras_serializable(package="tfstyle")
class MeanIoU(_ConfusionMetric):
    """:func:`mean_iou` over all pixels seen, as a Keras metric.

    ``keras.metrics.MeanIoU`` with the classes of a float prediction found by their largest score,
    classes absent in both left out, and a choice of classes.

    Args:
        num_classes: Number of classes, background included.
        target_classes: Average over these alone.
        ignore_class: Pixels of this true class are left out. True classes outside the range never
            count.
        name: Defaults to ``"mean_iou"``.
        dtype: Of the counts.

    Example:
        >>> metric = tfstyle.metrics.MeanIoU(3, target_classes=[1, 2])
        >>> metric.update_state([[0, 1, 1]], [[0, 1, 0]])
        >>> float(metric.result())
        0.5
    """

    measure = "mean_iou"


@keras.saving.register_keras_serializable(package="tfstyle")
class Dice(_ConfusionMetric):
    """:func:`dice` over all pixels seen, as a Keras metric; takes what :class:`MeanIoU` takes.

    Example:
        >>> metric = tfstyle.metrics.Dice(2)
        >>> metric.update_state([[0, 1, 1, 0]], [[0, 1, 0, 1]])
        >>> metric.by_class()
        array([0.5, 0.5])
    """

    measure = "dice"


@keras.saving.register_keras_serializable(package="tfstyle")
class PixelAccuracy(_ConfusionMetric):
    """:func:`pixel_accuracy` over all pixels seen, as a Keras metric.

    ``keras.metrics.SparseCategoricalAccuracy`` for both kinds of prediction and with pixels to
    leave out; takes what :class:`MeanIoU` takes, but for `target_classes`.
    """

    measure = "pixel_accuracy"

    def __init__(self, num_classes: int, ignore_class: int | None = None, name=None, dtype=None):
        super().__init__(num_classes, None, ignore_class, name, dtype)

    def get_config(self):
        config = super().get_config()
        del config["target_classes"]
        return config
