"""The loss of a segmentation: weighted cross entropy, with soft Dice where wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfstyle.errors import ArgumentError


@keras.saving.register_keras_serializable(package="tfstyle")
class SegmentationLoss(keras.losses.Loss):
    """Pixelwise cross entropy with a weight a class, and soft Dice beside it where wanted.

        L = mean_p v(y_p)·(−log p(y_p)) + dice · (1 − mean_k D_k)
        D_k = (2·Σ_p p_k·t_k + 1) / (Σ_p p_k + Σ_p t_k + 1)

    with v the class weights, t the truth as indicators, p the probabilities, and D_k averaged over
    the classes behind the background, image by image.

    Args:
        class_weights: One weight a class, as a sequence or as ``{class: weight}`` with 1 for those
            left out; None weighs all alike. See :func:`balanced_class_weights`.
        dice: Weight of the Dice term; 0 leaves the paper's cross entropy.
        from_logits: Whether predictions are logits (True) or probabilities.
        ignore_class: Pixels of this true class have no loss, for example 255 for unlabelled.
        name: ``"segmentation_loss"`` unless given.
        reduction: Keras's.

    Call arguments:
        y_true: classes (B, H, W) or (B, H, W, 1), of any number type.
        y_pred: float tensor (B, H, W, classes).

    Raises:
        ArgumentError: weights below 0, or more weights than classes.

    Example:
        >>> unet = tfstyle.segmentation.UNet(2, depth=1, width=4)
        >>> unet.compile("adam", SegmentationLoss(class_weights=[0.5, 2.0], dice=1.0))

    References: Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, equation 1; Milletari, Navab
    and Ahmadi, "V-Net", 3DV 2016, for the Dice term.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        dice: float = 0.0,
        from_logits: bool = True,
        ignore_class: int | None = None,
        name: str = "segmentation_loss",
        reduction: str = "sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        if isinstance(class_weights, Mapping):
            # Keys are text after a round trip through JSON.
            table = {int(k): float(v) for k, v in class_weights.items()}
            class_weights = [table.get(k, 1.0) for k in range(max(table, default=0) + 1)]
        if class_weights is not None:
            class_weights = [float(v) for v in class_weights]
            if not all(np.isfinite(v) and v >= 0 for v in class_weights):
                raise ArgumentError(
                    f"class_weights: must be finite and not below 0, received {class_weights}."
                )
        if not dice >= 0:
            raise ArgumentError(f"dice: must not be below 0, received {dice!r}.")
        self.class_weights = class_weights
        self.dice = float(dice)
        self.from_logits = bool(from_logits)
        self.ignore_class = None if ignore_class is None else int(ignore_class)

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        if self.class_weights is not None and len(self.class_weights) > classes:
            raise ArgumentError(
                f"class_weights: {len(self.class_weights)} given for {classes} classes."
            )
        truth = ops.cast(y_true, "int32")
        if len(truth.shape) == len(y_pred.shape):
            truth = truth[..., 0]
        scores = ops.cast(y_pred, "float32")
        counts = ops.ones_like(scores[..., 0])
        if self.ignore_class is not None:
            counts = ops.cast(truth != self.ignore_class, "float32")
            truth = ops.where(truth == self.ignore_class, 0, truth)
        loss = ops.sparse_categorical_crossentropy(truth, scores, from_logits=self.from_logits)
        weights = counts
        if self.class_weights is not None:
            table = self.class_weights + [1.0] * (classes - len(self.class_weights))
            weights = weights * ops.take(ops.convert_to_tensor(table, dtype="float32"), truth)
        loss = loss * weights
        if self.dice:
            probabilities = ops.softmax(scores, axis=-1) if self.from_logits else scores
            indicators = ops.one_hot(truth, classes, dtype="float32")
            probabilities, indicators = (
                (values * counts[..., None])[..., 1:] for values in (probabilities, indicators)
            )
            overlap = ops.sum(probabilities * indicators, axis=(1, 2))
            sizes = ops.sum(probabilities, axis=(1, 2)) + ops.sum(indicators, axis=(1, 2))
            coefficient = ops.mean((2.0 * overlap + 1.0) / (sizes + 1.0), axis=-1)
            loss = loss + self.dice * (1.0 - coefficient)[:, None, None]
        return loss

    def get_config(self):
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "dice": self.dice,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }


def balanced_class_weights(
    masks: Iterable[npt.ArrayLike], classes: int, ignore_class: int | None = None
) -> list[float]:
    """Class weights that give every class present the same say: N / (classes present · N_k).

    Args:
        masks: Masks of whole numbers, of any shapes; read one after the other.
        classes: Number of classes, background included.
        ignore_class: Pixels of this class are left out.

    Returns:
        One weight a class, 1 for classes that no mask holds. Averaged over the pixels they are 1.

    Raises:
        ArgumentError: masks without a pixel, or with classes outside the range.

    Example:
        >>> balanced_class_weights([[0, 0, 0, 1]], classes=2)
        [0.6666666666666666, 2.0]
    """
    counts = np.zeros(classes, np.int64)
    for mask in masks:
        values = np.asarray(mask).ravel()
        if ignore_class is not None:
            values = values[values != ignore_class]
        if values.dtype.kind not in "iub" or (
            values.size and not 0 <= values.min() <= values.max() < classes
        ):
            raise ArgumentError(f"masks: must hold whole numbers from 0 to {classes - 1}.")
        counts += np.bincount(values.astype(np.int64), minlength=classes)
    present = counts > 0
    if not present.any():
        raise ArgumentError("masks: hold no pixel to count.")
    weights = np.ones(classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.tolist()
