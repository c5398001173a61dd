"""The two figures of a tap.

**Gradient read back.** How much of the content a tap still holds, and where it was: the gradient
image, the length of the gradient at every pixel, is predicted from the tap's features by ridge
regression. One feature vector predicts all pixels that it stands for, stride x stride of them, as
a transposed convolution would, so that taps of every stride answer for the same pixels. The image
is cut into squares; the regression is fitted on one half of them and measured on the other, then
the other way round, as R², the share of the gradient image's variance. The strength of the ridge
is chosen inside the fitted half. 1 is all, 0 is nothing.

**Protocols against anatomy.** How much the moments that AdaIN and the style loss work with, mean
and standard deviation of each channel over the image, owe to the protocol and how much to what the
slice shows: Fisher's ratio of the scatter of the protocols' means to the scatter of slices inside
a protocol (Duda, Hart and Stork, Pattern Classification, 2nd edition, section 3.8.3, with traces),
in the Euclidean distance that the moments loss takes. 1 says that the protocol moves the moments
as far as the anatomy does; a loss at a tap with a small ratio pulls on the anatomy. Beside it
stands the share of slices that lie nearest to their own protocol's mean, taken over the other
slices; chance is one in the number of protocols. In a scan of one slice its quarters take the
place of slices, which differ more from one another than slices do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfstyle._private.images import as_batch
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError
from tfstyle.layers import moments

#: Side of the squares of the regression in pixels; half of it in small images.
SQUARE = 64
#: Least side of an image.
LEAST = 64
#: Positions of a slice that enter the regression, at most.
POSITIONS = 4096
#: Strengths of the ridge tried, in units of the features' variance; the last predicts the mean.
RIDGES = tuple(10.0**exponent for exponent in range(-4, 5))


@dataclass(frozen=True, eq=False)
class TapFeatures:
    """What one tap shows.

    Attributes:
        name: The tap.
        layer: keras.applications' layer.
        channels: Channels of the map.
        stride: Pixels a position.
        gradient_r2: Share of the gradient image's variance read back in held-out squares, at
            most 1.
        fisher_ratio: Scatter of the moments between protocols over scatter inside them, or None
            for fewer than two protocols.
        protocol_accuracy: Share of samples nearest to their own protocol's mean, or None.
        shown: Channels with the largest variance over the first image's map, largest first.
        maps: float32 array (len(shown), h, w): their maps, each stretched to [0, 1].
    """

    name: str
    layer: str
    channels: int
    stride: int
    gradient_r2: float
    fisher_ratio: float | None
    protocol_accuracy: float | None
    shown: tuple[int, ...]
    maps: np.ndarray

    def as_dict(self) -> dict:
        """All but the maps, as plain types for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if key != "maps"
        }


def study_features(
    encoder: Encoder,
    images: np.ndarray,
    protocols: Mapping[str, np.ndarray] | None = None,
    taps: Sequence[str] | None = None,
    channels: int = 8,
    aligned: bool = False,
) -> list[TapFeatures]:
    """Feature maps and the two figures at the taps of an encoder.

    Args:
        encoder: The encoder.
        images: float array (B, H, W, 1) in [0, 1], H and W at least 64. The maps are those of the
            first; the gradient is read back from all.
        protocols: For each protocol its images, float array (N, H', W', 1) in [0, 1].
        taps: Names of taps. Defaults to all that the encoder has.
        channels: Maps kept of each tap.
        aligned: Whether image i of every protocol shows the same slice, as with windows; the
            slice is then left out of all protocols together.

    Returns:
        One account for each tap, from shallow to deep.

    Raises:
        ArgumentError: Images or taps that cannot be used.
    """
    names = sorted({*(encoder.available_taps if taps is None else taps)}, key=encoder.order)
    if not names or encoder.order(names[0]) < 0:
        raise ArgumentError(f"taps: give names of {type(encoder).__name__}'s taps.")
    stride = max(encoder.tap(name).stride for name in names)
    images = _cropped(as_batch(images, "images")[0], stride, "images")
    batches = {
        name: _cropped(as_batch(batch, f"protocols[{name!r}]")[0], stride, f"protocols[{name!r}]")
        for name, batch in (protocols or {}).items()
    }
    if aligned and len({len(batch) for batch in batches.values()}) > 1:
        raise ArgumentError("aligned: every protocol needs the same number of images.")
    regressions = {name: Regression(encoder.tap(name).stride, images[0].shape) for name in names}
    maps = {}
    for number, image in enumerate(images):
        for name, features in _features(encoder, image, names).items():
            regressions[name].add(features, image[..., 0])
            if number == 0:
                maps[name] = _shown(features, channels)
    quartered = min(map(len, batches.values()), default=0) == 1
    samples: dict[str, dict[str, list]] = {name: {} for name in names}
    for protocol, batch in batches.items():
        for image in batch:
            for name, features in _features(encoder, image, names).items():
                samples[name].setdefault(protocol, []).append(moments_of(features, quartered))
    rows = []
    for name in names:
        tap = encoder.tap(name)
        ratio, accuracy = separation(list(samples[name].values()), aligned)
        rows.append(
            TapFeatures(
                name=tap.name,
                layer=tap.layer,
                channels=tap.channels,
                stride=tap.stride,
                gradient_r2=regressions.pop(name).r2(),
                fisher_ratio=ratio,
                protocol_accuracy=accuracy,
                shown=maps[name][0],
                maps=maps[name][1],
            )
        )
    return rows


class Regression:
    """Features and gradients of a tap at positions of four colors of squares, two a half."""

    def __init__(self, stride: int, shape: Sequence[int]):
        self.stride = stride
        height, width = shape[:2]
        square = SQUARE if min(height, width) >= 2 * SQUARE else SQUARE // 2
        side = max(square // stride, 1)
        down = np.arange(height // stride) // side % 2
        across = np.arange(width // stride) // side % 2
        # 0 and 3 are the white fields of a checkerboard, 1 and 2 the black ones.
        self.colors = (2 * down[:, None] + across[None]).ravel()
        self.random = np.random.default_rng(0)
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, features: np.ndarray, image: np.ndarray) -> None:
        """Takes the features (h, w, C) of an image (H, W) at no more than ``POSITIONS`` places."""
        s = self.stride
        h, w = features.shape[:2]
        targets = gradient_image(image)[: h * s, : w * s].reshape(h, s, w, s).transpose(0, 2, 1, 3)
        chosen = np.arange(h * w)
        if len(chosen) > POSITIONS:
            chosen = self.random.choice(chosen, POSITIONS, replace=False)
        x, y = features.reshape(h * w, -1)[chosen], targets.reshape(h * w, -1)[chosen]
        self.parts.append((x, y.astype(np.float32), self.colors[chosen]))

    def r2(self) -> float:
        """Share of the gradient image's variance in squares that the regression did not see."""
        x, y, colors = (np.concatenate(part) for part in zip(*self.parts))
        error = total = 0.0
        for fitted, held in (((0, 3), (1, 2)), ((1, 2), (0, 3))):
            first, second = (colors == color for color in fitted)
            models = zip(RIDGES, ridge_regressions(x[first], y[first], RIDGES))
            _, strength = min(
                (squares(y[second] - x[second] @ w - b), ridge) for ridge, (w, b) in models
            )
            both, rest = np.isin(colors, fitted), np.isin(colors, held)
            (((w, b)),) = ridge_regressions(x[both], y[both], [strength])
            error += squares(y[rest] - x[rest] @ w - b)
            total += squares(y[rest] - y[both].mean(axis=0, dtype=np.float64))
        return 1.0 - error / total if total > 0 else 0.0


def squares(values: np.ndarray) -> float:
    """Their sum of squares."""
    return float(np.sum(values**2, dtype=np.float64))


def ridge_regressions(
    x: np.ndarray, y: np.ndarray, ridges: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights (C, S) and offsets (S,) from standardized features, for each strength."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y, scale = x.mean(axis=0), y.mean(axis=0), x.std(axis=0)
    # A channel that never changes says nothing.
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 1e-6 * scale.max())
    z = (x - mean_x) * inverse
    gram, crossed = z.T @ z / len(z), z.T @ (y - mean_y) / len(z)
    for ridge in ridges:
        weights = inverse[:, None] * np.linalg.solve(gram + ridge * np.eye(len(gram)), crossed)
        yield weights, mean_y - mean_x @ weights


def separation(
    protocols: Sequence[Sequence[np.ndarray]], aligned: bool
) -> tuple[float | None, float | None]:
    """Fisher's ratio, and the share of samples nearest to their own protocol's mean without them.

    Args:
        protocols: For each protocol the moments (samples, 2C) of its images, one array an image.
        aligned: Whether samples of one number show the same place; then that place is left out
            of every mean.
    """
    if len(protocols) < 2:
        return None, None
    x = [np.concatenate(images).astype(np.float64) for images in protocols]
    means = [part.mean(axis=0) for part in x]
    centre = np.mean(means, axis=0)
    between = sum(((mean - centre) ** 2).sum() for mean in means) / (len(x) - 1)
    within = np.mean([part.var(axis=0, ddof=1).sum() for part in x])
    shares = []
    for own, part in enumerate(x):
        right = 0
        for number, sample in enumerate(part):
            distances = []
            for other, mean in enumerate(means):
                if other == own or aligned:
                    mean = np.delete(x[other], number, axis=0).mean(axis=0)
                distances.append(((sample - mean) ** 2).sum())
            right += int(np.argmin(distances)) == own
        shares.append(right / len(part))
    ratio = float(between / within) if within > 0 else None
    return ratio, float(np.mean(shares))


def _features(encoder: Encoder, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Maps (h, w, C) of one image (H, W, 1)."""
    maps = encoder(image[None], taps=tuple(names))
    return {name: np.asarray(maps[name])[0] for name in names}


def _shown(features: np.ndarray, count: int) -> tuple[tuple[int, ...], np.ndarray]:
    """The channels that vary most over the map, and their maps stretched to [0, 1]."""
    chosen = np.argsort(-features.var(axis=(0, 1)), kind="stable")[:count]
    maps = np.moveaxis(features[..., chosen], -1, 0).astype(np.float32)
    low, high = (
        np.percentile(maps, q, axis=(1, 2), keepdims=True).astype(np.float32) for q in (1, 99)
    )
    maps = np.clip((maps - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return tuple(map(int, chosen)), maps


def moments_of(features: np.ndarray, quartered: bool) -> np.ndarray:
    """Means and standard deviations of the channels of a map, or of its quarters, (n, 2C)."""
    h, w = features.shape[0] // 2, features.shape[1] // 2
    parts = [features[i : i + h, j : j + w] for i in (0, h) for j in (0, w)]
    mean, std = moments(np.stack(parts) if quartered else features[None])
    return np.concatenate([mean, std], axis=-1)[:, 0, 0]


def gradient_image(image: np.ndarray) -> np.ndarray:
    """Length of the gradient of an image (H, W), by central differences, in gray levels a pixel."""
    return np.hypot(*np.gradient(image.astype(np.float64)))


def stretched(image: np.ndarray) -> np.ndarray:
    """An image with values from 0 on, its 99th percentile as white."""
    return np.clip(image / max(float(np.percentile(image, 99)), 1e-12), 0.0, 1.0)


def _cropped(images: np.ndarray, stride: int, argument: str) -> np.ndarray:
    """The middle of the images, as large as multiples of the stride allow."""
    least = max(LEAST, 2 * stride)
    sizes = [size // stride * stride for size in images.shape[1:3]]
    if min(sizes) < least:
        raise ArgumentError(
            f"{argument}: images of {images.shape[2]} x {images.shape[1]} pixels are too small; "
            f"both sides must be at least {least}."
        )
    top, left = ((full - size) // 2 for full, size in zip(images.shape[1:3], sizes))
    return images[:, top : top + sizes[0], left : left + sizes[1]]
