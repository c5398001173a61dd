"""Style as the gray-level histogram: the Wasserstein-1 distance, differentiable."""

from __future__ import annotations

from keras import ops


def histogram_loss(generated, style):
    """Wasserstein-1 distance of the gray-level histograms, per sample.

    In one dimension it is the mean absolute difference of the sorted gray levels. It knows where
    in the gray scale the content has to go, and nothing of where in the image.

    Args:
        generated: float tensor (B, H, W, 1).
        style: float tensor (B, H', W', 1) with H'·W' = H·W.

    Returns:
        float32 tensor (B,), in gray levels.

    Reference: Bonneel, Rabin, Peyre and Pfister, "Sliced and Radon Wasserstein barycenters of
    measures", JMIV 51 (2015), section 2.
    """
    return ops.mean(ops.abs(_sorted(generated) - _sorted(style)), axis=1)


def _sorted(images):
    return ops.sort(ops.reshape(ops.cast(images, "float32"), (ops.shape(images)[0], -1)), axis=1)
