"""Slices of labelled CT, gray scales drawn at random, and changes of the scanner.

    planes = labelled_planes("DATA", spacing_mm=2.5, every=2)      # {"torso": [Plane, ...], ...}
    gray = draw_tone("sigmoid", rng, plane.hu, plane.body)(plane.hu)

One scan is one patient. Fields of view differ: whole cross-sections, and a crop round a vertebra.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ct_pairs import draw_scale, draw_view
from ct_scans import ScanRecord, oriented
from ct_scans import load_scans as load_scans
from PIL import Image
from scipy import ndimage

from tfstyle.data import LABELS, Protocol, apply_protocol, body_mask, spine_phantom
from tfstyle.data.nifti import match_labels
from tfstyle.data.read import read_scan
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window

#: Labelled scans: files of the scan and of the labels, first and last label of the spine, and how
#: many mm higher the labels lie than they say: ``torso``'s affine is that of a file cut below.
LABELLED = {
    "torso": ("ct.nii.gz", "labels.nii.gz", (25, 50), 246),
    "torso_dicom": ("", "labels.nii.gz", (25, 50), 0),
    "vertebra": ("ct.nii.gz", "vertebrae.nii.gz", (1, 255), 0),
}
#: True class of pixels that count neither in training nor in tests.
IGNORE = 255
#: Padding beyond a scan, HU.
AIR = -1024.0
#: The one gray scale that is trained on.
TRAINING_WINDOW = Window(40, 400)
#: Gray scales of the test images, and of styles.
TONES = ("window", "gamma", "sigmoid", "piecewise")
#: Least share of the body that a gray scale shows neither black nor white.
SHOWN = 0.25
#: Changes that are not tone; in the training gray scale.
CHANGES: Mapping[str, Protocol | None] = {
    "noise": Protocol(TRAINING_WINDOW, noise_hu=60),
    "blur": Protocol(TRAINING_WINDOW, sharpness=-2.5),
    "sharp kernel": Protocol(TRAINING_WINDOW, sharpness=2.0),
    "tube voltage": Protocol(TRAINING_WINDOW, contrast=1.6),
    "thick slices": None,
}
#: Thickness of the thick slices, mm.
THICK = 10.0
#: Share of the training squares that show a part, padded as crops of the spine are.
CROP = 0.3
#: What is tested: the training gray scale, random ones, inverted ones, and the changes.
DOMAINS = ("training", *TONES, "inverted", *CHANGES)

#: Slices of a test scan that share a gray scale, about.
SLICES = 8

Tone = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Plane:
    """One axial slice."""

    scan: str  # or "phantom"
    number: int
    hu: np.ndarray = field(repr=False)  # float32 (H, W)
    thick: np.ndarray = field(repr=False)  # float32 (H, W), the mean over THICK mm of slices
    mask: np.ndarray = field(repr=False)  # uint8 (H, W), 1 for spine, or IGNORE
    body: np.ndarray = field(repr=False)  # bool (H, W)
    spacing: float  # mm between pixels

    def grid(self, size: int, warp: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a square round the body's center, warped by a 2×2 matrix."""
        rows, columns = np.nonzero(self.body)
        if len(rows):
            center = np.array([rows.mean(), columns.mean()])
        else:
            center = (np.array(self.hu.shape) - 1) / 2
        steps = np.arange(size) - (size - 1) / 2
        points = np.stack(np.meshgrid(steps, steps, indexing="ij"))
        if warp is not None:
            points = np.einsum("ij,jhw->ihw", warp, points)
        else:
            center = np.floor(center) + 0.5  # on the pixels: nothing is interpolated
        return points + center[:, None, None]

    def square(self, image: np.ndarray, grid: np.ndarray, fill: float) -> np.ndarray:
        """An image of the plane's shape on a grid; whole numbers by the nearest pixel."""
        order = 0 if image.dtype.kind in "iub" else 1
        return ndimage.map_coordinates(image, grid, order=order, mode="constant", cval=fill)


def labelled_planes(data: str | Path, spacing_mm: float, every: int = 2) -> dict[str, list[Plane]]:
    """All slices with labels of the three scans, brought to one pixel spacing.

    Args:
        data: Folder with ``torso``, ``torso_dicom`` and ``vertebra``.
        spacing_mm: Pixel spacing.
        every: Take every so many slices of ``vertebra``, whose slices lie 1.5 mm apart.

    Raises:
        InputFileError: a file that is missing or cannot be read.
    """
    found = {}
    for name, (file, label_file, (first, last), higher) in LABELLED.items():
        folder = Path(data) / name
        scan = read_scan(folder / file)
        labels, covered = match_labels(scan, folder / label_file, offset_mm=(0, 0, higher))
        spine = (labels >= first) & (labels <= last)
        step = every if name == "vertebra" else 1
        found[name] = _planes(scan, name, spine, covered, spacing_mm, step)
    return found


def _planes(
    scan: Scan, name: str, spine: np.ndarray, covered: np.ndarray, spacing_mm: float, every: int = 1
) -> list[Plane]:
    """Every so many of the slices of a scan that its labels cover."""
    volumes = scan.pixels, spine.astype(np.uint8), covered[:, None, None]
    pixels, spine, covered = (oriented(scan, volume) for volume in volumes)
    reach = round((THICK / scan.spacing[0] - 1) / 2)
    planes = []
    for number in np.flatnonzero(covered).tolist()[::every]:
        hu = pixels[number].astype(np.float32).clip(-1024, 3071)
        near = pixels[max(0, number - reach) : number + reach + 1]
        thick = near.astype(np.float32).clip(-1024, 3071).mean(axis=0)
        body = body_mask(hu, scan.spacing[1:])
        shape = [max(1, round(n * s / spacing_mm)) for n, s in zip(hu.shape, scan.spacing[1:])]
        # bilinear, over all pixels that an output pixel covers
        pictures = (Image.fromarray(image) for image in (hu, thick))
        resized = [np.array(p.resize(shape[::-1], Image.Resampling.BILINEAR)) for p in pictures]
        mask, body = (_nearest(image, shape) for image in (spine[number], body))
        planes.append(Plane(name, number, *resized, mask, body, spacing_mm))
    return planes


def _nearest(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    take = [((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(shape, image.shape)]
    return image[np.ix_(*take)]


def phantom_planes(count: int, size: int, spacing_mm: float) -> list[Plane]:
    """Phantoms of the lumbar spine; vertebral body and posterior elements are the spine."""
    planes = []
    for seed in range(count):
        phantom = spine_phantom(20_000 + seed, size, spacing_mm=spacing_mm)
        hu, labels = phantom.scan.pixels[0].astype(np.float32), phantom.mask[0]
        spine = np.isin(labels, [LABELS["vertebral_body"], LABELS["posterior_elements"]])
        body = (labels != LABELS["air"]) & (labels != LABELS["table"])
        planes.append(Plane("phantom", seed, hu, hu, spine.astype(np.uint8), body, spacing_mm))
    return planes


def training_tone(hu: np.ndarray) -> np.ndarray:
    """The gray scale that is trained on: float32 in [0, 1]."""
    return TRAINING_WINDOW.to_unit(hu)


def draw_tone(kind: str, rng: np.random.Generator, hu: np.ndarray, body: np.ndarray) -> Tone:
    """A random gray scale of 8 bits.

    ``"window"`` is that of ``benchmarks/ct_pairs.py``; the others bend a random window (middle −100
    to 400 HU, width 300 to 2 500 HU): ``"gamma"`` by a power of 0.4 to 2.5, ``"sigmoid"`` by
    DICOM's sigmoid function, ``"piecewise"`` by a line of five pieces whose slopes differ by up
    to 16. ``"inverted"`` is one of them, dark for bright.

    Args:
        kind: One of :data:`TONES`, or ``"inverted"``.
        rng: Source of randomness.
        hu: What is shown with it; drawn again until a quarter of the body is neither black nor
            white, 100 times at most.
        body: Of `hu`.
    """
    inverted = kind == "inverted"
    if inverted:
        kind = str(rng.choice(TONES))
    for _ in range(100):
        tone = _draw(kind, rng)
        if not body.any():
            break
        gray = tone(hu[body])
        if np.mean((gray > 0.5 / 255) & (gray < 254.5 / 255)) >= SHOWN:
            break
    return (lambda values: 1.0 - tone(values)) if inverted else tone


def _draw(kind: str, rng: np.random.Generator) -> Tone:
    if kind == "window":
        scale = draw_scale(rng)
        return lambda hu: _eight_bits(scale(hu))
    window = Window(rng.uniform(-100, 400), np.exp(rng.uniform(np.log(300), np.log(2500))))
    if kind == "gamma":
        gamma = np.exp(rng.uniform(np.log(0.4), np.log(2.5)))
        return lambda hu: _eight_bits(window.to_unit(hu) ** gamma)
    if kind == "sigmoid":

        def sigmoid(hu: np.ndarray) -> np.ndarray:
            # DICOM PS3.3 C.11.2.1.3.1
            power = -4.0 * (np.asarray(hu, np.float32) - window.center) / window.width
            return _eight_bits(1.0 / (1.0 + np.exp(np.clip(power, -60, 60))))

        return sigmoid
    if kind != "piecewise":
        raise ValueError(f"kind: must be one of {TONES} or 'inverted', received {kind!r}.")
    slopes = np.exp(rng.uniform(np.log(0.25), np.log(4), 5))
    levels = np.concatenate([[0.0], np.cumsum(slopes) / slopes.sum()])
    return lambda hu: _eight_bits(np.interp(window.to_unit(hu), np.linspace(0, 1, 6), levels))


def _eight_bits(gray: np.ndarray) -> np.ndarray:
    return (np.rint(gray * 255) / 255).astype(np.float32)


def sub_scans(planes: Sequence[Plane]) -> list[list[int]]:
    """Numbers of planes in groups of about :data:`SLICES`, each spread over the whole scan."""
    count = max(1, round(len(planes) / SLICES))
    return [list(range(first, len(planes), count)) for first in range(count)]


def shown(
    planes: Sequence[Plane], domain: str, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray], Tone]:
    """Planes of one scan as a test shows them: a scan has one gray scale.

    Args:
        planes: The planes.
        domain: One of :data:`DOMAINS`.
        seed: Of gray scales and noise.

    Returns:
        Gray levels float32 (H, W) in [0, 1] of each; the HU behind them; and the gray scale.
    """
    first = planes[0]
    key = [seed, zlib.crc32(first.scan.encode()), first.number, zlib.crc32(domain.encode())]
    rng = np.random.default_rng(key)
    hu = [plane.thick if domain == "thick slices" else plane.hu for plane in planes]
    if CHANGES.get(domain) is not None:
        gray = []
        for plane in planes:
            pixels = np.rint(plane.hu).astype(np.int16)[None]
            spacing = (3.0, plane.spacing, plane.spacing)
            scan = Scan(pixels, spacing=spacing, units="HU", name=plane.scan)
            noise = int(rng.integers(2**31))
            gray.append(apply_protocol(scan, CHANGES[domain], seed=noise)[0, ..., 0])
        return gray, [TRAINING_WINDOW.to_hu(image) for image in gray], training_tone
    tone = training_tone
    if domain not in ("training", "thick slices"):
        tone = draw_tone(domain, rng, np.stack(hu), np.stack([plane.body for plane in planes]))
    return [tone(image) for image in hu], hu, tone


def style_bank(
    scans: Mapping[str, ScanRecord], left_out: str, count: int, seed: int
) -> list[np.ndarray]:
    """Unlabelled slices of other patients in random gray scales: float32 (H, W) in [0, 1].

    Args:
        scans: Of ``benchmarks/ct_scans.py``.
        left_out: The patient that is tested.
        count: Number of images; patients are drawn evenly.
        seed: Of the draws.
    """
    names = sorted(name for name, scan in scans.items() if scan.group != left_out)
    rng = np.random.default_rng([seed, zlib.crc32(left_out.encode()), 0x57])
    images = []
    while len(images) < count:
        hu, body = draw_view(scans[names[len(images) % len(names)]], rng)
        if body.mean() >= 0.1:
            images.append(draw_tone(TONES[int(rng.integers(len(TONES)))], rng, hu, body)(hu))
    return images


def training_batches(
    planes: Sequence[Plane], size: int, batch_size: int, seed: int, random_tone: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of squares, turned, scaled, shifted, flipped and cropped at random.

    The same for equal seeds, in the training gray scale or, with `random_tone`, each image in a
    random one.

    Yields:
        Images float32 (B, size, size, 1) in [0, 1], padding black; masks uint8 (B, size, size).
    """
    rng, tones = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
    by_scan: dict[str, list[Plane]] = {}
    for plane in planes:
        by_scan.setdefault(plane.scan, []).append(plane)
    names = sorted(by_scan)
    while True:
        images, masks = [], []
        for _ in range(batch_size):
            own = by_scan[names[int(rng.integers(len(names)))]]
            plane = own[int(rng.integers(len(own)))]
            angle, scale = np.deg2rad(rng.uniform(-15, 15)), np.exp(rng.uniform(-0.2, 0.2))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            flip = np.diag([1.0, rng.choice([-1.0, 1.0])])
            grid = plane.grid(size, scale * turn @ flip) + rng.uniform(-0.1, 0.1, (2, 1, 1)) * size
            hu, mask = plane.square(plane.hu, grid, AIR), plane.square(plane.mask, grid, IGNORE)
            if rng.random() < CROP and (mask == 1).any():
                beyond = _beyond(mask == 1, size, rng)
                hu, mask = np.where(beyond, AIR, hu), np.where(beyond, IGNORE, mask)
            tone = training_tone
            if random_tone:
                kind = TONES[int(tones.integers(len(TONES)))]
                tone = draw_tone(kind, tones, plane.hu, plane.body)
            images.append(np.where(mask == IGNORE, 0.0, tone(hu)))
            masks.append(mask)
        yield np.stack(images)[..., None].astype(np.float32), np.stack(masks)


def _beyond(spine: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels beyond a random field of view round the spine: bool (size, size)."""
    center = [np.mean(n) for n in np.nonzero(spine)]
    half = rng.uniform(0.15, 0.4, 2) * size
    rows, columns = (
        np.abs(np.arange(size) - c - rng.uniform(-0.4, 0.4) * h) > h for c, h in zip(center, half)
    )
    return rows[:, None] | columns
