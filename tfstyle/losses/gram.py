"""Style as Gram matrices: Gatys, Ecker and Bethge, CVPR 2016, equations 3 and 4."""

from __future__ import annotations

from keras import ops


def gram_matrix(features):
    """Gram matrix of the channels, divided by the number of positions, per sample.

    Args:
        features: float tensor (B, H, W, C).

    Returns:
        float32 tensor (B, C, C).
    """
    x = ops.cast(features, "float32")
    x = ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
    positions = ops.cast(ops.shape(x)[1], "float32")
    return ops.matmul(ops.transpose(x, (0, 2, 1)), x) / positions


def gram_loss(generated, style):
    """Mean squared difference of two Gram matrices, divided by 4, per sample.

    Gatys' E_l is ``Σ (G − A)² / (4 N² M²)`` with N channels and M positions; the matrices here
    are divided by M already and the mean divides by N².

    Args:
        generated: float tensor (B, H, W, C).
        style: float tensor (B, H', W', C).

    Returns:
        float32 tensor (B,).
    """
    difference = gram_matrix(generated) - gram_matrix(style)
    return ops.mean(ops.square(difference), axis=(1, 2)) / 4.0
