"""Training data of the tone transfer: images in random gray scales, with right answers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfstyle.data import Scan
from tfstyle.data.windows import WINDOWS, Window
from tfstyle.errors import ArgumentError
from tfstyle.metrics.tone import TISSUE_LIMITS
from tfstyle.tone.views import add_table, change_tissues, made_up_body, random_view

#: Which other images of a group are an image's styles, as steps forward around the group.
PARTNERS = (1, 5)
#: Images of a group.
GROUP = 16
#: Probability that an image shows a similar part of a body as the one whose style it is: the most
#: similar of so many views.
SAME_BODY, CANDIDATES = 0.4, 12
#: Probability that an image has the gray scale of its first partner.
SAME_SCALE = 0.3
#: Largest and smallest width of random windows in HU, largest exponent of a power.
WIDTHS, POWER = (60.0, 4000.0), 2.2
#: Least share of the body that a gray scale does not clip.
LEAST_SHOWN = 0.2
#: Shares of the images that are made-up bodies, and that get a table.
MADE_UP, TABLES = 0.2, 0.4
#: Share of the images that are not upright, as arrays of some file formats are not.
TURNED = 0.15
#: Share of the images for which there is no right answer; see :func:`not_ct`.
NOT_CT = 0.03
#: A tissue of fewer pixels counts as absent.
LEAST_PIXELS = 20


@dataclass(frozen=True)
class GrayScale:
    """From HU to gray levels: a window, then a power, a rising curve, and perhaps 8 bits.

    Attributes:
        window: What becomes 0 to 1.
        power: Exponent on gray levels, 1 for none.
        curve: Values at evenly spaced gray levels from 0 to 1, or None.
        eight_bit: Whether gray levels are rounded to 256.
    """

    window: Window
    power: float = 1.0
    curve: tuple[float, ...] | None = None
    eight_bit: bool = False

    def __call__(self, hu: np.ndarray, rounded: bool = True) -> np.ndarray:
        """Gray levels of HU, float32 in [0, 1]; `rounded` False leaves out the 8 bits."""
        gray = self.window.to_unit(hu)
        if self.power != 1:
            gray **= np.float32(self.power)
        if self.curve is not None:
            gray = np.interp(gray, np.linspace(0, 1, len(self.curve)), self.curve)
        if self.eight_bit and rounded:
            gray = np.round(gray * 255) / 255
        return gray.astype(np.float32, copy=False)


def random_scale(hu: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> GrayScale:
    """A gray scale that shows something of a body.

    Half are windows of ``tfstyle.data.WINDOWS``, the others random; a third has a power on top,
    some a sigmoid or a random rising curve, and a third 8 bits. `body` is True somewhere.
    """
    values = hu[body]
    table = list(WINDOWS.values())
    for _ in range(20):
        if rng.random() < 0.5:
            window = table[rng.integers(len(table))]
            middle, width = window.center, window.width
        else:
            width = float(np.exp(rng.uniform(*np.log(WIDTHS))))
            middle = float(values[rng.integers(len(values))]) + width * rng.uniform(-0.5, 0.5)
            middle = float(np.clip(middle, -900, 900))
        if rng.random() < 0.3:
            middle += width * rng.uniform(-0.15, 0.15)
            width *= float(np.exp(rng.uniform(-0.3, 0.3)))
        window = Window(middle, width)
        if np.mean((values > window.lower) & (values < window.upper)) > LEAST_SHOWN:
            break
    power, curve = 1.0, None
    if rng.random() < 0.35:
        power = float(np.exp(rng.uniform(-np.log(POWER), np.log(POWER))))
    if rng.random() < 0.15:
        if rng.random() < 0.5:
            steps = np.exp(rng.normal(0, 0.5, 6))
            points = np.concatenate([[0], np.cumsum(steps) / steps.sum()])
        else:
            points = 1 / (1 + np.exp(-rng.uniform(2, 8) * np.linspace(-1, 1, 17)))
            points = (points - points[0]) / (points[-1] - points[0])
        curve = tuple(map(float, points))
    return GrayScale(window, power, curve, bool(rng.random() < 1 / 3))


def balanced_weights(hu: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, by which each tissue among the `counted` pixels counts the same.

    0 everywhere where no tissue has enough pixels.
    """
    tissue = np.where(counted, np.digitize(hu, TISSUE_LIMITS), len(TISSUE_LIMITS) + 1)
    counts = np.bincount(tissue.ravel(), minlength=len(TISSUE_LIMITS) + 2)[:-1]
    there = counts >= LEAST_PIXELS
    shares = np.where(there, 1 / np.maximum(counts, 1) / max(there.sum(), 1), 0)
    return np.append(shares, 0).astype(np.float32)[tissue]


def not_ct(hu: np.ndarray, gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image in [0, 1] that no gray scale of CT gives: what the confidence is to doubt.

    A third are inverted; a third show the tissues in another order, as other modalities do; a third
    are noise, smooth or not.
    """
    from scipy import ndimage

    kind = rng.integers(3)
    if kind == 0:
        return 1 - gray
    if kind == 1:
        # Air stays dark; lung, fat, water, soft tissue, contrast and bone in any order, shaded.
        nodes = np.array([-1000, -850, -500, -100, 0, 40, 80, 150, 300, 1000])
        levels = np.concatenate([[0], rng.permutation(np.linspace(0, 1, len(nodes) - 1))])
        field = ndimage.zoom(rng.normal(0, rng.uniform(0, 0.4), (3, 3)), np.array(hu.shape) / 3)
        image = np.interp(hu, nodes, levels) * np.exp(field[: hu.shape[0], : hu.shape[1]])
        return image.clip(0, 1).astype(np.float32)
    noise = ndimage.gaussian_filter(rng.normal(size=hu.shape), rng.uniform(0, 6))
    noise = (noise - noise.min()) / (np.ptp(noise) + 1e-6)
    return (noise ** rng.uniform(0.5, 2)).astype(np.float32)


def tissue_shares(hu: np.ndarray) -> np.ndarray:
    """Shares of an image that are air, lung, and the tissues of ``TISSUE_LIMITS``."""
    tissue = np.digitize(hu[::2, ::2].ravel(), (-900.0, *TISSUE_LIMITS))
    return np.bincount(tissue, minlength=len(TISSUE_LIMITS) + 2) / tissue.size


class ViewPool:
    """Views of HU scans, drawn once and kept.

    Args:
        scans: HU arrays (N, H, W) with spacings in mm, by name.
        size: Side of the views in pixels.
        views: Views of each scan.
        seed: Of the draws.

    Raises:
        ArgumentError: a scan that shows no body.
    """

    def __init__(
        self,
        scans: Mapping[str, tuple[np.ndarray, Sequence[float]]],
        size: int = 96,
        views: int = 256,
        seed: int = 0,
    ):
        if not scans:
            raise ArgumentError("scans: at least one scan in Hounsfield units is needed.")
        self.size = size
        self.pools = {}
        for number, (name, (volume, spacing)) in enumerate(scans.items()):
            rng = np.random.default_rng([seed, number])
            bodies: dict[tuple[int, int], np.ndarray] = {}
            drawn = [random_view(volume, spacing, rng, size, bodies) for _ in range(views)]
            self.pools[name] = tuple(np.stack(part) for part in zip(*drawn))

        rng = np.random.default_rng([seed, len(scans)])
        self.made_up = [made_up_body(size, rng) for _ in range(views)]

    def without(self, names: Collection[str]) -> ViewPool:
        """The same views without those of some scans."""
        rest = copy.copy(self)
        rest.pools = {name: pool for name, pool in self.pools.items() if name not in names}
        return rest

    def draw(
        self, rng: np.random.Generator, like: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """HU float32 and body of a random view or a made-up body, mirrored or not, some turned.

        Args:
            rng: Source of randomness.
            like: HU of an image: of ``CANDIDATES`` views the one whose tissues have the most
                similar shares of the picture.
        """
        if like is None and rng.random() < MADE_UP:
            hu, body = self.made_up[rng.integers(len(self.made_up))]
        else:
            pools, found = list(self.pools.values()), []
            for _ in range(1 if like is None else CANDIDATES):
                views, bodies = pools[rng.integers(len(pools))]
                number = rng.integers(len(views))
                found.append((views[number], bodies[number]))
            hu, body = found[0]
            if like is not None:
                goal = tissue_shares(like)
                hu, body = min(found, key=lambda view: np.abs(tissue_shares(view[0]) - goal).sum())
            hu = hu.astype(np.float32)
        if rng.random() < TABLES:
            hu = add_table(hu, body, rng)
        step = 1 if rng.random() < 0.5 else -1
        turns = int(rng.integers(1, 4)) if rng.random() < TURNED else 0
        return np.rot90(hu[:, ::step], turns), np.rot90(body[:, ::step], turns)

    def group(
        self, rng: np.random.Generator, images: int = GROUP, not_ct_share: float = NOT_CT
    ) -> dict[str, np.ndarray]:
        """A group of images, each the style of others; a share of them is not CT.

        Returns:
            ``"images"`` float32 (n, S, S, 1) in [0, 1]; ``"right"`` float32 (n, S, S, P), image i
            in the gray scale of image i + ``PARTNERS[p]``; ``"weights"`` float32 (n, S, S, 1), see
            :func:`balanced_weights`, 0 outside the body and where the image is clipped; ``"same"``
            float32 (n, P), 1 where both images have one gray scale; ``"not_ct"`` float32 (n,), 1
            for images of :func:`not_ct`.
        """
        changed: list = []
        bodies: list = []
        scales: list = []
        for number in range(images):
            # The image before this one has it as style.
            alike = number and rng.random() < SAME_BODY
            hu, body = self.draw(rng, changed[-1] if alike else None)
            changed.append(change_tissues(hu, rng))
            bodies.append(body)
            scales.append(random_scale(changed[-1], body, rng))
        for i in range(images):
            if rng.random() < SAME_SCALE:
                scales[i] = scales[(i + PARTNERS[0]) % images]
        gray = [scale(hu) for scale, hu in zip(scales, changed)]
        right = [
            np.stack([scales[(i + p) % images](hu, rounded=False) for p in PARTNERS], axis=-1)
            for i, hu in enumerate(changed)
        ]
        weights = [
            balanced_weights(hu, body & (x > 0) & (x < 1))
            for hu, body, x in zip(changed, bodies, gray)
        ]
        foreign = rng.random(images) < not_ct_share
        gray = [not_ct(hu, x, rng) if no else x for hu, x, no in zip(changed, gray, foreign)]
        return {
            "images": np.stack(gray)[..., None],
            "right": np.stack(right),
            "weights": np.stack(weights)[..., None],
            "same": np.array(
                [[scales[i] == scales[(i + p) % images] for p in PARTNERS] for i in range(images)],
                np.float32,
            ),
            "not_ct": foreign.astype(np.float32),
        }

    def dataset(
        self,
        batch_size: int = 1,
        images: int = GROUP,
        seed: int = 0,
        not_ct_share: float = NOT_CT,
    ):
        """An endless ``tf.data.Dataset`` of batches of groups; see :func:`tone_groups`."""
        import tensorflow as tf

        def draw() -> Iterator[dict[str, np.ndarray]]:
            rng = np.random.default_rng([seed, 1])
            while True:
                yield self.group(rng, images, not_ct_share)

        shape, partners = (images, self.size, self.size), len(PARTNERS)
        signature = {
            "images": tf.TensorSpec((*shape, 1), tf.float32),
            "right": tf.TensorSpec((*shape, partners), tf.float32),
            "weights": tf.TensorSpec((*shape, 1), tf.float32),
            "same": tf.TensorSpec((images, partners), tf.float32),
            "not_ct": tf.TensorSpec((images,), tf.float32),
        }
        data = tf.data.Dataset.from_generator(draw, output_signature=signature)
        return data.batch(batch_size, drop_remainder=True).prefetch(4)


def tone_groups(
    scans: Sequence[Scan] | Mapping[str, tuple[np.ndarray, Sequence[float]]],
    batch_size: int = 1,
    size: int = 96,
    views: int = 256,
    images: int = GROUP,
    seed: int = 0,
):
    """An endless ``tf.data.Dataset`` to train a :class:`tfstyle.ToneTransfer` on.

    Every element is a batch of groups; the images of a group are contents and styles of each
    other, so that one pass through the network serves several pairs, and a replica gets whole
    groups.

    Args:
        scans: CT in HU, as :class:`tfstyle.data.Scan` or as arrays (N, H, W) with spacings in mm by
            name. Ten scans or so are enough to begin with; different bodies count more than many
            slices.
        batch_size: Groups in an element.
        size: Side of the images, a multiple of 16.
        views: Random views kept of each scan.
        images: Images of a group.
        seed: Of the draws.

    Returns:
        Dataset of dictionaries; see :meth:`ViewPool.group`, with a batch axis in front.

    Raises:
        ArgumentError: no scan, or one without a body or not in HU.

    Example:
        >>> model = tfstyle.ToneTransfer()
        >>> model.compile(optimizer="adam")
        >>> groups = tone_groups(tfstyle.data.read_scans("ct/"))  # doctest: +SKIP
        >>> model.fit(groups, steps_per_epoch=100, epochs=30)  # doctest: +SKIP
    """
    if not isinstance(scans, Mapping):
        for scan in scans:
            if scan.units != "HU":
                raise ArgumentError(f"scans: {scan.name} is in {scan.units}, not in HU.")
        scans = {f"{i} {s.name}": (s.pixels, s.spacing) for i, s in enumerate(scans)}
    return ViewPool(scans, size, views, seed).dataset(batch_size, images, seed)
