"""Losses in closed form: errors and statistics of features, histograms, total variation."""

from __future__ import annotations

from keras import ops

from tfstyle.layers import moments


def mse_loss(generated, content):
    """Mean squared difference of two feature maps, per sample.

    Args:
        generated: float tensor (B, H, W, C).
        content: float tensor (B, H, W, C); AdaIN's output in equation 12 of Huang and Belongie.

    Returns:
        float32 tensor (B,).
    """
    difference = ops.cast(generated, "float32") - ops.cast(content, "float32")
    return ops.mean(ops.square(difference), axis=(1, 2, 3))


def moments_loss(generated, style, epsilon: float = 1e-5):
    """‖μ(g) − μ(y)‖₂ + ‖σ(g) − σ(y)‖₂ over channels, per sample: Huang and Belongie, equation 13.

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


def gram_matrix(features):
    """Gram matrices (B, C, C), float32, of features (B, H, W, C), divided by H·W."""
    x = ops.cast(features, "float32")
    x = ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
    positions = ops.cast(ops.shape(x)[1], "float32")
    return ops.matmul(ops.transpose(x, (0, 2, 1)), x) / positions


def gram_loss(generated, style):
    """Mean squared difference of two Gram matrices, divided by 4, per sample.

    It is ``Σ (G − A)² / (4 N² M²)`` with N channels and M positions, equation 4 of Gatys, Ecker and
    Bethge, CVPR 2016.

    Args:
        generated: float tensor (B, H, W, C).
        style: float tensor (B, H', W', C).

    Returns:
        float32 tensor (B,).
    """
    difference = gram_matrix(generated) - gram_matrix(style)
    return ops.mean(ops.square(difference), axis=(1, 2)) / 4.0


def histogram_loss(generated, style):
    """Wasserstein-1 distance of the gray-level histograms, per sample; differentiable.

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


def total_variation_loss(images):
    """Mean absolute difference of neighboring pixels, along rows and columns, per sample.

    Args:
        images: float tensor (B, H, W, C), H and W at least 2.

    Returns:
        float32 tensor (B,).

    Reference: Mahendran and Vedaldi, CVPR 2015, as used by Johnson et al., ECCV 2016.
    """
    images = ops.cast(images, "float32")
    rows = ops.mean(ops.abs(images[:, 1:] - images[:, :-1]), axis=(1, 2, 3))
    columns = ops.mean(ops.abs(images[:, :, 1:] - images[:, :, :-1]), axis=(1, 2, 3))
    return rows + columns
