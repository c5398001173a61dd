"""Segmentations compared: pixel accuracy, intersection over union, Dice, agreement of a segmenter.

All are read off one confusion matrix, so that a class means the same everywhere. Predictions are
told apart by their type: whole numbers are classes, one a pixel; floats are probabilities or
logits with the classes along the last axis, of which the largest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfstyle.errors import ArgumentError

#: What is computed from a confusion matrix, by the name that ``measure`` takes.
MEASURES = ("pixel_accuracy", "mean_iou", "dice")


# ---------------------------------------------------------------------------------------------
# Functions on arrays


def confusion_matrix(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    ignore_class: int | None = None,
) -> np.ndarray:
    """Counts pixels by true and predicted class.

    Args:
        truth: whole numbers in [0, classes), any shape; a last axis of length 1 may be there.
        prediction: whole numbers of the same shape, or floats with a last axis of `classes`.
        classes: Number of classes, background included.
        ignore_class: Pixels of this true class are left out; it may lie outside [0, classes).

    Returns:
        int64 array (classes, classes), rows true, columns predicted.

    Raises:
        ArgumentError: shapes that do not fit, or classes outside the range.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0], classes=2)
        array([[1, 0],
               [1, 1]])
    """
    _check_classes(classes)
    truth = np.asarray(truth)
    prediction = np.asarray(prediction)
    if prediction.dtype.kind == "f":
        if prediction.ndim == 0 or prediction.shape[-1] != classes:
            raise ArgumentError(
                f"prediction: floats need a last axis of {classes} classes, received shape "
                f"{prediction.shape}; give masks as whole numbers."
            )
        prediction = prediction.argmax(axis=-1)
    kept = truth.size == prediction.size and (
        truth.shape == prediction.shape
        or truth.shape == (*prediction.shape, 1)
        or (*truth.shape, 1) == prediction.shape
    )
    if not kept:
        raise ArgumentError(
            f"truth and prediction: shapes {truth.shape} and {prediction.shape} do not fit."
        )
    rows, columns = truth.ravel(), prediction.ravel()
    if ignore_class is not None:
        keep = rows != ignore_class
        rows, columns = rows[keep], columns[keep]
    for name, values in (("truth", rows), ("prediction", columns)):
        whole = values.dtype.kind in "iub" or np.array_equal(values, np.rint(values))
        if not whole or (values.size and not 0 <= values.min() <= values.max() < classes):
            raise ArgumentError(f"{name}: must hold whole numbers from 0 to {classes - 1}.")
    index = rows.astype(np.int64) * classes + columns.astype(np.int64)
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def pixel_accuracy(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    ignore_class: int | None = None,
) -> float:
    """Share of pixels with the right class.

    Args:
        truth: See :func:`confusion_matrix`.
        prediction: See :func:`confusion_matrix`.
        classes: See :func:`confusion_matrix`.
        ignore_class: See :func:`confusion_matrix`.

    Returns:
        A number in [0, 1]; NaN when no pixel counts.

    Raises:
        ArgumentError: see :func:`confusion_matrix`.

    Reference: Long, Shelhamer and Darrell, "Fully convolutional networks for semantic
    segmentation", CVPR 2015, section 5.
    """
    matrix = confusion_matrix(truth, prediction, classes, ignore_class=ignore_class)
    return float(np.trace(matrix) / matrix.sum()) if matrix.any() else float("nan")


def iou_by_class(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    ignore_class: int | None = None,
) -> np.ndarray:
    """Intersection over union of every class, TP / (TP + FP + FN).

    Args:
        truth: See :func:`confusion_matrix`.
        prediction: See :func:`confusion_matrix`.
        classes: See :func:`confusion_matrix`.
        ignore_class: See :func:`confusion_matrix`.

    Returns:
        float64 array (classes,); NaN for classes absent in both.

    Raises:
        ArgumentError: see :func:`confusion_matrix`.
    """
    matrix = confusion_matrix(truth, prediction, classes, ignore_class=ignore_class)
    return _by_class(matrix, 1.0)


def dice_by_class(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    ignore_class: int | None = None,
) -> np.ndarray:
    """Dice coefficient of every class, 2·TP / (2·TP + FP + FN).

    Args:
        truth: See :func:`confusion_matrix`.
        prediction: See :func:`confusion_matrix`.
        classes: See :func:`confusion_matrix`.
        ignore_class: See :func:`confusion_matrix`.

    Returns:
        float64 array (classes,); NaN for classes absent in both.

    Raises:
        ArgumentError: see :func:`confusion_matrix`.
    """
    matrix = confusion_matrix(truth, prediction, classes, ignore_class=ignore_class)
    return _by_class(matrix, 2.0)


def mean_iou(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    target_classes: Sequence[int] | None = None,
    ignore_class: int | None = None,
) -> float:
    """Mean intersection over union of the classes that truth or prediction holds.

    Args:
        truth: See :func:`confusion_matrix`.
        prediction: See :func:`confusion_matrix`.
        classes: See :func:`confusion_matrix`.
        target_classes: Average over these classes alone, for example without the background.
        ignore_class: See :func:`confusion_matrix`.

    Returns:
        A number in [0, 1]; NaN when none of the classes is present in either.

    Raises:
        ArgumentError: see :func:`confusion_matrix`.

    Example:
        >>> mean_iou([0, 1, 1], [0, 1, 0], classes=3)   # class 2 is in neither and does not count
        0.5

    Reference: Everingham et al., "The Pascal visual object classes challenge: a retrospective",
    IJCV 111 (2015), section 4.1.
    """
    values = iou_by_class(truth, prediction, classes, ignore_class=ignore_class)
    return _mean(values, _targets(target_classes, classes))


def dice(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    classes: int,
    *,
    target_classes: Sequence[int] | None = None,
    ignore_class: int | None = None,
) -> float:
    """Mean Dice coefficient of the classes that truth or prediction holds.

    Args:
        truth: See :func:`confusion_matrix`.
        prediction: See :func:`confusion_matrix`.
        classes: See :func:`confusion_matrix`.
        target_classes: Average over these classes alone, for example without the background.
        ignore_class: See :func:`confusion_matrix`.

    Returns:
        A number in [0, 1]; NaN when none of the classes is present in either.

    Raises:
        ArgumentError: see :func:`confusion_matrix`.

    Reference: Dice, "Measures of the amount of ecologic association between species", Ecology
    26:3 (1945).
    """
    values = dice_by_class(truth, prediction, classes, ignore_class=ignore_class)
    return _mean(values, _targets(target_classes, classes))


def segmenter_agreement(
    segmenter: Callable,
    content: npt.ArrayLike,
    generated: npt.ArrayLike,
    classes: int,
    *,
    measure: str = "dice",
    target_classes: Sequence[int] | None = None,
) -> float:
    """How far a frozen segmenter sees the same in `content` and `generated`.

    What it says of the content stands in for the truth. It measures anatomy as a network sees it,
    and only as well as the segmenter copes with the generated gray scale: a low value is a loss of
    anatomy or a segmenter out of its range.

    Args:
        segmenter: Takes float32 (B, H, W, 1) in [0, 1] and returns masks or class scores, see
            :func:`confusion_matrix`; for example a trained :class:`tfstyle.segmentation.UNet`.
        content: float array (B, H, W, 1) in [0, 1].
        generated: float array (B, H, W, 1) in [0, 1].
        classes: Number of the segmenter's classes.
        measure: ``"dice"``, ``"mean_iou"`` or ``"pixel_accuracy"``.
        target_classes: For Dice and IoU, average over these classes alone.

    Returns:
        A number in [0, 1] over all pixels of the batch; NaN when no class is present.

    Raises:
        ArgumentError: an unknown measure, or shapes that do not fit.

    Example:
        >>> segmenter_agreement(unet, content, generated, classes=4, target_classes=[1, 2, 3])
    """
    _check_measure(measure)
    before, after = (
        ops.convert_to_numpy(segmenter(ops.convert_to_tensor(images, dtype="float32")))
        for images in (content, generated)
    )
    if before.dtype.kind == "f":
        before = before.argmax(axis=-1)
    if measure == "pixel_accuracy":
        return pixel_accuracy(before, after, classes)
    function = {"dice": dice, "mean_iou": mean_iou}[measure]
    return function(before, after, classes, target_classes=target_classes)


def _by_class(matrix: np.ndarray, factor: float) -> np.ndarray:
    """IoU (factor 1) or Dice (factor 2) out of TP, rows and columns; NaN where both are absent."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - (2 - factor) * hits
    return np.divide(factor * hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def _mean(values: np.ndarray, targets: list[int]) -> float:
    values = values[targets]
    present = np.isfinite(values)
    return float(values[present].mean()) if present.any() else float("nan")


def _check_classes(classes: int) -> None:
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 2:
        raise ArgumentError(f"classes: must be a whole number of at least 2, received {classes!r}.")


def _check_measure(measure: str) -> None:
    if measure not in MEASURES:
        raise ArgumentError(f"measure: must be one of {MEASURES}, received {measure!r}.")


def _targets(target_classes: Sequence[int] | None, classes: int) -> list[int]:
    """The classes to average over, checked."""
    if target_classes is None:
        return list(range(classes))
    targets = [int(c) for c in target_classes]
    if not targets or any(not 0 <= c < classes for c in targets):
        raise ArgumentError(
            f"target_classes: must name classes from 0 to {classes - 1}, received {target_classes}."
        )
    return targets


# ---------------------------------------------------------------------------------------------
# Keras metrics


class _ConfusionMetric(keras.metrics.MeanIoU):
    """Keras's confusion matrix under the rule for predictions that this module has.

    The state is the matrix alone, summed over batches and replicas, so the result is that of all
    pixels together and not a mean of batches.
    """

    _default_name = ""

    def __init__(
        self,
        classes: int,
        target_classes: Sequence[int] | None = None,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype=None,
    ):
        _check_classes(classes)
        super().__init__(
            num_classes=int(classes), name=name or self._default_name, dtype=dtype or "float32"
        )
        self.classes = int(classes)
        self.target_classes = _targets(target_classes, self.classes)
        self.ignored = None if ignore_class is None else int(ignore_class)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch.

        Args:
            y_true: classes (B, ...) or (B, ..., 1), of any number type.
            y_pred: whole numbers of the same shape, or floats (B, ..., classes).
            sample_weight: Weights that broadcast to the pixels, or None.
        """
        truth, prediction = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(prediction.dtype)):
            if prediction.shape[-1] != self.classes:
                raise ArgumentError(
                    f"{self.name}: predictions that are floats need a last axis of "
                    f"{self.classes} classes, received shape {tuple(prediction.shape)}."
                )
            prediction = ops.argmax(prediction, axis=-1)
        ranks = len(truth.shape), len(prediction.shape)
        if ranks[0] != ranks[1] and not (ranks[0] == ranks[1] + 1 and truth.shape[-1] == 1):
            raise ArgumentError(
                f"{self.name}: truth of shape {tuple(truth.shape)} does not fit predictions of "
                f"classes with shape {tuple(prediction.shape)}."
            )
        weights = None
        if sample_weight is not None:
            weights = ops.cast(sample_weight, "float32")
            shape = ops.shape(prediction)
            while len(weights.shape) < len(shape):
                weights = weights[..., None]
            weights = ops.reshape(ops.broadcast_to(weights, shape), (-1,))
        rows = ops.reshape(ops.cast(truth, "int32"), (-1,))
        columns = ops.reshape(ops.cast(prediction, "int32"), (-1,))
        # What does not count goes to a cell of its own behind the matrix: sizes stay static.
        count = self.classes * self.classes
        inside = (rows >= 0) & (rows < self.classes) & (columns >= 0) & (columns < self.classes)
        if self.ignored is not None:
            inside = inside & (rows != self.ignored)
        index = ops.where(inside, rows * self.classes + columns, count)
        # Whole numbers add up exactly, however many there are.
        each = ops.ones_like(index) if weights is None else weights
        counted = ops.segment_sum(each, index, num_segments=count + 1)[:count]
        matrix = ops.reshape(ops.cast(counted, self.dtype), (self.classes, self.classes))
        self.total_cm.assign_add(matrix)

    def _mean_of(self, factor: float):
        hits, rows, columns = self._sums()
        union = rows + columns - (2.0 - factor) * hits
        present = ops.cast(union > 0, self.dtype)
        values = factor * hits / ops.maximum(union, 1e-9)
        total = ops.sum(ops.take(values * present, self.target_classes))
        return total / ops.sum(ops.take(present, self.target_classes))

    def _sums(self):
        matrix = ops.convert_to_tensor(self.total_cm)
        return ops.diagonal(matrix), ops.sum(matrix, axis=1), ops.sum(matrix, axis=0)

    def by_class(self) -> np.ndarray:
        """float64 array (classes,) of each class so far; NaN for classes absent in both."""
        return _by_class(ops.convert_to_numpy(self.total_cm).astype(np.float64), self._factor)

    _factor = 1.0

    def get_config(self):
        return {
            "classes": self.classes,
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
        classes: Number of classes, background included.
        target_classes: Average over these alone.
        ignore_class: Pixels of this true class are left out. True classes outside the range never
            count.
        name: ``"mean_iou"`` unless given.
        dtype: Of the counts.

    Example:
        >>> model.compile("adam", loss, metrics=[MeanIoU(4, target_classes=[1, 2, 3])])
    """

    _default_name = "mean_iou"

    def result(self):
        return self._mean_of(1.0)


@keras.saving.register_keras_serializable(package="tfstyle")
class Dice(_ConfusionMetric):
    """:func:`dice` over all pixels seen, as a Keras metric; takes what :class:`MeanIoU` takes.

    Example:
        >>> metric = Dice(2, target_classes=[1])
        >>> metric.update_state(masks, logits)
        >>> metric.result(), metric.by_class()
    """

    _default_name = "dice"
    _factor = 2.0

    def result(self):
        return self._mean_of(2.0)


@keras.saving.register_keras_serializable(package="tfstyle")
class PixelAccuracy(_ConfusionMetric):
    """:func:`pixel_accuracy` over all pixels seen, as a Keras metric.

    ``keras.metrics.SparseCategoricalAccuracy`` for both kinds of prediction and with pixels to
    leave out.

    Args:
        classes: Number of classes, background included.
        ignore_class: Pixels of this true class are left out.
        name: ``"pixel_accuracy"`` unless given.
        dtype: Of the counts.
    """

    _default_name = "pixel_accuracy"

    def __init__(self, classes: int, ignore_class: int | None = None, name=None, dtype=None):
        super().__init__(classes, None, ignore_class, name, dtype)

    def result(self):
        hits, rows, _ = self._sums()
        return ops.sum(hits) / ops.sum(rows)

    def by_class(self) -> np.ndarray:
        """float64 array (classes,): share of each true class that was found; NaN if absent."""
        matrix = ops.convert_to_numpy(self.total_cm).astype(np.float64)
        rows = matrix.sum(axis=1)
        return np.divide(np.diag(matrix), rows, out=np.full(len(rows), np.nan), where=rows > 0)

    def get_config(self):
        config = super().get_config()
        del config["target_classes"]
        return config


@keras.saving.register_keras_serializable(package="tfstyle")
class SegmenterAgreement(_ConfusionMetric):
    """:func:`segmenter_agreement` over all pixels seen, as a Keras metric.

    Args:
        segmenter: A model or callable, or the path of a saved ``.keras`` model. Only a path comes
            back when the metric is loaded; with a model, give it again.
        classes: Number of the segmenter's classes.
        measure: ``"dice"``, ``"mean_iou"`` or ``"pixel_accuracy"``.
        target_classes: For Dice and IoU, average over these alone.
        name: ``"segmenter_agreement"`` unless given.
        dtype: Of the counts.

    Raises:
        ArgumentError: an unknown measure, or use without a segmenter.

    Example:
        >>> metric = SegmenterAgreement(unet, classes=4)
        >>> metric.update_state(content, generated)
    """

    _default_name = "segmenter_agreement"

    def __init__(
        self,
        segmenter: Callable | str | Path | None,
        classes: int,
        measure: str = "dice",
        target_classes: Sequence[int] | None = None,
        name: str | None = None,
        dtype=None,
    ):
        _check_measure(measure)
        super().__init__(classes, target_classes, None, name, dtype)
        self.measure = measure
        self._path = str(segmenter) if isinstance(segmenter, (str, Path)) else None
        # In a list of one behind a function: Keras must not take its weights for this metric's.
        model = keras.saving.load_model(self._path, safe_mode=True) if self._path else segmenter
        self._segmenter = lambda: model

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch.

        Args:
            y_true: content, float (B, H, W, 1) in [0, 1].
            y_pred: generated, float (B, H, W, 1) in [0, 1].
            sample_weight: See :meth:`MeanIoU.update_state`.
        """
        segmenter = self._segmenter()
        if segmenter is None:
            raise ArgumentError(
                f"{self.name}: was loaded without its segmenter; make the metric again with one, "
                "or give the path of a saved model."
            )
        truth = segmenter(y_true)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(truth.dtype)):
            truth = ops.argmax(truth, axis=-1)
        super().update_state(truth, segmenter(y_pred), sample_weight)

    def result(self):
        if self.measure == "pixel_accuracy":
            hits, rows, _ = self._sums()
            return ops.sum(hits) / ops.sum(rows)
        return self._mean_of(2.0 if self.measure == "dice" else 1.0)

    def by_class(self) -> np.ndarray:
        """float64 array (classes,): Dice or IoU of each class; NaN if absent in both."""
        matrix = ops.convert_to_numpy(self.total_cm).astype(np.float64)
        return _by_class(matrix, 1.0 if self.measure == "mean_iou" else 2.0)

    def get_config(self):
        config = super().get_config()
        del config["ignore_class"]
        return {**config, "segmenter": self._path, "measure": self.measure}
