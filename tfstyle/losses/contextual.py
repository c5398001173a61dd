"""The contextual loss: Mechrez, Talmi and Zelnik-Manor, ECCV 2018, equations 2 to 5."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfstyle._private.images import checked_whole, one_of
from tfstyle.errors import ArgumentError
from tfstyle.losses.blockwise import DISTANCE_EPSILON, column_maxima

#: Distances by name: ``cosine`` is the paper's 1 − cos, ``cosine/2`` the (1 − cos)/2 of the
#: original code, ``l2`` the squared Euclidean distance.
DISTANCES = ("cosine", "cosine/2", "l2")
DIRECTIONS = ("forward", "reverse", "symmetric")
METHODS = ("auto", "dense", "blockwise")

#: Largest number of entries of the distance matrices for which ``auto`` takes the dense path.
DENSE_ENTRIES = 64 * 1024


def contextual_similarity(
    generated,
    content,
    bandwidth: float = 0.1,
    spatial_weight: float = 0.0,
    *,
    distance: str = "cosine",
    direction: str = "forward",
    method: str = "auto",
    block: int | None = None,
):
    """Contextual similarity CA of two sets of feature vectors, per sample.

    With g_i and x_j the feature vectors of both maps, centered by μ_x, the mean of x_j::

        d_ij  = 1 − cos(g_i, x_j)
        d̃_ij = d_ij / (min_k d_ik + 1e-5)
        w_ij  = exp((1 − d̃_ij) / h)
        CA_ij = w_ij / Σ_k w_ik
        CA    = mean_j max_i CA_ij

    It is exact at any size: large maps are compared in blocks of rows, with memory that grows as
    the number of positions and not as its square.

    Args:
        generated: float tensor (B, H, W, C), features g of the generated image.
        content: float tensor (B, H', W', C), features x of the content.
        bandwidth: h, above 0. Small values make the match harder.
        spatial_weight: w of the bilateral variant, in [0, 1): ``d_ij`` becomes
            ``(1 − w)·d_ij + w·‖p_i − p_j‖²`` with positions p in units of a quarter of the map's
            larger side. It ties a match to its place; 0 is the paper's loss. Needs maps of the
            same size.
        distance: ``"cosine"``, ``"cosine/2"`` or ``"l2"``, see :data:`DISTANCES`.
        direction: ``"forward"`` is CA(G, X) above: each x_j looks for its g_i. ``"reverse"`` is
            CA(X, G): each g_i looks for its x_j. ``"symmetric"`` is the mean of both.
        method: ``"dense"`` keeps the (B, N, N) matrices, ``"blockwise"`` does not; ``"auto"`` takes
            the dense path for maps so small that it is faster. Values and gradients agree.
        block: Rows a block of the blockwise path. Defaults to a number chosen by size.

    Returns:
        float32 tensor (B,), in (0, 1]; 1 where each x_j has a g_i that matches it alone. Features
        in half precision are compared in float32.

    Raises:
        ArgumentError: a bandwidth not above 0, a spatial weight not in [0, 1) or with maps of
            different size, an unknown distance, direction or method, or a block below 1.

    Example:
        >>> features = keras.random.normal((1, 6, 6, 8), seed=0)
        >>> contextual_similarity(features, features).shape
        TensorShape([1])

    Reference: Mechrez et al., "The contextual loss for image transformation with non-aligned
    data", arXiv:1803.02077. Bilateral variant: Zhang et al., "Zoom to learn, learn to zoom",
    CVPR 2019, equation 6.
    """
    forward, reverse = _similarities(
        generated, content, bandwidth, spatial_weight, distance, direction, method, block
    )
    if direction == "symmetric":
        return (forward + reverse) / 2
    return forward if direction == "forward" else reverse


def contextual_loss(
    generated, content, bandwidth: float = 0.1, spatial_weight: float = 0.0, **options
):
    """−log CA per sample, with CA of :func:`contextual_similarity`, whose arguments it takes.

    ``direction="symmetric"`` is the mean of both losses.

    Returns:
        float32 tensor (B,), at least 0.

    Raises:
        ArgumentError: as :func:`contextual_similarity`.

    Example:
        >>> features = keras.random.normal((2, 1, 6, 6, 8), seed=0)
        >>> contextual_loss(features[0], features[1], direction="symmetric").shape
        TensorShape([1])
    """
    terms = _similarities(generated, content, bandwidth, spatial_weight, **options)
    losses = [-ops.log(value) for value in terms if value is not None]
    return sum(losses) / len(losses)


@keras.saving.register_keras_serializable(package="tfstyle")
class ContextualLoss(keras.losses.Loss):
    """:func:`contextual_loss` with settings of its own, for ``StyleTransfer.compile`` and Keras.

    Called as every Keras loss with the target first: ``loss(content, generated)``.

    Args:
        bandwidth: See :func:`contextual_similarity`, as for the next five, and for errors.
        reduction: Of Keras; ``None`` gives one value a sample.
        name: Keras name.

    Example:
        >>> loss = ContextualLoss(distance="l2", direction="symmetric")
        >>> model.compile(content_loss=loss, content_layers="relu1_1", style_layers="relu1_1")
    """

    def __init__(
        self,
        bandwidth: float = 0.1,
        spatial_weight: float = 0.0,
        distance: str = "cosine",
        direction: str = "forward",
        method: str = "auto",
        block: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "contextual_loss",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        _check(bandwidth, spatial_weight, distance, direction, method, block)
        self.settings = {
            "bandwidth": bandwidth,
            "spatial_weight": spatial_weight,
            "distance": distance,
            "direction": direction,
            "method": method,
            "block": block,
        }

    def call(self, y_true, y_pred):
        return contextual_loss(y_pred, y_true, **self.settings)

    def get_config(self):
        return {**super().get_config(), **self.settings}


def _check(bandwidth, spatial_weight, distance, direction, method, block):
    if not bandwidth > 0:
        raise ArgumentError(f"bandwidth: must be above 0, received {bandwidth!r}.")
    if not 0.0 <= spatial_weight < 1.0:
        raise ArgumentError(f"spatial_weight: must lie in [0, 1), received {spatial_weight!r}.")
    one_of("distance", distance, DISTANCES)
    one_of("direction", direction, DIRECTIONS)
    one_of("method", method, METHODS)
    if block is not None:
        checked_whole("block", block, 1)


def _similarities(
    generated,
    content,
    bandwidth,
    spatial_weight,
    distance="cosine",
    direction="forward",
    method="auto",
    block=None,
):
    """CA(G, X) and CA(X, G), each (B,), or None for the direction that is not wanted."""
    _check(bandwidth, spatial_weight, distance, direction, method, block)
    g, x = _vectors(generated), _vectors(content)
    center = ops.mean(x, axis=1, keepdims=True)
    g, x = g - center, x - center
    if distance != "l2":
        g, x = _unit(g), _unit(x)
    places = None, None
    if spatial_weight:
        if any(
            a is not None and b is not None and a != b
            for a, b in zip(generated.shape[1:3], content.shape[1:3], strict=True)
        ):
            raise ArgumentError(
                f"spatial_weight: needs maps of the same size, received "
                f"{tuple(generated.shape)} and {tuple(content.shape)}."
            )
        places = (_places(content) * spatial_weight**0.5,) * 2

    def similarity(g, x, g_places, x_places):
        share = 1.0 - spatial_weight
        if distance == "l2":
            factor = -2.0 * share
            offsets = [share * ops.sum(ops.square(v), axis=2) for v in (g, x)]
        else:
            share /= 2.0 if distance == "cosine/2" else 1.0
            factor = -share
            offsets = [ops.full_like(g[:, :, 0], share), ops.zeros_like(x[:, :, 0])]
        entries = [g.shape[0], g.shape[1], x.shape[1]]
        small = None not in entries and int(np.prod(entries)) <= DENSE_ENTRIES
        if method == "dense" or (method == "auto" and small and block is None):
            highest = _dense_maxima(g, x, *offsets, factor, bandwidth, g_places, x_places)
        else:
            highest = column_maxima(
                g,
                x,
                *offsets,
                factor=factor,
                bandwidth=bandwidth,
                g_places=g_places,
                x_places=x_places,
                block=block,
            )
        return ops.mean(highest, axis=1)

    forward = similarity(g, x, *places) if direction != "reverse" else None
    reverse = similarity(x, g, *places[::-1]) if direction != "forward" else None
    return forward, reverse


def _dense_maxima(g, x, g_offset, x_offset, factor, bandwidth, g_places, x_places):
    """What :func:`tfstyle.losses.blockwise.column_maxima` computes, with whole matrices."""
    distance = factor * ops.matmul(g, ops.transpose(x, (0, 2, 1)))
    # Rounding may carry the distance of equal vectors below 0.
    distance = ops.maximum(distance + g_offset[:, :, None] + x_offset[:, None, :], 0.0)
    if g_places is not None:
        for axis in (0, 1):
            distance += ops.square(g_places[:, axis, None] - x_places[None, :, axis])[None]
    nearest = ops.min(distance, axis=2, keepdims=True)
    relative = distance / (nearest + DISTANCE_EPSILON)
    # The factor exp(1/h) cancels in the quotient, so this softmax over k is CA_ij itself.
    affinity = ops.softmax(-relative / bandwidth, axis=2)
    return ops.max(affinity, axis=1)


def _vectors(features):
    """(B, H, W, C) to (B, H·W, C) in float32."""
    vectors = ops.cast(features, "float32")
    return ops.reshape(vectors, (ops.shape(vectors)[0], -1, vectors.shape[-1]))


def _unit(vectors):
    """Vectors of length 1; zero vectors stay zero, with a finite gradient."""
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)


def _places(features):
    """Positions (N, 2) of a map's vectors, in quarters of its larger side."""
    height, width = ops.shape(features)[1], ops.shape(features)[2]
    unit = ops.cast(ops.maximum(height, width), "float32") / 4.0
    rows = ops.cast(ops.arange(height), "float32") / unit
    columns = ops.cast(ops.arange(width), "float32") / unit
    grid = ops.meshgrid(rows, columns, indexing="ij")
    return ops.stack([ops.reshape(part, (-1,)) for part in grid], axis=1)
