"""The contextual loss: Mechrez, Talmi and Zelnik-Manor, ECCV 2018, equations 2 to 5."""

from __future__ import annotations

from keras import ops

from tfstyle.errors import ArgumentError

#: ε of equation 3, in the denominator of the normalised distance.
DISTANCE_EPSILON = 1e-5


def contextual_similarity(generated, content, bandwidth: float = 0.1, spatial_weight: float = 0.0):
    """Contextual similarity CA of two sets of feature vectors, per sample.

    With g_i and x_j the feature vectors of both maps, centred by μ_x, the mean of x_j::

        d_ij  = 1 − cos(g_i, x_j)
        d̃_ij = d_ij / (min_k d_ik + 1e-5)
        w_ij  = exp((1 − d̃_ij) / h)
        CA_ij = w_ij / Σ_k w_ik
        CA    = mean_j max_i CA_ij

    Args:
        generated: float tensor (B, H, W, C), features g of the generated image.
        content: float tensor (B, H', W', C), features x of the content.
        bandwidth: h, above 0. Small values make the match harder.
        spatial_weight: w of the bilateral variant, in [0, 1): ``d_ij`` becomes
            ``(1 − w)·d_ij + w·‖p_i − p_j‖²`` with positions p in units of a quarter of the map's
            larger side. It ties a match to its place; 0 is the paper's loss. Needs maps of the
            same size.

    Returns:
        float32 tensor (B,), in (0, 1]; 1 where each x_j has a g_i that matches it alone.

    Raises:
        ArgumentError: if the bandwidth is not above 0, or the spatial weight not in [0, 1).

    Example:
        >>> contextual_similarity(features, features)   # close to 1

    Reference: Mechrez et al., "The contextual loss for image transformation with non-aligned
    data", arXiv:1803.02077. Bilateral variant: Zhang et al., "Zoom to learn, learn to zoom",
    CVPR 2019, equation 6.
    """
    if not bandwidth > 0:
        raise ArgumentError(f"bandwidth: must be above 0, received {bandwidth!r}.")
    if not 0.0 <= spatial_weight < 1.0:
        raise ArgumentError(f"spatial_weight: must lie in [0, 1), received {spatial_weight!r}.")
    g, x = _vectors(generated), _vectors(content)
    centre = ops.mean(x, axis=1, keepdims=True)
    g, x = _unit(g - centre), _unit(x - centre)
    # (B, N_g, N_x); rounding may carry a cosine above 1.
    distance = ops.maximum(1.0 - ops.matmul(g, ops.transpose(x, (0, 2, 1))), 0.0)
    if spatial_weight:
        distance = (1.0 - spatial_weight) * distance + spatial_weight * _spatial(content)
    nearest = ops.min(distance, axis=2, keepdims=True)
    relative = distance / (nearest + DISTANCE_EPSILON)
    # The factor exp(1/h) cancels in the quotient, so this softmax over k is CA_ij itself.
    affinity = ops.softmax(-relative / bandwidth, axis=2)
    return ops.mean(ops.max(affinity, axis=1), axis=1)


def contextual_loss(generated, content, bandwidth: float = 0.1, spatial_weight: float = 0.0):
    """−log CA per sample, with CA of :func:`contextual_similarity`.

    Args:
        generated: float tensor (B, H, W, C).
        content: float tensor (B, H', W', C).
        bandwidth: h, above 0.
        spatial_weight: w of the bilateral variant; 0 is the paper's loss.

    Returns:
        float32 tensor (B,), at least 0.
    """
    return -ops.log(contextual_similarity(generated, content, bandwidth, spatial_weight))


def _vectors(features):
    """(B, H, W, C) to (B, H·W, C) in float32."""
    channels = features.shape[-1]
    batch = features.shape[0] if features.shape[0] is not None else ops.shape(features)[0]
    return ops.reshape(ops.cast(features, "float32"), (batch, -1, channels))


def _unit(vectors):
    """Vectors of length 1; zero vectors stay zero, with a finite gradient."""
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)


def _spatial(features):
    """Squared distances of all positions, (1, N, N), in quarters of the larger side."""
    height, width = ops.shape(features)[1], ops.shape(features)[2]
    unit = ops.cast(ops.maximum(height, width), "float32") / 4.0
    rows = ops.cast(ops.arange(height), "float32") / unit
    columns = ops.cast(ops.arange(width), "float32") / unit
    rows, columns = (ops.reshape(p, (-1,)) for p in ops.meshgrid(rows, columns, indexing="ij"))
    return (
        ops.square(rows[:, None] - rows[None, :]) + ops.square(columns[:, None] - columns[None, :])
    )[None]
