"""Style as channel means and standard deviations: Huang and Belongie, equation 13."""

from __future__ import annotations

from keras import ops

from tfstyle.layers import moments


def moments_loss(generated, style, epsilon: float = 1e-5):
    """‖μ(g) − μ(y)‖₂ + ‖σ(g) − σ(y)‖₂ over channels, per sample.

    Each norm is divided by the square root of the number of channels, so that layers of
    different width weigh the same.

    Args:
        generated: float tensor (B, H, W, C).
        style: float tensor (B, H', W', C).
        epsilon: Inside every root; keeps the gradient finite.

    Returns:
        float32 tensor (B,).
    """
    generated_mean, generated_std = moments(ops.cast(generated, "float32"), epsilon)
    style_mean, style_std = moments(ops.cast(style, "float32"), epsilon)
    return _distance(generated_mean, style_mean) + _distance(generated_std, style_std)


def _distance(a, b):
    """Root mean square difference over channels; smooth at zero, and zero there."""
    epsilon = 1e-8
    return ops.sqrt(ops.mean(ops.square(a - b), axis=(1, 2, 3)) + epsilon) - epsilon**0.5
