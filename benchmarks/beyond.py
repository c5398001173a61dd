#!/usr/bin/env python
"""The tone transfer where ``truth.py`` does not look: scans, turned slices, lesions, not CT.

    python benchmarks/beyond.py --data DATA --models runs/tone

As there, a fold leaves one patient out and the model of ``fold-PATIENT/ours.keras`` has not seen
it. Four questions:

- **One curve for a scan**: eight slices of the patient left out get the gray scale of eight slices
  of another one, in random gray scales. Histogram matching takes all eight at once as well.
- **Slices that are not upright**, as arrays of some file formats are: the pairs of ``truth.py``
  with the content, or both images, turned.
- **Images that are not CT**: does the confidence doubt them? Real ones of other modalities that
  pydicom and pydicom-data carry, and inverted contents and noise, each with CT as the style.
- **Is a lesion still seen**: a disk 30 HU above or below soft tissue is planted into contents of
  ``truth.py``, and its contrast-to-noise ratio measured before and after.

Figures go to ``beyond.json``, the page to ``../docs/results/beyond.md``.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from ct_pairs import Pair, draw_pairs, draw_scale
from ct_scans import ScanRecord, load_scans
from pydicom.data import get_testdata_file
from scipy import ndimage

from studies import common
from tfstyle import StyleTransfer, baselines
from tfstyle.data import read_scan, scan_to_unit
from tfstyle.metrics import tone_error
from tfstyle.runs import environment
from tfstyle.tone import ToneTransfer
from tfstyle.tone.model import LOW_CONFIDENCE

MATCHING = {
    "histogram matching": "histogram_matching",
    "histogram matching above the floor": "foreground_histogram_matching",
}
#: Slices of a scan, and least slices of one that takes part.
SLICES = 8
#: Share of the pairs of scans in one gray scale, and least share of a body that a window shows.
SAME_SCALE, SHOWN = 0.15, 0.2
#: How the content and the style are turned: quarter turns, then upside down or not.
TURNS = {
    "upright": ((0, 1), (0, 1)),
    "content upside down": ((0, -1), (0, 1)),
    "content turned by 90°": ((1, 1), (0, 1)),
    "both upside down": ((0, -1), (0, -1)),
    "both turned by 90°": ((1, 1), (1, 1)),
}
#: Images of other modalities in pydicom and pydicom-data.
FOREIGN = {
    "MR, head": "emri_small.dcm",
    "MR, abdomen": "examples_overlay.dcm",
    "MR, shoulder": "MR2_UNCR.dcm",
    "MR, small": "MR_small.dcm",
    "radiograph, chest": "RG1_UNCR.dcm",
    "radiograph, extremity": "RG3_UNCR.dcm",
    "bone scan": "JPEG2000.dcm",
}
#: Longest side to which they are reduced.
SIDE = 256
#: Radius in pixels and contrast in HU of planted disks; HU of the tissue round them.
RADIUS, CONTRAST, SOFT = 4, 30.0, (0.0, 100.0)
#: Least share of the contrast-to-noise ratio that the right answer keeps: pairs whose style clips
#: the disk do not count.
LEAST_KEPT = 0.8


def scan_pairs(
    scans: dict[str, ScanRecord], patient: str, count: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, ...]]:
    """Slices of a patient and of others: content, style, right answer, HU, pixels that count."""
    inside = [s for s in scans.values() if s.group == patient and len(s.hu) >= SLICES]
    others = [s for s in scans.values() if s.group != patient and len(s.hu) >= SLICES]
    rng = np.random.default_rng([seed, zlib.crc32(patient.encode())])
    while inside and count:
        sides = []
        for own in (inside, others):
            scan = own[rng.integers(len(own))]
            chosen = np.sort(rng.choice(len(scan.hu), SLICES, replace=False))
            sides.append((scan.hu[chosen].astype(np.float32), scan.body[chosen]))
        (hu, body), (style_hu, style_body) = sides
        mine = draw_scale(rng)
        other = mine if rng.random() < SAME_SCALE else draw_scale(rng)
        if min(mine.shown(hu[body]), other.shown(style_hu[style_body])) < SHOWN:
            continue
        content = mine(hu)
        count -= 1
        yield content, other(style_hu), other(hu), hu, body & (content > 0) & (content < 1)


def scan_to_scan(model: ToneTransfer, scans, patient: str, count: int) -> dict[str, list[float]]:
    """Balanced tone errors of whole scans, by method."""
    matching = {name: baselines.get(baseline) for name, baseline in MATCHING.items()}
    found: dict[str, list[float]] = {}
    for content, style, right, hu, mask in scan_pairs(scans, patient, count):
        code = model.encode_style(style[..., None], one_code=True)
        flat, flat_style = content.reshape(-1, content.shape[2]), style.reshape(-1, style.shape[2])
        generated = {
            "nothing done": content,
            **{name: method.stylize(flat, flat_style) for name, method in matching.items()},
            "tone transfer, a curve a slice": model.stylize(content[..., None], code),
            "**tone transfer, one curve**": model.stylize(content[..., None], code, one_curve=True),
        }
        planes = [image.reshape(flat.shape) for image in (right, hu, mask)]
        for name, image in generated.items():
            errors = tone_error(planes[0], image.reshape(flat.shape), planes[1], planes[2])
            found.setdefault(name, []).append(errors["balanced"])
    return found


def turned(model: ToneTransfer, pairs) -> dict[str, list[float]]:
    """Balanced tone errors of pairs whose images are turned, by the way."""
    found: dict[str, list[float]] = {name: [] for name in TURNS}
    for pair in pairs:
        for name, ((turns, step), (style_turns, style_step)) in TURNS.items():
            images = [pair.content, pair.right, pair.hu, pair.mask]
            content, right, hu, mask = (np.rot90(image[::step], turns) for image in images)
            generated = model.stylize(content, np.rot90(pair.style[::style_step], style_turns))
            found[name].append(tone_error(right, generated, hu, mask)["balanced"])
    return found


def planted(pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, ...] | None:
    """HU with a disk in soft tissue, the disk, and the ring round it; None without room for it."""
    rows, columns = np.indices(pair.hu.shape)
    smooth = ndimage.uniform_filter(pair.hu, 2 * RADIUS + 1)
    soft = pair.mask & (smooth > SOFT[0]) & (smooth < SOFT[1])
    room = ndimage.binary_erosion(soft, iterations=2 * RADIUS)
    if not room.any():
        return None
    row, column = np.argwhere(room)[rng.integers(room.sum())]
    distance = np.hypot(rows - row, columns - column)
    disk = distance <= RADIUS
    ring = (distance > RADIUS + 1) & (distance <= 2 * RADIUS)
    return pair.hu + np.float32(CONTRAST * rng.choice([-1, 1])) * disk, disk, ring


def contrast_to_noise(image: np.ndarray, disk: np.ndarray, ring: np.ndarray) -> float:
    """Difference of the means of disk and ring by the pooled standard deviation within them."""
    noise = np.sqrt((image[disk].var() + image[ring].var()) / 2)
    return float(abs(image[disk].mean() - image[ring].mean()) / max(noise, 1e-6))


def lesions(methods: dict, pairs) -> dict[str, list[float]]:
    """Shares of a planted disk's contrast-to-noise ratio that methods keep."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for pair in pairs:
        given = planted(pair, rng)
        if given is None:
            continue
        hu, *where = given
        content, right = pair.content_scale(hu), pair.style_scale(hu)
        before = contrast_to_noise(content, *where)
        kept = contrast_to_noise(right, *where) / before
        if kept < LEAST_KEPT:
            continue
        found.setdefault("the right answer itself", []).append(kept)
        for name, stylize in methods.items():
            after = contrast_to_noise(stylize(content, pair.style), *where)
            found.setdefault(name, []).append(after / before)
    return found


def foreign_images() -> dict[str, np.ndarray]:
    """The images of other modalities, float32 (H, W) in [0, 1] as a viewer shows them."""
    found = {}
    for name, file in FOREIGN.items():
        images = scan_to_unit(read_scan(get_testdata_file(file)))
        image = images[len(images) // 2, ..., 0]
        zoom = min(1.0, SIDE / max(image.shape))
        smooth = ndimage.gaussian_filter(image, 0.35 / zoom if zoom < 1 else 0)
        found[name] = ndimage.zoom(smooth, zoom, order=1).clip(0, 1)
    return found


def confidences(model: ToneTransfer, pairs, foreign: dict) -> dict[str, list[float]]:
    """Confidence of images that are CT, and of images that are not, each with CT as style."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for pair in pairs:
        noise = ndimage.gaussian_filter(rng.normal(size=pair.content.shape), rng.uniform(0, 4))
        noise = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
        contents = {"CT": pair.content, "CT, inverted": 1 - pair.content, "noise": noise}
        for name, content in {**contents, **foreign}.items():
            found.setdefault(name, []).append(float(model.confidence(content, pair.style)[0]))
    return found


def figures(part: str, rows: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean and median of each row, and what its part of the page shows beside them."""
    found = {name: {"mean": np.mean(v), "median": np.median(v)} for name, v in rows.items()}
    for name, values in rows.items():
        if part == "confidence":
            found[name]["warned"] = np.mean(np.less(values, LOW_CONFIDENCE))
        if part == "lesions":
            found[name]["percentile_10"] = np.percentile(values, 10)
            found[name]["lost"] = np.mean(np.less(values, 0.5))
    return common.rounded(found)


def write_page(result: dict, path: Path) -> None:
    """Writes the page of a result."""
    facts = {"radius": RADIUS, "contrast": CONTRAST, "kept": LEAST_KEPT, "low": LOW_CONFIDENCE}
    common.write_page(path, "beyond.md", **result, **facts, slices=SLICES)


def main(arguments: list[str] | None = None) -> None:
    """Measures all folds; writes the figures and the page."""
    parser = common.parser(__doc__, __file__)
    parser.add_argument("--data", type=Path, help="folder of the real CT; packages alone without")
    parser.add_argument("--models", type=Path, required=True, help="folder with fold-PATIENT/")
    parser.add_argument("--scans", type=int, default=40, help="pairs of scans a fold (default: 40)")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of a fold (default: 40)")
    parser.add_argument("--folds", nargs="+", metavar="PATIENT", help="default: all")
    options = common.parse(parser, arguments)
    logging.getLogger("tfstyle").setLevel(logging.ERROR)
    scans, foreign = load_scans(options.data), foreign_images()
    folds = options.folds or sorted({scan.group for scan in scans.values()})
    parts: dict[str, dict] = {"scan_to_scan": {}, "turned": {}, "lesions": {}, "confidence": {}}
    methods = {
        **{name: baselines.get(baseline).stylize for name, baseline in MATCHING.items()},
        "the paper's network, `vgg16_ct`": StyleTransfer.from_preset("vgg16_ct").stylize,
        "the same, `vgg16_ct_shallow`": StyleTransfer.from_preset("vgg16_ct_shallow").stylize,
    }
    patients = []
    for fold in folds:
        model = ToneTransfer.load(options.models / f"fold-{fold}" / "ours.keras")
        pairs = list(draw_pairs(scans, {fold}, options.pairs))
        measured = {
            "scan_to_scan": scan_to_scan(model, scans, fold, options.scans),
            "turned": turned(model, pairs),
            "lesions": lesions({**methods, "**tone transfer**": model.stylize}, pairs),
            "confidence": confidences(model, pairs, foreign),
        }
        patients += [fold] * bool(measured["scan_to_scan"])
        for part, rows in measured.items():
            for name, values in rows.items():
                parts[part].setdefault(name, []).extend(values)
        print(fold, {part: figures(part, rows) for part, rows in measured.items()}, flush=True)
    result = {
        "settings": {
            "scans": options.scans, "pairs": options.pairs, "folds": len(folds),
            "patients": patients, "lesions": len(parts["lesions"].get("**tone transfer**", ())),
        },
        **{part: figures(part, rows) for part, rows in parts.items()},
        "environment": environment(),
    }  # fmt: skip
    common.write_study(options.output, result)
    write_page(result, options.page)


if __name__ == "__main__":
    main()
