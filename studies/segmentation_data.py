"""Training images, styles and test images of the segmentation study."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from tfstyle.data import (
    LABELS,
    PROTOCOLS,
    Scan,
    apply_protocol,
    match_labels,
    read_scan,
    resolve_window,
    spine_phantom,
)
from tfstyle.data.extra_ct import extra_ct
from tfstyle.data.labelled import LabelledScan, find_labelled
from tfstyle.data.nifti import read_nifti
from tfstyle.errors import ArgumentError, InputFileError

#: True class of pixels that count neither in training nor in tests.
IGNORE = 255
#: The gray scale that training images have in :func:`phantom_data` and :func:`real_data`.
TRAINING_PROTOCOL = "standard"


@dataclass(frozen=True, eq=False)
class SegmentationData:
    """One experiment.

    Attributes:
        images: float32 training images (N, H, W, 1) in [0, 1].
        masks: uint8 (N, H, W): classes, or :data:`IGNORE`.
        styles: float32 images (H', W', 1) of unlabeled scans in the target gray scales.
        tests: Images and masks of each unseen domain.
        seen: Images and masks of test scans in the training gray scale, or None.
        classes: Names of the classes, background first.
        split: What was split, in words.
    """

    images: np.ndarray
    masks: np.ndarray
    styles: Sequence[np.ndarray]
    tests: Mapping[str, tuple[np.ndarray, np.ndarray]]
    seen: tuple[np.ndarray, np.ndarray] | None
    classes: Sequence[str]
    split: str


def phantom_data(
    seed: int,
    *,
    size: int = 64,
    spacing_mm: float = 2.1,
    train: int = 24,
    style: int = 2,
    test: int = 8,
    protocols: Iterable[str] = tuple(PROTOCOLS),
) -> SegmentationData:
    """Phantoms of the lumbar spine: trained on one protocol, tested on the others.

    Training phantoms differ from seed to seed; style and test phantoms are the same for all.
    `train` and `test` are numbers of phantoms, `style` those of each unseen protocol.
    """
    unseen = [name for name in protocols if name != TRAINING_PROTOCOL]
    kept = ("vertebral_body", "posterior_elements", "canal")

    def draw(first: int, count: int) -> list:
        return [spine_phantom(first + i, size, spacing_mm=spacing_mm) for i in range(count)]

    def shown(phantoms: list, protocol: str) -> tuple[np.ndarray, np.ndarray]:
        images = [apply_protocol(p, protocol, seed=i) for i, p in enumerate(phantoms)]
        masks = np.concatenate([p.mask for p in phantoms])
        classes = np.zeros_like(masks)
        for number, name in enumerate(kept, start=1):
            classes[masks == LABELS[name]] = number
        return np.concatenate(images), classes

    images, masks = shown(draw(10_000 + 100 * seed, train), TRAINING_PROTOCOL)
    tested, styles = draw(5_000, test), []
    for number, protocol in enumerate(unseen):
        styles += list(shown(draw(3_000 + style * number, style), protocol)[0])
    return SegmentationData(
        images=images,
        masks=masks,
        styles=styles,
        tests={name: shown(tested, name) for name in unseen},
        seen=shown(tested, TRAINING_PROTOCOL),
        classes=("background", *kept),
        split=(
            f"{train} training phantoms for each seed under the protocol {TRAINING_PROTOCOL!r}; "
            f"{test} other phantoms tested under {len(unseen)} other protocols; styles from "
            f"{style} further phantoms for each of these protocols, without their masks"
        ),
    )


def real_data(
    folder: Path, seed: int, *, size: int = 64, spacing_mm: float = 3.0, train: int = 24
) -> SegmentationData:
    """Real CT with spine masks: trained on one scan, tested on another in other gray scales.

    Args:
        folder: Holds ``torso/`` and ``torso_dicom/`` of TotalSegmentator's reference files.
        seed: Which of the labelled training slices.
        size: Side of the square around the body's center, in pixels.
        spacing_mm: Pixel spacing to which all slices are brought.
        train: Number of training slices.
    """
    unseen = [name for name in PROTOCOLS if name != TRAINING_PROTOCOL]
    torso = read_nifti(folder / "torso" / "ct.nii.gz", units="HU")
    # The label map's affine is that of a file cut below: it lies 246 mm higher than it says.
    labels, covered = match_labels(torso, folder / "torso" / "labels.nii.gz", offset_mm=(0, 0, 246))
    where = np.flatnonzero(covered)
    where = np.sort(np.random.default_rng([seed, 0x7A]).permutation(where)[:train])
    tested = read_scan(folder / "torso_dicom")
    answers, _ = match_labels(tested, folder / "torso_dicom" / "labels.nii.gz")
    taken = np.arange(0, len(tested), 2)

    def spine(labels: np.ndarray) -> np.ndarray:
        return ((labels >= 25) & (labels <= 50)).astype(np.uint8)

    trained = _stack(torso, where, spine(labels), spacing_mm, size)
    test = _stack(tested, taken, spine(answers), spacing_mm, size)
    styles = []
    for scan in extra_ct():
        part = _stack(scan, [len(scan) // 2], None, spacing_mm, size)[0]
        styles += [apply_protocol(part, protocol)[0] for protocol in unseen]
    if not styles:
        raise InputFileError("pydicom-data", "is missing: pip install 'tfstyle[demo]'.")
    return SegmentationData(
        images=apply_protocol(trained[0], TRAINING_PROTOCOL),
        masks=trained[1],
        styles=styles,
        tests={name: (apply_protocol(test[0], name), test[1]) for name in unseen},
        seen=(apply_protocol(test[0], TRAINING_PROTOCOL), test[1]),
        classes=("background", "spine"),
        split=(
            f"by scan: {len(where)} of the {int(covered.sum())} labelled slices of one scan "
            f"(torso, drawn by seed) under the protocol {TRAINING_PROTOCOL!r}; every "
            f"2. slice of another scan (torso_dicom, {len(taken)} slices) tested under "
            f"{len(unseen)} other protocols; styles from {len(styles) // len(unseen)} CT slices of "
            "pydicom-data under these protocols. Masks are TotalSegmentator's own output on a grid "
            "of 3 mm, not drawn by hand"
        ),
    )


def own_data(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    domain_from: str = "folder",
    subject_from: str | None = None,
    train_domain: str | None = None,
    window: str = "auto",
    size: int = 128,
    slices: int = 8,
    seed: int = 0,
) -> dict[str, SegmentationData]:
    """One's own scans with masks of one structure, split by domain and subject.

    Without `train_domain` each domain is left out once: trained on all others, tested on it. With
    it, training is on that domain and the test on all others. Of every tested domain a quarter of
    the subjects, at least one, gives styles (their masks are not used), the others are tested. A
    subject that occurs on the test side is not trained on. At most `slices` slices of each scan
    are taken, evenly spread over those that show a label, scaled to fit `size` pixels and padded.
    For the other arguments see :func:`tfstyle.data.find_labelled`.

    Returns:
        Data by name of the experiment.

    Raises:
        ArgumentError: One domain alone, an unknown `train_domain`, or too few subjects.
        InputFileError: A file or folder that cannot be read, or nothing found.
    """
    records = find_labelled(images, masks, domain_from=domain_from, subject_from=subject_from)
    domains = sorted({record.domain for record in records})
    if len(domains) < 2:
        raise ArgumentError(
            f"domain_from: must tell two domains apart, received {domain_from!r}, which finds "
            f"{domains[0]!r} alone; use folder, tag:KEYWORD or a function."
        )
    if train_domain not in (None, *domains):
        raise ArgumentError(
            f"train_domain: must be one of {', '.join(domains)}, received {train_domain!r}."
        )
    loaded = {
        record: _slices_of(record.read("foreground"), window, size, slices) for record in records
    }
    if not any((masks == 1).any() for _, masks in loaded.values()):
        raise InputFileError(masks or images, "holds no labelled pixel in any mask.")
    if train_domain is None:
        plans = {f"without {domain}": [domain] for domain in domains}
    else:
        plans = {f"trained on {train_domain}": [d for d in domains if d != train_domain]}
    return {name: _split(loaded, tested, seed) for name, tested in plans.items()}


def _split(loaded: Mapping, tested: Sequence[str], seed: int) -> SegmentationData:
    """Training, style and test scans of one experiment."""
    styles, tests, taken = [], {}, set()
    for domain in tested:
        own = [record for record in loaded if record.domain == domain]
        subjects = sorted({record.subject for record in own})
        if len(subjects) < 2:
            raise ArgumentError(
                f"domain {domain!r}: has one subject only; a tested domain needs two, one to give "
                "styles and one to be tested."
            )
        order = np.random.default_rng([seed, 0x5D]).permutation(subjects)
        giving = {str(s) for s in order[: max(1, len(subjects) // 4)]}
        styles += [s for r in own if r.subject in giving for s in loaded[r][0]]
        chosen = [loaded[r] for r in own if r.subject not in giving]
        tests[domain] = tuple(np.concatenate(part) for part in zip(*chosen))
        taken |= set(subjects)
    training = [r for r in loaded if r.domain not in tested and r.subject not in taken]
    if not training:
        raise ArgumentError(
            "subjects: every subject of the training domains occurs in a tested one as well; "
            "nothing is left to train on."
        )
    images, masks = (np.concatenate(part) for part in zip(*(loaded[r] for r in training)))
    return SegmentationData(
        images=images,
        masks=masks,
        styles=styles,
        tests=tests,
        seen=None,
        classes=("background", "foreground"),
        split=(
            f"by subject: {len({r.subject for r in training})} subjects of "
            f"{', '.join(sorted({r.domain for r in training}))} in training ({len(images)} "
            f"slices); tested on {', '.join(f'{d} ({len(t[0])} slices)' for d, t in tests.items())}"
            f"; {len(styles)} style slices from further subjects of the tested domains"
        ),
    )


def _slices_of(
    scan: LabelledScan, window: str, size: int, slices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slices that show a label, scaled to fit a square."""
    where = np.flatnonzero(scan.covered & (scan.mask != 0).any(axis=(1, 2)))
    where = where if len(where) else np.flatnonzero(scan.covered)
    if not len(where):
        raise InputFileError(scan.scan.name, "its mask covers none of its slices.")
    count = min(slices, len(where))
    where = where[[int((i + 0.5) / count * len(where)) for i in range(count)]]
    shown = resolve_window(window, scan.scan)
    images, masks = [], []
    for number in where:
        plane, own = shown.to_unit(scan.scan.pixels[number]), scan.mask[number].astype(np.uint8)
        shape = [max(1, round(n * size / max(plane.shape))) for n in plane.shape]
        corner = [(n - size) // 2 for n in shape]
        images.append(_cut(_resize(plane, shape).clip(0, 1), corner, size, 0.0))
        masks.append(_cut(_nearest(own, shape), corner, size, IGNORE))
    return np.stack(images)[..., None].astype(np.float32), np.stack(masks)


def _stack(
    scan: Scan, slices: Sequence[int], mask: np.ndarray | None, spacing_mm: float, size: int
) -> tuple[Scan, np.ndarray]:
    """Slices of a scan at `spacing_mm`, a square of `size` pixels around the body's center."""
    planes, masks = [], []
    for number in slices:
        plane = scan.pixels[number].astype(np.float32)
        own = np.zeros(plane.shape, np.uint8) if mask is None else mask[number]
        shape = [max(1, round(n * s / spacing_mm)) for n, s in zip(plane.shape, scan.spacing[1:])]
        plane, own = _resize(plane, shape), _nearest(own, shape)
        rows, columns = np.nonzero(plane > -500)
        center = (rows.mean(), columns.mean()) if len(rows) else np.array(plane.shape) / 2
        corner = [round(float(c) - size / 2) for c in center]
        planes.append(_cut(plane, corner, size, -1024))
        masks.append(_cut(own, corner, size, IGNORE))
    pixels = np.rint(np.stack(planes)).astype(np.int16)
    spacing = (scan.spacing[0], spacing_mm, spacing_mm)
    return Scan(pixels, spacing=spacing, units="HU", name=scan.name), np.stack(masks)


def _cut(plane: np.ndarray, corner: Sequence[int], size: int, fill: float) -> np.ndarray:
    """A square that may reach beyond the image."""
    top, left = (min(max(c + size, 0), n + size) for c, n in zip(corner, plane.shape))
    return np.pad(plane, size, constant_values=fill)[top : top + size, left : left + size]


def _resize(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bilinear, over all pixels that an output pixel covers."""
    if tuple(shape) == plane.shape:
        return plane
    resized = keras.ops.image.resize(plane[..., None], tuple(shape), antialias=True)
    return keras.ops.convert_to_numpy(resized)[..., 0]


def _nearest(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))
