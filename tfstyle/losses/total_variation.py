"""Total variation: Mahendran and Vedaldi, CVPR 2015, as used by Johnson et al., ECCV 2016."""

from __future__ import annotations

from keras import ops


def total_variation_loss(images):
    """Mean absolute difference of neighboring pixels, along rows and columns, per sample.

    Args:
        images: float tensor (B, H, W, C), H and W at least 2.

    Returns:
        float32 tensor (B,).
    """
    images = ops.cast(images, "float32")
    rows = ops.mean(ops.abs(images[:, 1:] - images[:, :-1]), axis=(1, 2, 3))
    columns = ops.mean(ops.abs(images[:, :, 1:] - images[:, :, :-1]), axis=(1, 2, 3))
    return rows + columns
