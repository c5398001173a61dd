#!/usr/bin/env python
"""How much detail stays: guided, plain, AdaIN with MSE, histogram matching, and ways to guide.

    python benchmarks/detail.py --data DATA [--mse runs/vgg16_ct_mse/stage2/preset]

Every variant gets the same pairs of slices of the test series, drawn as in
``scripts/train_release.py evaluate``. Measured are the style distance, the structure term of SSIM,
LPIPS to the content's own slice in the style's window (what a perfect transfer would give), the
displacement of edges, halos at the skin line, the contrast-to-noise ratio of planted inserts of 2
to 10 mm, and for volumes the flicker between neighbouring slices.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import train_release as release  # noqa: E402

from tfstyle import StyleTransfer, metrics  # noqa: E402
from tfstyle.data import read_scans, write_png  # noqa: E402
from tfstyle.data.windows import Window  # noqa: E402
from tfstyle.layers import (  # noqa: E402
    apply_tone_grid,
    fit_tone_grid,
    gray_levels,
    match_levels,
    reduce_size,
    smooth_slices,
)
from tfstyle.metrics import lpips  # noqa: E402
from tfstyle.style_transfer import WORKING_SIZE  # noqa: E402
from tfstyle.training import environment  # noqa: E402

DIAMETERS = (2, 4, 6, 8, 10)  # mm
CONTRAST = 30.0  # HU
#: Variants whose LPIPS is measured: what is compared; the others are ways to guide.
MAIN = (
    "guided",
    "plain",
    "AdaIN with MSE, plain",
    "AdaIN with MSE, guided",
    "histogram matching (no network)",
)


def histogram_matching(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The content's ranks with the style's gray levels."""
    _, index, counts = np.unique(content, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * counts) / content.size
    return np.quantile(style, ranks)[index.reshape(content.shape)]


def box(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2·radius + 1 pixels a side."""
    size = 2 * radius + 1
    sums = np.pad(np.pad(image, radius, mode="reflect"), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inner = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return inner / size**2


def guided_filter(
    content: np.ndarray, small: np.ndarray, generated: np.ndarray, radius: int, epsilon: float
) -> np.ndarray:
    """He, Sun and Tang (2013), equations 5, 6 and 8; coefficients enlarged bilinearly."""
    small, generated = small.astype(np.float64), generated.astype(np.float64)
    mean_x, mean_y = box(small, radius), box(generated, radius)
    variance = box(small * small, radius) - mean_x**2
    a = (box(small * generated, radius) - mean_x * mean_y) / (variance + epsilon)
    pair = np.stack([box(a, radius), box(mean_y - a * mean_x, radius)], axis=-1)
    if small.shape != content.shape:
        pair = tf.image.resize(pair, content.shape).numpy()
    return np.clip(pair[..., 0] * content + pair[..., 1], 0, 1)


class Generator:
    """A preset's images, and the variants made from what its decoder gives at several sizes."""

    def __init__(self, preset: str, mse: str | None = None):
        self.preset, self.model = preset, StyleTransfer.from_preset(preset)
        self.mse = mse and StyleTransfer.from_preset(mse)
        raw = StyleTransfer.from_preset(preset)
        raw.calibrate = False
        images = tf.TensorSpec((None, None, None, 1), tf.float32)
        self._plain = tf.function(
            lambda x, y: raw.generate(x, y, detail="plain"), input_signature=(images, images)
        )
        self.tables: dict = {}

    def at(self, content, style, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Content and decoder's image with the longest side `size`, (1, h, w, 1)."""
        key = id(content), id(style), size
        if key not in self.tables:
            small = [np.asarray(reduce_size(x[None, ..., None], size)) for x in (content, style)]
            self.tables[key] = small[0], self._plain(*small).numpy()
        return self.tables[key]

    def tone(self, content, style, size: int = WORKING_SIZE, match: bool = True, **options):
        """The tone grid's image with other settings than the library's."""
        grid = fit_tone_grid(*self.at(content, style, size), **options)
        content, style = content[None, ..., None], style[None, ..., None]
        if match:
            grid = match_levels(grid, content, gray_levels(style))
        return np.asarray(apply_tone_grid(content, grid))[0, ..., 0]

    def variants(self) -> dict:
        """Name to function of content and style."""
        found = {
            "guided": self.model.stylize,
            "plain": lambda x, y: self.model.stylize(x, y, detail="plain"),
        }
        if self.mse:
            found["AdaIN with MSE, plain"] = lambda x, y: self.mse.stylize(x, y, detail="plain")
            found["AdaIN with MSE, guided"] = self.mse.stylize
        found["histogram matching (no network)"] = histogram_matching
        for radius, epsilon in ((8, 1e-3), (8, 1e-4), (16, 1e-3)):
            name = f"guided filter, network at 512, radius {radius}, epsilon {epsilon:g}"
            found[name] = lambda x, y, r=radius, e=epsilon: guided_filter(
                x, *(z[0, ..., 0] for z in self.at(x, y, 512)), r, e
            )

        def add(name: str, **options) -> None:
            found[name] = lambda x, y: self.tone(x, y, **options)

        add("guided without matched levels", match=False)
        add("guided, one curve for the image", cells=1)
        for size in (512, 256, 128):
            add(f"guided, network at {size}", size=size)
        for cells in (4, 8, 12):
            add(f"guided, {cells} cells", cells=cells)
        for levels in (5, 17):
            add(f"guided, {levels} levels", levels=levels)
        for pull in (0.01, 1.0):
            add(f"guided, pull {pull:g}", pull=pull)
        add("guided, not monotone", monotone=False)
        return found


def dilate(mask: np.ndarray, square: bool) -> np.ndarray:
    """The mask and its 4 or 8 neighbours."""
    padded, (h, w) = np.pad(mask, 1), mask.shape
    shifts = [(i, j) for i in range(3) for j in range(3) if square or 1 in (i, j)]
    return np.logical_or.reduce([padded[i : i + h, j : j + w] for i, j in shifts])


def distance(mask: np.ndarray, limit: int = 40) -> np.ndarray:
    """Octagonal distance of the mask's pixels to what is outside, in pixels, at most `limit`."""
    result, reached = np.where(mask, float(limit), 0.0), ~mask
    for step in range(1, limit):
        grown = dilate(reached, step % 2 == 0)
        result[grown & ~reached] = step
        reached = grown
    return result


class Halo:
    """Air outside and fat inside the skin line of one slice, by distance from the skin."""

    def __init__(self, hu: np.ndarray, spacing: float):
        solid = box((hu > -500).astype(np.float64), 3) > 0.9  # no clothes, no thin table
        body = metrics.body_mask(np.where(solid, 0, -1000))
        for _ in range(4):
            body = dilate(body, False)
        self.outside, self.inside = distance(~body) * spacing, distance(body) * spacing
        self.air = hu < -900
        smooth = box(hu.astype(np.float64), 1)
        self.fat = ~dilate(~((smooth > -130) & (smooth < -80)), True)

    def measure(self, content: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
        """Largest deviation of a 1 mm band of air from far air, and range over bands of fat."""
        air = self.air & (content <= content[self.outside > 25].mean() + 0.02)
        far = generated[air & (self.outside > 15)].mean()
        bands = [air & (self.outside > d) & (self.outside <= d + 1) for d in range(2, 12)]
        out = max(abs(generated[band].mean() - far) for band in bands if band.sum() > 30)
        bands = [self.fat & (self.inside > d) & (self.inside <= d + 1) for d in range(3, 13)]
        means = [generated[band].mean() for band in bands if band.sum() > 30]
        return float(out), float(max(means) - min(means)) if means else float("nan")


def insert_places(hu: np.ndarray, spacing: float) -> list[tuple[int, int]]:
    """The most even places in soft tissue, 20 mm apart, one for each insert."""
    radius = round(10 / spacing)
    mean = box(hu.astype(np.float64), radius)
    spread = box(hu.astype(np.float64) ** 2, radius) - mean**2
    spread[(mean < 20) | (mean > 150)] = np.inf
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    places = []
    for _ in DIAMETERS:
        row, column = np.unravel_index(spread.argmin(), hu.shape)
        places.append((int(row), int(column)))
        spread[np.hypot(y - row, x - column) * spacing < 20] = np.inf
    return places


def plant(hu: np.ndarray, places: list, spacing: float, contrast: float) -> np.ndarray:
    """The slice with inserts whose borders are one pixel soft."""
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    planted = hu.astype(np.float64)
    for (row, column), diameter in zip(places, DIAMETERS):
        away = np.hypot(y - row, x - column)
        planted += contrast * np.clip(0.5 * diameter / spacing + 0.5 - away, 0, 1)
    return planted


def contrast_to_noise(image: np.ndarray, places: list, spacing: float) -> np.ndarray:
    """(mean inside − mean of the ring) / standard deviation of the ring, for each insert."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    values = []
    for (row, column), diameter in zip(places, DIAMETERS):
        away = np.hypot(y - row, x - column) * spacing
        inside = away <= max(0.5 * diameter - 0.25 * spacing, 0.5 * spacing)
        ring = (away > 0.5 * diameter + 1.5 * spacing) & (away <= 0.5 * diameter + 5)
        spread = image[ring].std()
        values.append((image[inside].mean() - image[ring].mean()) / max(spread, 1e-6))
    return np.array(values)


def pairs(scan, count: int, seed: int = 7):
    """Pairs of slices in different windows that differ in gray scale, as the release's test."""
    rng = np.random.default_rng(seed)
    names = sorted(release.WINDOWS)
    while count:
        i, j = rng.choice(len(scan), 2, replace=False)
        a, b = rng.choice(names, 2, replace=False)
        window, other = Window(*release.WINDOWS[a]), Window(*release.WINDOWS[b])
        content, style = window.to_unit(scan.pixels[i]), other.to_unit(scan.pixels[j])
        if metrics.histogram_distance(content, style) >= release.NEAR:
            count -= 1
            yield int(i), int(j), str(a), str(b), content, style


def spread(values) -> dict:
    """Median, quartiles and mean."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"count": 0}
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        "count": int(values.size),
        "median": round(float(middle), 5),
        "quartiles": [round(float(low), 5), round(float(high), 5)],
        "mean": round(float(values.mean()), 5),
    }


def study(scan, generator: Generator, count: int, lesions: int, pictures: Path) -> dict:
    """All variants over all pairs."""
    spacing = float(np.mean(scan.spacing[-2:]))
    variants = generator.variants()
    keys = ("ratio", "structure", "lpips", "edges", "halo_air", "halo_fat")
    keys += ("cnr", "small_cnr", "nothing")
    rows = {name: {key: [] for key in keys} for name in ("the slice itself", *variants)}
    for number, (i, _, a, b, content, style) in enumerate(pairs(scan, count)):
        hu = scan.pixels[i]
        body, halo = metrics.body_mask(hu), Halo(hu, spacing)
        generator.tables.clear()
        truth = Window(*release.WINDOWS[b]).to_unit(hu)
        images = {"the slice itself": truth}
        images |= {name: variant(content, style) for name, variant in variants.items()}
        for name, image in images.items():
            row = rows[name]
            row["ratio"].append(metrics.style_distance_ratio(content, style, image))
            row["structure"].append(metrics.structure_similarity(content, image, body))
            pair = (x.astype(np.float32)[None, ..., None] for x in (truth, image))
            if name in MAIN:
                row["lpips"].append(float(lpips(*pair)[0]))
            row["edges"].append(metrics.edge_displacement(content, image, spacing, body))
            out, fat = halo.measure(content, image)
            row["halo_air"].append(out)
            row["halo_fat"].append(fat)
        if number < 6:
            shown = ["plain", next(n for n in images if n.startswith("guided filter"))]
            shown += ["histogram matching (no network)", "guided"]
            save_picture(
                [content, images["the slice itself"], *(images[n] for n in shown)],
                body,
                pictures / f"{number}-{a}-{b}.png",
            )
        if number < lesions:
            places = insert_places(hu, spacing)
            planted = Window(*release.WINDOWS[a]).to_unit(plant(hu, places, spacing, CONTRAST))
            planted = planted.astype(np.float32)
            before = contrast_to_noise(planted, places, spacing)
            empty = contrast_to_noise(content, places, spacing)
            levels = np.array([content[place] for place in places])
            counts = (np.abs(before) > 0.3) & (levels > 0.1) & (levels < 0.9)
            generator.tables.clear()
            for name, variant in variants.items():
                after = contrast_to_noise(variant(planted, style), places, spacing)
                none = contrast_to_noise(images[name], places, spacing)
                rows[name]["cnr"] += list((after / before)[counts])
                rows[name]["small_cnr"] += list((after / before)[:2][counts[:2]])
                rows[name]["nothing"] += list((np.abs(none) - np.abs(empty))[counts])
        print(f"pair {number + 1} of {count}", flush=True)
    return {name: {key: spread(v) for key, v in row.items()} for name, row in rows.items()}


def save_picture(images: list, body: np.ndarray, path: Path) -> None:
    """Images above, their skin line enlarged four times below."""
    rows, columns = np.nonzero(body)
    top = min(max(int(rows.min()) - 12, 0), body.shape[0] - 128)
    left = min(max(int(columns.mean()) - 64, 0), body.shape[1] - 128)
    zoomed = [np.kron(x[top : top + 128, left : left + 128], np.ones((4, 4))) for x in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(np.vstack([np.hstack(images), np.hstack(zoomed)]).clip(0, 1), path)


def slices(generator: Generator, scan) -> dict:
    """Slice-to-slice difference of a volume, in shares of the content's own.

    ``flicker`` is what a slice changes when it gets its neighbour's tone curves, in gray levels.
    """
    result = {}
    model = generator.model
    for a, b in (("soft_tissue", "lung"), ("wide", "liver"), ("bone", "soft_tissue")):
        content = Window(*release.WINDOWS[a]).to_unit(scan.pixels)[..., None].astype(np.float32)
        style = Window(*release.WINDOWS[b]).to_unit(scan.pixels[7])
        own = float(np.abs(np.diff(content, axis=0)).mean())
        row = {"content": round(own, 5)}
        plain = model.stylize(content, style, detail="plain", batch_size=1)
        row["plain"] = round(float(np.abs(np.diff(plain, axis=0)).mean()), 5)
        code = model.encode_style(style)
        grids = np.concatenate([model.tone_grid(x[None], code).numpy() for x in content])
        for sigma in (0.0, 1.0, 2.0):
            used = np.asarray(smooth_slices(grids, sigma))
            images = np.concatenate(
                [apply_tone_grid(x[None], g[None]).numpy() for x, g in zip(content, used)]
            )
            swapped = np.concatenate(
                [apply_tone_grid(x[None], g[None]).numpy() for x, g in zip(content, used[1:])]
            )
            row[f"guided, sigma {sigma:g}"] = {
                "difference": round(float(np.abs(np.diff(images, axis=0)).mean()), 5),
                "flicker": round(float(np.abs(swapped - images[:-1]).mean()), 5),
            }
        result[f"{a} to {b}"] = row
    return result


def main() -> None:
    """Writes ``benchmarks/detail.json``, and pictures of the test data into ``runs/detail``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--preset", default="vgg16_ct")
    parser.add_argument("--mse", help="preset trained with MSE, to compare with")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--lesions", type=int, default=20, help="pairs with planted inserts")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/detail.json"))
    options = parser.parse_args()
    scan = read_scans(options.data / "torso_dicom")[0]
    generator = Generator(options.preset, options.mse)
    result = {
        "preset": Path(options.preset).name,
        "weights": weights_digest(generator.model),
        "pairs": options.pairs,
        "variants": study(scan, generator, options.pairs, options.lesions, Path("runs/detail")),
        "slices": slices(generator, scan),
        "environment": environment(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["variants"].items():
        print(f"{name:55s}", *(f"{k} {v.get('median', 'none')}" for k, v in row.items()))
    print(json.dumps(result["slices"], indent=1))


def weights_digest(model: StyleTransfer) -> str:
    """Short digest of the decoder's weights, to tell presets of one name apart."""
    import hashlib

    digest = hashlib.sha256(b"".join(w.tobytes() for w in model.decoder.get_weights()))
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
