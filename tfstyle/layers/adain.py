"""Adaptive instance normalisation: Huang and Belongie, ICCV 2017, equation 8."""

from __future__ import annotations

import keras
from keras import ops

from tfstyle.errors import ArgumentError


def moments(x, epsilon: float = 1e-5):
    """Mean and standard deviation per sample and channel over height and width.

    Args:
        x: float tensor (B, H, W, C).
        epsilon: Added to the variance inside the root, so that its gradient stays finite on
            constant maps.

    Returns:
        Two tensors (B, 1, 1, C): μ and σ = sqrt(var + ε). Accumulated in float32 at least.
    """
    if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16"):
        x = ops.cast(x, "float32")
    mean = _mean(x)
    # Two passes: the mean of squares minus the square of the mean loses all digits where the
    # mean is large beside the spread, as in the deep maps of a flat image.
    variance = _mean(ops.square(x - mean))
    return mean, ops.sqrt(variance + epsilon)


def _mean(x):
    """Mean over height and width, of rows first.

    TensorFlow adds up one pixel after the other in float32: over 512x512 pixels at once that is
    off by some 5e-4 of the mean, over rows and then their means by less than 1e-6.
    """
    return ops.mean(ops.mean(x, axis=2, keepdims=True), axis=1, keepdims=True)


@keras.saving.register_keras_serializable(package="tfstyle")
class AdaIN(keras.layers.Layer):
    """AdaIN(x, y) = σ(y) · (x − μ(x)) / σ(x) + μ(y), with no learned weights.

    Statistics are taken per sample and channel over height and width.

    Args:
        epsilon: ε inside the root of both σ.

    Call arguments:
        content: float tensor x (B, H, W, C).
        style: float tensor y (B or 1, H', W', C); its size may differ from the content's.
        strength: scalar s in [0, 1]; the result is (1 − s)·x + s·AdaIN(x, y).

    Example:
        >>> AdaIN()(np.zeros((1, 8, 8, 4)), np.ones((1, 6, 6, 4)), strength=0.5).shape
        TensorShape([1, 8, 8, 4])

    Reference: Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance
    normalization", arXiv:1703.06868, equations 8 and 14.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ArgumentError(f"epsilon: must be above 0, received {epsilon!r}.")
        self.epsilon = float(epsilon)

    def build(self, content_shape, style_shape=None):
        self.built = True

    def call(self, content, style, strength=None):
        return self.transfer(content, *moments(style, self.epsilon), strength=strength)

    def transfer(self, content, style_mean, style_std, strength=None):
        """The same with the style's moments at hand, both (B or 1, 1, 1, C)."""
        content_mean, content_std = moments(content, self.epsilon)
        x = ops.cast(content, content_mean.dtype)
        style_mean, style_std = (ops.cast(value, x.dtype) for value in (style_mean, style_std))
        # Everything that is the same for all positions first: the maps are large.
        gain, mean = style_std / content_std, style_mean
        if strength is not None:
            strength = ops.cast(strength, x.dtype)
            gain = (1.0 - strength) + strength * gain
            mean = (1.0 - strength) * content_mean + strength * mean
        return ops.cast((x - content_mean) * gain + mean, content.dtype)

    def compute_output_shape(self, content_shape, style_shape=None):
        return content_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
