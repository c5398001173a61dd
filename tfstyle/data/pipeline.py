"""Training data: an endless ``tf.data`` stream of random content and style crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfstyle._private.images import checked_whole, number_range
from tfstyle._private.images import number as checked_number
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window, WindowSpec, suitable
from tfstyle.errors import ArgumentError

_FLAT = 0.5 / 255  # neighboring gray levels closer than this count as flat
_TRIES = 10  # crops drawn at most before the least flat one is taken


def pair_dataset(
    scans: Sequence[Scan | np.ndarray],
    style_scans: Sequence[Scan | np.ndarray] | None = None,
    *,
    windows: Sequence[WindowSpec] = ("auto",),
    style_windows: Sequence[WindowSpec] | None = None,
    crop: int = 128,
    batch_size: int = 8,
    seed: int = 0,
    start: int = 0,
    weights: Sequence[float] | None = None,
    window_jitter: float = 0.0,
    rescale: tuple[float, float] | None = None,
    flips: bool = False,
    min_body: float = 0.25,
    same_place: float = 0.0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Random pairs of content and style crops.

    Content and style are drawn independently: scan, slice, window, place, zoom and flip. Pair
    number ``i`` depends on ``seed`` and ``i`` alone, so that a run that resumes at step ``start``
    sees the pairs that it would have seen.

    Example:
        >>> from tfstyle.data import spine_phantom
        >>> scans = [spine_phantom(seed).scan for seed in range(4)]
        >>> data = pair_dataset(scans, windows=("bone", "soft_tissue"), crop=64, batch_size=2)
        >>> next(iter(data))["content"].shape
        TensorShape([2, 64, 64, 1])

    Args:
        scans: Scans, or arrays: float images in [0, 1], int16 HU, uint8 or uint16 gray, of shape
            (rows, columns), (slices, rows, columns) or either with a last axis of length 1.
        style_scans: Where styles come from. Defaults to ``scans``.
        windows: Windows, see :func:`~tfstyle.data.windows.resolve_window`; one is drawn for each
            crop. One that does not suit a scan (a name in HU for a picture) is passed over for
            that scan.
        style_windows: Windows of the styles. Defaults to ``windows``.
        crop: Side of the square crops in pixels. Smaller slices are extended by reflection.
        batch_size: Pairs in a batch.
        seed: Seed of all draws.
        start: Number of batches to pass over, for a run that resumes.
        weights: How often each of ``scans`` is drawn, relative to the others. Defaults to its
            number of slices, which holds for ``style_scans`` always.
        window_jitter: Random change of the windows: the width by a factor up to ``exp(±jitter)``,
            the center by up to ``jitter`` half widths.
        rescale: Range of a random zoom (log-uniform), such as ``(0.7, 1.4)``; above 1 magnifies.
        flips: Whether to mirror crops left to right and top to bottom at random.
        min_body: Least share of pixels in a crop that differ from a neighbor; flatter crops (air,
            clipped bone) are drawn again, up to ten times, then the best of them is taken.
        same_place: Share of pairs whose style is the content's own crop in another window, from
            which a model learns the tone curve free of the anatomy's share in the histogram.
        shard: ``(worker, workers)``, for one of several machines: batches hold that worker's part
            of the batch that a single machine would see.

    Returns:
        Endless dataset of ``{"content": ..., "style": ...}``, both float32 (batch_size, crop, crop,
        1) in [0, 1], of static shape; with ``same_place`` also ``"paired"``, float32
        (batch_size,), 1 where the style is the content's own crop. With ``shard`` the first axis
        is ``batch_size / workers``.

    Raises:
        ArgumentError: If an argument cannot be used, or no window suits a scan.
    """
    crop, batch_size = checked_whole("crop", crop, 1), checked_whole("batch_size", batch_size, 1)
    start = checked_whole("start", start, 0)
    worker, workers = shard
    if not 0 <= worker < workers or batch_size % workers:
        raise ArgumentError(
            "shard: must be (worker, workers), 0 <= worker < workers, and batch_size a multiple "
            f"of workers, received {shard!r} and batch_size {batch_size}."
        )
    settings: dict[str, Any] = {
        "crop": crop,
        "jitter": checked_number("window_jitter", window_jitter, 0, 2),
        "rescale": None if rescale is None else number_range("rescale", rescale, 0.05, 20),
        "flips": flips,
        "min_body": checked_number("min_body", min_body, 0, 1),
    }
    checked_number("same_place", same_place, 0, 1)
    content = _Source("scans", scans, windows, weights, **settings)
    again = style = content
    if style_windows is not None:
        again = style = _Source("scans", scans, style_windows, weights, **settings)
    if style_scans is not None:
        style = _Source("style_scans", style_scans, style_windows or windows, None, **settings)

    def draw(number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rng = np.random.default_rng([int(seed) & (2**63 - 1), int(number)])
        image, place = content.draw(rng)
        if same_place and rng.random() < same_place:
            return image, again.render(place, rng), np.float32(1)
        return image, style.draw(rng)[0], np.float32(0)

    def pair(number: tf.Tensor) -> dict[str, tf.Tensor]:
        drawn = tf.numpy_function(draw, [number], [tf.float32] * 3, stateful=False)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("content", "style"), (crop, crop, 1))
        if same_place:
            shapes["paired"] = ()
        return {
            name: tf.ensure_shape(value, shape)
            for value, (name, shape) in zip(drawn, shapes.items())
        }

    numbers = tf.data.Dataset.counter(start=start * batch_size).shard(workers, worker)
    return numbers.map(pair).batch(batch_size // workers, drop_remainder=True).prefetch(2)


def _as_scan(name: str, item: Scan | np.ndarray) -> tuple[Scan, bool]:
    """The scan, and whether its pixels are gray levels in [0, 1] already."""
    if isinstance(item, Scan):
        return item, False
    array = np.asarray(item)
    if array.ndim in (3, 4) and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[None]
    unit = array.dtype.kind == "f"
    if unit and array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ArgumentError(f"{name}: float images must lie in [0, 1]; give HU as int16.")
    units = {"f": "US", "u": "gray"}.get(array.dtype.kind, "HU")
    return Scan(array.astype(np.float32) if unit else array, units=units, name="array"), unit


class _Place(NamedTuple):
    """Where a crop lies: scan, slice, corner and side in pixels, and steps along its axes."""

    scan: int
    plane: int
    top: int
    left: int
    size: int
    steps: tuple[int, int]


class _Source:
    """Draws random crops of a set of scans."""

    def __init__(
        self,
        name: str,
        scans: Sequence[Scan | np.ndarray],
        windows: Sequence[WindowSpec],
        weights: Sequence[float] | None,
        *,
        crop: int,
        jitter: float,
        rescale: tuple[float, float] | None,
        flips: bool,
        min_body: float,
    ):
        scans = [scans] if isinstance(scans, (Scan, np.ndarray)) else scans
        windows = [windows] if isinstance(windows, (str, Window)) else windows
        if len(scans) == 0:
            raise ArgumentError(f"{name}: at least one scan is needed.")
        self.crop, self.jitter, self.rescale = crop, jitter, rescale
        self.flips, self.min_body = flips, min_body
        self.scans = []
        for item in scans:
            scan, is_unit = _as_scan(name, item)
            shown = [Window(0.5, 1.0)] if is_unit else [one for _, one in suitable(windows, scan)]
            self.scans.append((scan.pixels, shown))
        counts = [len(pixels) for pixels, _ in self.scans]
        chances = np.array(counts if weights is None else weights, np.float64)
        if chances.shape != (len(self.scans),):
            raise ArgumentError(f"{name}: {len(self.scans)} scans, but {chances.size} weights.")
        if not (np.isfinite(chances).all() and (chances >= 0).all() and chances.sum() > 0):
            raise ArgumentError(f"{name}: weights must be at least 0 and not all 0.")
        self.chances = chances / chances.sum()

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, _Place]:
        """One crop, float32 (crop, crop, 1), and its place."""
        best_share = -1.0
        for _ in range(_TRIES):
            place = self._place(rng)
            image = self.render(place, rng)
            share = _body_share(image[..., 0])
            if share > best_share:
                best, best_share = (image, place), share
            if share >= self.min_body:
                break
        return best

    def _place(self, rng: np.random.Generator) -> _Place:
        number = int(rng.choice(len(self.scans), p=self.chances))
        count, rows, columns = self.scans[number][0].shape
        size = self.crop
        if self.rescale is not None:
            size = max(1, round(size / float(np.exp(rng.uniform(*np.log(self.rescale))))))
        plane, top, left = (
            int(rng.integers(n))
            for n in (count, max(1, rows - size + 1), max(1, columns - size + 1))
        )
        down, right = rng.choice((-1, 1), 2) if self.flips else (1, 1)
        return _Place(number, plane, top, left, size, (down, right))

    def render(self, place: _Place, rng: np.random.Generator) -> np.ndarray:
        """The crop at a place in a random window, float32 (crop, crop, 1)."""
        pixels, windows = self.scans[place.scan]
        window = windows[int(rng.integers(len(windows)))]
        if self.jitter:
            window = window.jittered(self.jitter, rng)
        top, left, size = place.top, place.left, place.size
        patch = window.to_unit(pixels[place.plane][top : top + size, left : left + size])
        missing = size - patch.shape[0], size - patch.shape[1]
        if any(missing):
            patch = np.pad(patch, [(m // 2, m - m // 2) for m in missing], mode="symmetric")
        if size != self.crop:
            kernel = _resize_matrix(size, self.crop)
            patch = np.clip(kernel @ patch @ kernel.T, 0, 1)
        patch = patch[:: place.steps[0], :: place.steps[1]]
        return np.ascontiguousarray(patch[..., None], np.float32)


def _body_share(image: np.ndarray) -> float:
    """Share of pixels that differ from the pixel below or to the right of them."""
    if min(image.shape) < 2:
        return 1.0
    inner = image[:-1, :-1]
    varied = np.abs(image[1:, :-1] - inner) > _FLAT
    varied |= np.abs(image[:-1, 1:] - inner) > _FLAT
    return float(np.count_nonzero(varied)) / varied.size


@lru_cache(maxsize=512)
def _resize_matrix(size: int, target: int) -> np.ndarray:
    """Linear interpolation from ``size`` to ``target`` samples, widened against aliasing."""
    scale = size / target
    centers = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(size)[None] - centers[:, None]) / max(1.0, scale)
    kernel = np.maximum(0, 1 - distance)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
