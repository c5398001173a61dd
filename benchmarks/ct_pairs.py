"""Pairs of slices of different patients whose right answer is known.

    for pair in draw_pairs(load_scans("DATA"), {"torso"}, count=200, seed=0):
        generated = method.stylize(pair.content, pair.style)   # to be pair.right in pair.mask

Pair number n depends on the seed, the groups left out, the scans and n alone: the first 50 of 200
are the 50 of 50.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from ct_scans import ScanRecord

from studies import common
from tfstyle.data.windows import WINDOWS, Window

#: Longest side of a picture.
SIZE = 192
#: Shares of the pairs, or of the sides, that are drawn so.
SAME_SCALE = 0.15
TABLE_WINDOW = 0.5
GAMMA = 0.3
EIGHT_BIT = 1 / 3
CROP = 0.5
MARGIN = 0.25
#: Least share of the body's pixels that the content's window, and the style's, does not clip.
CONTENT_SHOWN, STYLE_SHOWN = 0.25, 0.1
#: Least pixels that count, and least share of the body in a picture.
LEAST_PIXELS, LEAST_BODY = 300, 0.1
#: Shortest side of a crop before it is reduced.
LEAST_SIDE = 48


@dataclass(frozen=True)
class GrayScale:
    """From HU to gray levels: window, then a power, then perhaps 8 bits."""

    name: str  # of the window in the table, or its middle and width
    window: Window
    gamma: float = 1.0  # exponent, 1 for none
    eight_bit: bool = False  # whether gray levels are those of a picture of 8 bits

    def __call__(self, hu: np.ndarray) -> np.ndarray:
        """Gray levels float32 in [0, 1] of an array in HU."""
        gray = self.window.to_unit(hu) ** np.float32(self.gamma)
        return np.round(gray * 255) / np.float32(255) if self.eight_bit else gray

    def shown(self, hu: np.ndarray) -> float:
        """Share of the values that the window does not clip."""
        return float(np.mean((hu > self.window.lower) & (hu < self.window.upper)))

    def __str__(self) -> str:
        gamma = "" if self.gamma == 1 else f", γ {self.gamma:.2f}"
        return self.name + gamma + (", 8 bit" if self.eight_bit else "")


@dataclass(frozen=True, eq=False)
class Pair:
    """One question and its answer; all arrays but that of the style have one shape (H, W)."""

    content: np.ndarray = field(repr=False)  # float32 in [0, 1]
    style: np.ndarray = field(repr=False)  # float32 (H', W') in [0, 1]
    right: np.ndarray = field(repr=False)  # float32 in [0, 1], the HU in the style's gray scale
    hu: np.ndarray = field(repr=False)  # float32, the content in HU
    body: np.ndarray = field(repr=False)  # bool, inside the body
    mask: np.ndarray = field(repr=False)  # bool, what counts: in the body, content neither 0 nor 1
    content_id: str  # scan of the content
    style_id: str
    content_scale: GrayScale
    style_scale: GrayScale

    @property
    def same_scale(self) -> bool:
        """Whether both have one gray scale, so that the right answer is the content."""
        return self.content_scale == self.style_scale


def draw_pairs(
    scans: Mapping[str, ScanRecord],
    held_out_groups: Iterable[str],
    count: int,
    seed: int = 0,
    size: int = SIZE,
) -> Iterator[Pair]:
    """Pairs of one fold: contents of the patients left out, styles of all others.

    Patients, scans and slices are drawn evenly, in this order. Half of the pictures are crops, a
    quarter has more air around it; what lies beside the body, such as the table, stays. Gray scales
    are windows of the table or random ones (middle −700 to 700 HU, width 80 to 4 000 HU), some with
    a power of 0.5 to 2 or in 8 bits; 15 % of the pairs have one and the same on both sides.

    Args:
        scans: From :func:`ct_scans.load_scans`.
        held_out_groups: Groups of the contents.
        count: Number of pairs.
        seed: Of the draws.
        size: Longest side of the pictures; larger ones are reduced by averaging HU.

    Raises:
        ValueError: if no scan belongs to the groups, or all do.
    """
    held_out = sorted({*held_out_groups})
    inside = [scan for scan in scans.values() if scan.group in held_out]
    outside = [scan for scan in scans.values() if scan.group not in held_out]
    if not inside or not outside:
        raise ValueError(f"held_out_groups: must be some of the groups, received {held_out}.")
    fold = zlib.crc32(" ".join(held_out).encode())
    for number in range(count):
        rng = np.random.default_rng([seed, fold, number])
        pair = None
        while pair is None:
            pair = _draw_pair(inside, outside, rng, size)
        yield pair


def draw_scale(rng: np.random.Generator) -> GrayScale:
    """A random gray scale: a window of the table or a random one, a power, 8 bits."""
    if rng.random() < TABLE_WINDOW:
        name = str(rng.choice(sorted(WINDOWS)))
        window = WINDOWS[name]
    else:
        window = Window(rng.uniform(-700, 700), np.exp(rng.uniform(np.log(80), np.log(4000))))
        name = f"{(window.lower + window.upper) / 2:.0f}, {window.width:.0f} HU"
    gamma = float(np.exp(rng.uniform(np.log(0.5), np.log(2)))) if rng.random() < GAMMA else 1.0
    return GrayScale(name, window, gamma, bool(rng.random() < EIGHT_BIT))


def draw_view(
    scan: ScanRecord, rng: np.random.Generator, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """A random slice in a random field of view.

    Args:
        scan: The scan.
        rng: Source of randomness.
        size: Longest side of the result.

    Returns:
        HU float32 (H, W), and the body, bool (H, W).
    """
    number = int(rng.integers(len(scan.hu)))
    hu, body = scan.hu[number].astype(np.float32), scan.body[number]
    if rng.random() < CROP:
        for _ in range(20):
            window = tuple(_part(side, rng) for side in hu.shape)
            if body[window].mean() >= 2 * LEAST_BODY:
                hu, body = hu[window], body[window]
                break
    if rng.random() < MARGIN:
        pad = [tuple(int(n) for n in rng.uniform(0, 0.3, 2) * side) for side in hu.shape]
        hu, body = np.pad(hu, pad, constant_values=-1000.0), np.pad(body, pad)
    return common.reduced(hu, size), common.reduced(body, size) > 0.5


def _part(side: int, rng: np.random.Generator) -> slice:
    length = max(min(side, LEAST_SIDE), round(side * rng.uniform(0.4, 1.0)))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)


def _scan(scans: list[ScanRecord], rng: np.random.Generator) -> ScanRecord:
    group = rng.choice(sorted({scan.group for scan in scans}))
    own = [scan for scan in scans if scan.group == group]
    return own[int(rng.integers(len(own)))]


def _draw_pair(inside, outside, rng, size) -> Pair | None:
    """A pair, or None where the draw shows too little."""
    content_scan, style_scan = _scan(inside, rng), _scan(outside, rng)
    (hu, body), (style_hu, style_body) = (
        draw_view(scan, rng, size) for scan in (content_scan, style_scan)
    )
    if min(body.mean(), style_body.mean()) < LEAST_BODY:
        return None
    same = rng.random() < SAME_SCALE
    for _ in range(100):
        mine = draw_scale(rng)
        other = mine if same else draw_scale(rng)
        shown = mine.shown(hu[body]), other.shown(style_hu[style_body])
        if shown[0] >= CONTENT_SHOWN and shown[1] >= STYLE_SHOWN:
            break
    else:
        return None
    content = mine(hu)
    mask = body & (content > 0) & (content < 1)
    if mask.sum() < LEAST_PIXELS:
        return None
    names = content_scan.id, style_scan.id
    return Pair(content, other(style_hu), other(hu), hu, body, mask, *names, mine, other)
