"""Mean squared error between features: the content loss of Huang and Belongie, equation 12."""

from __future__ import annotations

from keras import ops


def mse_loss(generated, content):
    """Mean squared difference of two feature maps of the same shape, per sample.

    Args:
        generated: float tensor (B, H, W, C).
        content: float tensor (B, H, W, C). Huang and Belongie put AdaIN's output here.

    Returns:
        float32 tensor (B,).
    """
    difference = ops.cast(generated, "float32") - ops.cast(content, "float32")
    return ops.mean(ops.square(difference), axis=(1, 2, 3))
