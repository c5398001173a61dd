"""The base of the metrics that are a mean over pairs of images."""

from __future__ import annotations

import keras
from keras import ops


class PairMean(keras.metrics.Mean):
    """Mean of :meth:`scores` over all pairs seen; those without a score (NaN) are left out.

    The state is a sum and a count, added up over batches and replicas; 0 while there are none.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds contents and generated images, float (B, H, W, 1) in [0, 1].

        `sample_weight` has weights (B,), or is a mask (B, H, W, 1) of the pixels to look at.
        """
        content, generated = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        mask = None
        if sample_weight is not None and len(ops.shape(sample_weight)) > 2:
            mask, sample_weight = ops.cast(sample_weight, "bool"), None
            if len(mask.shape) == 3:
                mask = mask[..., None]
        scores = ops.cast(self.scores(content, generated, mask), self.dtype)
        weights = ops.cast(ops.logical_not(ops.isnan(scores)), self.dtype)
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        super().update_state(ops.where(weights > 0, scores, ops.zeros_like(scores)), weights)

    def scores(self, content, generated, mask=None):
        """One score an image, (B,); NaN where there is nothing to measure."""
        raise TypeError(f"{type(self).__name__} must define scores().")
