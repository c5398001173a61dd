"""Guided detail: the content's own pixels under a tone curve that varies smoothly over the image.

The network generates at a reduced size; what it did to the gray scale is kept as a grid of tone
curves, coarse over the image and fine over the gray levels, and applied to the content at its
full size. No structure can come in that the content has not.
"""

from __future__ import annotations

from keras import ops

from tfstyle.errors import ArgumentError

#: Grid cells along height and along width. More of them follow the network's tone more closely,
#: and flatten what is nearly as large as a cell.
CELLS = 6
#: Knots of each tone curve, evenly over [0, 1].
LEVELS = 9
#: Pull of the whole image's curve on a cell's, in shares of the pixels of an average cell.
GLOBAL_PULL = 0.1
#: Pixels whose 5x5 neighbourhood has this standard deviation count half: near edges a network
#: answers to both sides at once, which would show as a glow along the skin.
EDGE_SPREAD = 0.05
#: Ridge of the slopes inside one knot's reach; that reach has a variance near 2.6e-3.
RIDGE = 1e-4
#: Weight of the straight line through all pixels in the curve of the whole image.
LINE_PULL = 1e-5
#: Equal shares of the pixels in which the gray levels of an image are summed up.
SHARES = 64
#: Rows and columns of pixels that are looked at for them; their square is a multiple of SHARES.
SAMPLE = 96
#: Contrast, in gray levels, below which an image counts as flat.
FLAT = 3e-3
#: What each of the rounds of :func:`match_levels` may do: stretch or shrink the contrast of the
#: image by the first factor, and that of a range of gray levels by the second beyond it. Freely
#: matched histograms give tissue away: where the style shows more air, tissue would turn black.
ROUNDS, LARGEST_GAIN, LARGEST_BEND = 2, 1.5, 1.5


def reduce_size(images, longest: int):
    """Reduces images by area averaging until no side is longer than `longest`.

    Args:
        images: float tensor (B, H, W, 1), any size, static or not.
        longest: Largest height or width of the result, at least 1.

    Returns:
        float tensor (B, h, w, 1) of nearly the same proportions; smaller images stay as they are.

    Raises:
        ArgumentError: if `longest` is below 1.

    Example:
        >>> reduce_size(ops.ones((1, 512, 400, 1)), 256).shape
        (1, 256, 200, 1)
    """
    if longest < 1:
        raise ArgumentError(f"longest: must be at least 1, received {longest!r}.")
    shape = ops.shape(images)
    height, width = shape[1], shape[2]
    if isinstance(height, int) and isinstance(width, int) and max(height, width) <= longest:
        return images
    if isinstance(height, int) and isinstance(width, int):
        scale = longest / max(height, width)
        rows, columns = (max(int(size * scale + 0.5), 1) for size in (height, width))
    else:
        largest = ops.maximum(ops.maximum(height, width), longest)
        scale = longest / ops.cast(largest, "float32")
        rows, columns = (
            ops.maximum(ops.cast(ops.cast(size, "float32") * scale + 0.5, "int32"), 1)
            for size in (height, width)
        )
    down, across = _area_weights(height, rows), _area_weights(width, columns)
    return ops.matmul(ops.matmul(down, images[..., 0]), ops.transpose(across))[..., None]


def _area_weights(size, reduced):
    """(reduced, size) share of every pixel in every reduced pixel; rows sum to 1."""
    step = ops.cast(size, "float32") / ops.cast(reduced, "float32")
    start = ops.arange(reduced, dtype="float32")[:, None] * step
    pixel = ops.arange(size, dtype="float32")[None]
    overlap = ops.minimum(start + step, pixel + 1.0) - ops.maximum(start, pixel)
    return ops.relu(overlap) / step


def _cell_weights(size, cells: int):
    """(size, cells) quadratic B-spline weights of pixels and grid cells; rows sum to 1."""
    position = (ops.arange(size, dtype="float32") + 0.5) / ops.cast(size, "float32") * cells - 0.5
    distance = ops.abs(position[:, None] - ops.arange(-1, cells + 1, dtype="float32")[None])
    spline = 0.5 * ops.square(ops.relu(1.5 - distance)) - 1.5 * ops.square(ops.relu(0.5 - distance))
    # What falls outside the grid goes to its border cells.
    if cells == 1:
        return ops.sum(spline, axis=1, keepdims=True)
    first = spline[:, :1] + spline[:, 1:2]
    last = spline[:, -2:-1] + spline[:, -1:]
    return ops.concatenate([first, spline[:, 2:-2], last], axis=1)


def fit_tone_grid(
    content,
    generated,
    cells: int = CELLS,
    levels: int = LEVELS,
    pull: float = GLOBAL_PULL,
    monotone: bool = True,
):
    """Fits the tone curves that lead from `content` to `generated`, as differences from identity.

    In every cell (i, j) and at every knot t_k a line is fitted to the differences r = g − x of
    the pixels around, with the weights ``w = β_i(p)·β_j(q)·hat_k(x)·e(p, q)``: quadratic
    B-splines over the image, hats of one knot's reach over the gray levels, and less weight near
    edges. The line's value at t_k is the knot's. Cells with few pixels of a gray level lean on the
    curve of the whole image, and that on one line through all pixels: a bilateral grid (Chen 2007,
    Gharbi 2017) in a form whose curves join without steps.

    Args:
        content: float tensor (B, h, w, 1), x in [0, 1].
        generated: float tensor (B, h, w, 1), g.
        cells: Grid cells along height and along width; 1 gives one curve for the image.
        levels: Knots, at least 2; 2 gives straight lines.
        pull: Weight of the whole image's curve; see ``GLOBAL_PULL``.
        monotone: Make every curve x + r(x) nondecreasing, so that a ≥ 0 everywhere.

    Returns:
        float32 tensor (B, levels, cells, cells): r at the knots, to give to
        :func:`apply_tone_grid`. Zero where the images are equal.

    Raises:
        ArgumentError: if cells or levels cannot be used.

    Example:
        >>> grid = fit_tone_grid(content_small, generated_small)
        >>> generated = apply_tone_grid(content, grid)

    References: Chen, Paris and Durand, "Real-time edge-aware image processing with the bilateral
    grid", SIGGRAPH 2007; Gharbi et al., "Deep bilateral learning for real-time image
    enhancement", SIGGRAPH 2017, section 3.
    """
    if cells < 1:
        raise ArgumentError(f"cells: must be at least 1, received {cells!r}.")
    if levels < 2:
        raise ArgumentError(f"levels: must be at least 2, received {levels!r}.")
    x = ops.cast(content, "float32")[..., 0]
    r = ops.cast(generated, "float32")[..., 0] - x
    shape = ops.shape(x)
    down, across = _cell_weights(shape[1], cells), _cell_weights(shape[2], cells)
    area = ops.cast(shape[1], "float32") * ops.cast(shape[2], "float32") / cells**2
    knots = ops.linspace(0.0, 1.0, levels)[:, None, None]  # (K, 1, 1) beside (B, K, i, j)
    evenness = _edge_weights(x)[:, None]
    u = x[:, None] - knots
    # About the mean of r, and the line below about the middle of the gray scale: what is left
    # after the subtractions of a line's fit is small beside the sums, and float32 rounds those.
    r = r[:, None]
    offset = ops.mean(r, axis=(2, 3), keepdims=True)
    r = r - offset
    about = knots - 0.5
    hats = evenness * ops.relu(1.0 - ops.abs(u) * (levels - 1))
    hats_u = hats * u

    def gather(values):
        return ops.matmul(ops.transpose(down), ops.matmul(values, across)) / area

    sums = [gather(v) for v in (hats, hats_u, hats * r, hats_u * u, hats_u * r)]
    lowest = -1.0 if monotone else None

    # One line through all pixels: the curve where no pixel is.
    whole = [ops.mean(v, axis=(2, 3), keepdims=True) for v in sums]
    n, su, sr, suu, sur = whole
    everything = [
        ops.sum(v, axis=1, keepdims=True)
        for v in (
            n,
            su + n * about,
            sr,
            suu + 2 * su * about + n * about * about,
            sur + sr * about,
        )
    ]
    mean, middle, slope = _line(everything, 0.0, 1e-5, lowest)
    line = mean + slope * (about - middle)

    curve = _knots(whole, slope, lowest)
    curve = (n * curve + LINE_PULL * line) / (n + LINE_PULL)
    if monotone:
        curve = _rising(curve + knots) - knots
    steps = (curve[:, 1:] - curve[:, :-1]) * (levels - 1)
    slopes = 0.5 * (
        ops.concatenate([steps[:, :1], steps], axis=1)
        + ops.concatenate([steps, steps[:, -1:]], axis=1)
    )
    n = sums[0]
    grid = (n * _knots(sums, slopes, lowest) + pull * curve) / (n + pull + 1e-9) + offset
    return _rising(grid + knots) - knots if monotone else grid


def _edge_weights(x):
    """Weights (B, h, w) of mean 1, lower where the 5x5 neighbourhood is uneven."""
    x = x[..., None]
    mean = ops.average_pool(x, 5, strides=1, padding="same")
    variance = ops.average_pool(ops.square(x), 5, strides=1, padding="same") - ops.square(mean)
    weights = 1.0 / (1.0 + ops.relu(variance) / EDGE_SPREAD**2)
    return (weights / ops.mean(weights, axis=(1, 2, 3), keepdims=True))[..., 0]


def _line(sums, slope, ridge, lowest):
    """Mean of r, mean of u, and the slope of r over u, drawn to `slope` by the ridge."""
    n, su, sr, suu, sur = sums
    n = ops.maximum(n, 1e-9)
    u, r = su / n, sr / n
    slope = (sur / n - u * r + ridge * slope) / (ops.relu(suu / n - u * u) + ridge)
    if lowest is not None:
        slope = ops.maximum(slope, lowest)
    return r, u, slope


def _knots(sums, slope, lowest):
    r, u, slope = _line(sums, slope, RIDGE, lowest)
    return r - slope * u


def _rising(curve):
    """The mean of the least nondecreasing curve above and the greatest one below, on axis 1."""
    above, below = curve, curve
    count, step = curve.shape[1], 1
    while step < count:
        above = ops.concatenate(
            [above[:, :step], ops.maximum(above[:, step:], above[:, :-step])], axis=1
        )
        below = ops.concatenate(
            [ops.minimum(below[:, :-step], below[:, step:]), below[:, -step:]], axis=1
        )
        step *= 2
    return 0.5 * (above + below)


def gray_levels(images):
    """The gray levels of an image in rising order, as means of equal shares of its pixels.

    They stand for its histogram: the mean absolute difference of two of them is, but for the
    sample, the Wasserstein-1 distance of the images. ``SAMPLE`` rows and columns of pixels are
    looked at as they are, so that noise counts as it does in the image.

    Args:
        images: float tensor (B, H, W, 1), any size, static or not.

    Returns:
        float32 tensor (B, SHARES).
    """
    return _shares(_sample(images))


def _sample(images):
    """SAMPLE rows and columns, evenly spread; those of smaller images come more than once."""
    images = ops.cast(images, "float32")
    shape = ops.shape(images)
    for axis in (1, 2):
        places = (ops.arange(SAMPLE, dtype="float32") + 0.5) / SAMPLE
        places = ops.cast(places * ops.cast(shape[axis], "float32"), "int32")
        images = ops.take(images, places, axis=axis)
    return images


def _shares(sample):
    levels = ops.sort(ops.reshape(sample, (-1, SAMPLE**2)), axis=1)
    return ops.mean(ops.reshape(levels, (-1, SHARES, SAMPLE**2 // SHARES)), axis=2)


def match_levels(grid, content, levels, strength=None):
    """Puts one rising curve behind a tone grid that brings the image's histogram to `levels`.

    The curve comes from the pairs of gray levels of equal rank, the solution of optimal transport
    in one dimension, bounded in slope by ``LARGEST_GAIN`` and ``LARGEST_BEND``. It corrects what
    the network left of the style's gray scale as a whole; what it did from place to place stays.

    Args:
        grid: float tensor (B, knots, cells, cells) of :func:`fit_tone_grid`.
        content: float tensor (B, H, W, 1) in [0, 1] that the grid is for, any size.
        levels: float tensor (B or 1, SHARES), :func:`gray_levels` of the style.
        strength: scalar or (B, 1, 1, 1) in [0, 1]: how far to go from the content's own gray
            levels; None goes all the way.

    Returns:
        float32 tensor (B, knots, cells, cells).

    Reference: Pitié, Kokaram and Dahyot, "Automated colour grading using colour distribution
    transfer", Computer Vision and Image Understanding 107 (2007).
    """
    sample = _sample(content)
    if strength is not None:
        strength = ops.reshape(ops.cast(strength, "float32"), (-1, 1))
        levels = (1.0 - strength) * _shares(sample) + strength * levels
    count = grid.shape[1]
    knots = ops.linspace(0.0, 1.0, count)
    # Knots without pixels follow the knots around.
    around = ops.exp(-0.5 * ops.square((knots[:, None] - knots) * 0.5 * (count - 1)))
    spread = ops.std(levels, axis=1, keepdims=True) + FLAT
    for _ in range(ROUNDS):  # the second takes back what clipping moved
        now = _shares(apply_tone_grid(sample, grid))
        hats = _hats(now, knots)
        n, change = ops.mean(hats, axis=2), ops.mean(hats * (levels - now)[:, None], axis=2)
        near = ops.matmul(change, around) / (ops.matmul(n, around) + 1e-6)
        curve = (change + 1e-3 * near) / (n + 1e-3) + knots
        gain = spread / (ops.std(now, axis=1, keepdims=True) + FLAT)
        gain = ops.clip(gain, 1.0 / LARGEST_GAIN, LARGEST_GAIN)
        steps = (curve[:, 1:] - curve[:, :-1]) * (count - 1)
        steps = ops.clip(steps, gain / LARGEST_BEND, gain * LARGEST_BEND) / (count - 1)
        curve = ops.concatenate([ops.zeros_like(n[:, :1]), ops.cumsum(steps, axis=1)], axis=1)
        mean = ops.mean(ops.sum(hats * curve[..., None], axis=1), axis=1, keepdims=True)
        change = curve + ops.mean(levels, axis=1, keepdims=True) - mean - knots
        toned = ops.reshape(grid + knots[:, None, None], (ops.shape(grid)[0], -1))
        added = ops.sum(_hats(toned, knots) * change[..., None], axis=1)
        grid = grid + ops.reshape(added, ops.shape(grid))
    return grid


def _hats(values, knots):
    """(B, knots, N) weights of the knots for values (B, N); beyond the ends the outer ones hold."""
    distance = ops.abs(ops.clip(values, 0.0, 1.0)[:, None] - knots[:, None])
    return ops.relu(1.0 - distance * (knots.shape[0] - 1))


def smooth_slices(grid, sigma: float = 1.0):
    """Smooths tone grids along the batch axis, where neighbours are neighbouring slices.

    Args:
        grid: float tensor (B, levels, cells, cells).
        sigma: Standard deviation of the Gaussian, in slices; 0 leaves the grids as they are.

    Returns:
        The same shape. At the ends the weights that remain are divided by their sum.

    Raises:
        ArgumentError: if `sigma` is negative.
    """
    if not sigma >= 0:
        raise ArgumentError(f"sigma: must be at least 0, received {sigma!r}.")
    if sigma == 0:
        return grid
    shape = ops.shape(grid)
    index = ops.arange(shape[0], dtype="float32")
    away = ops.abs(index[:, None] - index[None])
    weights = ops.exp(-0.5 * ops.square(away / sigma))
    weights = ops.where(away <= slice_reach(sigma), weights, 0.0)
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    return ops.reshape(ops.matmul(weights, ops.reshape(grid, (shape[0], -1))), shape)


def slice_reach(sigma: float) -> int:
    """How many slices to either side :func:`smooth_slices` looks."""
    return int(2 * sigma + 0.5)


def apply_tone_grid(content, grid):
    """Applies tone curves to every pixel: y = x + Σ_k hat_k(x)·r_k(p, q) = a·x + b.

    r_k(p, q) is the grid read with quadratic B-splines, so that a and b have no steps over the
    image. Between two knots ``a = 1 + (r_{k+1} − r_k)·(levels − 1)``. The content's full
    float32 depth goes through; nothing is quantised.

    Args:
        content: float tensor (B, H, W, 1), x in [0, 1], any size.
        grid: float tensor (B or 1, levels, cells, cells) of :func:`fit_tone_grid`.

    Returns:
        float32 tensor (B, H, W, 1), clipped to [0, 1].
    """
    x = ops.cast(content, "float32")[..., 0]
    shape = ops.shape(x)
    _, levels, rows, columns = grid.shape
    down, across = _cell_weights(shape[1], rows), _cell_weights(shape[2], columns)
    tall = ops.matmul(down, grid)  # (B, levels, H, cells)
    across = ops.transpose(across)
    y, position = x, x * (levels - 1)
    # One knot at a time: no (B, H, W, levels) is held.
    for k in range(levels):
        if 0 < k < levels - 1:
            hat = ops.relu(1.0 - ops.abs(position - k))
        else:  # the outer knots hold beyond the ends as well
            hat = ops.clip(1.0 - position if k == 0 else position - (k - 1), 0.0, 1.0)
        y = y + hat * ops.matmul(tall[:, k], across)
    return ops.clip(y, 0.0, 1.0)[..., None]
