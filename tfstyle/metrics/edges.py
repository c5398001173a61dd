"""Edge displacement as a Keras metric."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfstyle.errors import ArgumentError
from tfstyle.metrics.means import PairMean
from tfstyle.metrics.preservation import edge_displacement
from tfstyle.metrics.structure import check_pairs


@keras.saving.register_keras_serializable(package="tfstyle")
class EdgeDisplacement(PairMean):
    """Mean of :func:`tfstyle.metrics.edge_displacement` over all pairs seen, as a Keras metric.

    Pairs whose content has no edge are left out. The edges of an image are found by NumPy on the
    host: the metric works in graphs and under a strategy, but not inside XLA
    (``compile(jit_compile=False)``) and not in a SavedModel.

    Args:
        spacing: Size of a pixel in mm, or (row, column) sizes, the same for all images; 1 gives
            pixels.
        reach: How far to look to either side, in pixels.
        name: ``"edge_displacement"`` unless given.
        dtype: Of the sum.

    Raises:
        ArgumentError: a spacing or reach that is not above 0.

    Example:
        >>> metric = EdgeDisplacement(spacing=0.7)
        >>> metric.update_state(images, 0.5 * images)
        >>> float(metric.result()) < 0.7   # mm
        True
    """

    def __init__(
        self,
        spacing: float | tuple[float, float] = 1.0,
        reach: float = 3.0,
        name: str = "edge_displacement",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        sizes = np.asarray(spacing, np.float64)
        if sizes.shape not in ((), (2,)) or not (sizes > 0).all():
            raise ArgumentError(
                f"spacing: must be one or two numbers above 0, received {spacing!r}."
            )
        if not reach > 0:
            raise ArgumentError(f"reach: must be above 0, received {reach!r}.")
        self.spacing = sizes.tolist()
        self.reach = float(reach)

    def scores(self, content, generated, mask=None):
        check_pairs(content, generated, 16)

        def displacements(x, y, *masks):
            each = masks[0] if masks else [None] * len(x)
            found = [
                edge_displacement(a, b, self.spacing, m, self.reach) for a, b, m in zip(x, y, each)
            ]
            return np.array(found, np.float32)

        tensors = [content, generated] if mask is None else [content, generated, mask]
        result = tf.numpy_function(displacements, tensors, tf.float32, stateful=False)
        return tf.ensure_shape(result, [content.shape[0]])

    def get_config(self):
        return {**super().get_config(), "spacing": self.spacing, "reach": self.reach}
