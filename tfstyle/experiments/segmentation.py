"""Does style augmentation help a segmenter on gray scales it was not trained on?

A U-Net is trained on one gray scale and tested on others, with and without augmentation: the
paper's Figure 7 and Table 2. What is trained on, what styles come from and what is tested on are
different scans (phantoms: different seeds). Every condition sees the same training images in the
same order with the same flips, starts from the same weights and takes the same number of steps;
conditions differ in the gray levels alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfstyle._private.files import write_atomically
from tfstyle.data import LABELS, PROTOCOLS, apply_protocol, spine_phantom, write_png
from tfstyle.data.labelled import LabelledFiles, LabelledScan, find_labelled
from tfstyle.data.layouts import PICTURE
from tfstyle.data.nifti import match_labels, read_nifti
from tfstyle.data.read import read_scan
from tfstyle.data.scan import Scan
from tfstyle.data.windows import WindowSpec, resolve_window
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.experiments.study_file import read_study

log = logging.getLogger(__name__)

#: Conditions by name, with what a table says of them and whether they know the target gray scales.
CONDITIONS: Mapping[str, tuple[str, bool]] = {
    "plain": ("no augmentation", False),
    "classical": ("random gamma and window jitter", False),
    "histogram_matching": ("histogram matching to style scans", True),
    "adain_mse": ("AdaIN trained with MSE, style scans", True),
    "ours": ("StyleAugmentation, style scans", True),
    "ours_classical": ("StyleAugmentation, then gamma and jitter", True),
}
#: True class of pixels that count neither in training nor in tests.
IGNORE = 255
#: The gray scale that training images have in :func:`phantom_data` and :func:`real_data`.
TRAINING_PROTOCOL = "standard"
MEASURES = ("pixel_accuracy", "mean_iou")


@dataclass(frozen=True)
class SegmentationSettings:
    """What all runs of a study have in common.

    Attributes:
        steps: Training steps of a run.
        batch_size: Images a step.
        depth: Of the U-Net.
        width: Of the U-Net.
        learning_rate: Adam's at the start; it falls to 0 along a cosine.
        views: Augmented forms of each training image, made before the training.
        p: Share of training images that are augmented, in every condition but ``plain``.
        strength: Range of the strength of :class:`tfstyle.StyleAugmentation`; in full, as histogram
            matching and the other conditions are.
        gate: Its gate.
        gamma: Largest exponent of the random power law; the least is its inverse.
        jitter: Of the window.
    """

    steps: int = 400
    batch_size: int = 8
    depth: int = 3
    width: int = 16
    learning_rate: float = 2e-3
    views: int = 8
    p: float = 0.75
    strength: tuple[float, float] = (1.0, 1.0)
    gate: float | None = 0.8
    gamma: float = 2.0
    jitter: float = 0.3

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "depth", "width", "views"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}: must be at least 1, received {getattr(self, name)}.")
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"p: must lie in [0, 1], received {self.p!r}.")


@dataclass(frozen=True, eq=False)
class SegmentationData:
    """Training images, styles and test images of one experiment.

    Attributes:
        images: float32 training images (N, H, W, 1) in [0, 1].
        masks: uint8 (N, H, W): classes, or :data:`IGNORE`.
        styles: float32 images (H', W', 1) of unlabelled scans in the target gray scales.
        style_names: One name for each.
        tests: Images and masks of each unseen domain.
        seen: Images and masks of test scans in the training gray scale, or None.
        classes: Names of the classes, background first.
        split: What was split, in words.
    """

    images: np.ndarray
    masks: np.ndarray
    styles: Sequence[np.ndarray]
    style_names: Sequence[str]
    tests: Mapping[str, tuple[np.ndarray, np.ndarray]]
    seen: tuple[np.ndarray, np.ndarray] | None
    classes: Sequence[str]
    split: str


# -- data ----------------------------------------------------------------------------------


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

    Args:
        seed: Which training phantoms.
        size: Side of the images in pixels.
        spacing_mm: Pixel spacing; the default shows the spine and what lies around it.
        train: Number of training phantoms.
        style: Number of style phantoms for each unseen protocol.
        test: Number of test phantoms, shown in every protocol.
        protocols: Protocols to use; the training protocol is always there.

    Returns:
        The data; classes are background, vertebral body, posterior elements and canal.
    """
    unseen = [name for name in protocols if name != TRAINING_PROTOCOL]
    kept = {"vertebral_body": 1, "posterior_elements": 2, "canal": 3}

    def draw(numbers: Iterable[int]) -> list:
        return [spine_phantom(n, size, spacing_mm=spacing_mm) for n in numbers]

    def shown(phantoms: list, protocol: str) -> tuple[np.ndarray, np.ndarray]:
        images = [apply_protocol(p, protocol, seed=i) for i, p in enumerate(phantoms)]
        masks = np.concatenate([p.mask for p in phantoms])
        classes = np.zeros_like(masks)
        for name, number in kept.items():
            classes[masks == LABELS[name]] = number
        return np.concatenate(images), classes

    images, masks = shown(draw(range(10_000 + 100 * seed, 10_000 + 100 * seed + train)), "standard")
    tested = draw(range(5_000, 5_000 + test))
    styles, names = [], []
    for number, protocol in enumerate(unseen):
        first = 3_000 + style * number
        styles += list(shown(draw(range(first, first + style)), protocol)[0])
        names += [protocol] * style
    return SegmentationData(
        images=images,
        masks=masks,
        styles=styles,
        style_names=names,
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
    folder: str | os.PathLike,
    seed: int,
    *,
    size: int = 64,
    spacing_mm: float = 3.0,
    train: int = 24,
    every: int = 2,
    protocols: Iterable[str] = tuple(PROTOCOLS),
) -> SegmentationData:
    """Real CT with spine masks: trained on one scan, tested on another in other gray scales.

    Args:
        folder: Holds ``torso/`` and ``torso_dicom/`` of TotalSegmentator's reference files.
        seed: Which of the labelled training slices.
        size: Side of the square around the body's centre, in pixels.
        spacing_mm: Pixel spacing to which all slices are brought.
        train: Number of training slices.
        every: Take every so many slices of the test scan.
        protocols: Protocols to use.

    Returns:
        The data; classes are background and spine.

    Raises:
        InputFileError: If a file is missing.
    """
    from tfstyle.experiments.extra_ct import extra_ct

    folder = Path(folder)
    unseen = [name for name in protocols if name != TRAINING_PROTOCOL]
    torso = read_nifti(folder / "torso" / "ct.nii.gz", units="HU")
    # The label map's affine is that of a file cut below: it lies 246 mm higher than it says.
    labels, covered = match_labels(torso, folder / "torso" / "labels.nii.gz", offset_mm=(0, 0, 246))
    where = np.flatnonzero(covered)
    where = np.sort(np.random.default_rng([seed, 0x7A]).permutation(where)[:train])
    tested = read_scan(folder / "torso_dicom")
    answers, _ = match_labels(tested, folder / "torso_dicom" / "labels.nii.gz")
    taken = np.arange(0, len(tested), every)

    def spine(labels: np.ndarray) -> np.ndarray:
        return ((labels >= 25) & (labels <= 50)).astype(np.uint8)

    trained = _stack(torso, where, spine(labels), spacing_mm, size)
    test = _stack(tested, taken, spine(answers), spacing_mm, size)
    styles, names = [], []
    for scan in extra_ct():
        part = _stack(scan, [len(scan) // 2], None, spacing_mm, size)[0]
        for protocol in unseen:
            styles.append(apply_protocol(part, protocol)[0])
            names.append(f"{scan.name} {protocol}")
    if not styles:
        raise InputFileError(
            "pydicom-data",
            "gives the style scans and is not installed; install it: pip install 'tfstyle[demo]'.",
        )
    return SegmentationData(
        images=apply_protocol(trained[0], TRAINING_PROTOCOL),
        masks=trained[1],
        styles=styles,
        style_names=names,
        tests={name: (apply_protocol(test[0], name), test[1]) for name in unseen},
        seen=(apply_protocol(test[0], TRAINING_PROTOCOL), test[1]),
        classes=("background", "spine"),
        split=(
            f"by scan: {len(where)} of the {int(covered.sum())} labelled slices of one scan "
            f"(torso, drawn by seed) under the protocol {TRAINING_PROTOCOL!r}; every "
            f"{every}. slice of another scan (torso_dicom, {len(taken)} slices) tested under "
            f"{len(unseen)} other protocols; styles from {len(styles) // len(unseen)} CT slices of "
            "pydicom-data under these protocols. Masks are TotalSegmentator's own output on a grid "
            "of 3 mm, not drawn by hand"
        ),
    )


def _stack(
    scan: Scan, slices: Sequence[int], mask: np.ndarray | None, spacing_mm: float, size: int
) -> tuple[Scan, np.ndarray]:
    """Slices of a scan at `spacing_mm`, a square of `size` pixels around the body's centre."""
    planes, masks = [], []
    for number in slices:
        plane = scan.pixels[number].astype(np.float32)
        own = np.zeros(plane.shape, np.uint8) if mask is None else mask[number]
        shape = [max(1, round(n * s / spacing_mm)) for n, s in zip(plane.shape, scan.spacing[1:])]
        plane, own = _resize(plane, shape), _nearest(own, shape)
        rows, columns = np.nonzero(plane > -500)
        centre = (rows.mean(), columns.mean()) if len(rows) else np.array(plane.shape) / 2
        corner = [round(float(c) - size / 2) for c in centre]
        planes.append(_cut(plane, corner, size, -1024))
        masks.append(_cut(own, corner, size, IGNORE))
    pixels = np.rint(np.stack(planes)).astype(np.int16)
    spacing = (scan.spacing[0], spacing_mm, spacing_mm)
    return Scan(pixels, spacing=spacing, units="HU", name=scan.name), np.stack(masks)


def _cut(plane: np.ndarray, corner: Sequence[int], size: int, fill: float) -> np.ndarray:
    """A square that may reach beyond the image."""
    result = np.full((size, size), fill, plane.dtype)
    (top, left), (height, width) = corner, plane.shape
    rows = slice(max(0, top), min(height, top + size))
    columns = slice(max(0, left), min(width, left + size))
    if rows.start < rows.stop and columns.start < columns.stop:
        result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
            plane[rows, columns]
        )
    return result


def _resize(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bilinear, over all pixels that an output pixel covers."""
    if tuple(shape) == plane.shape:
        return plane
    resized = keras.ops.image.resize(plane[..., None], tuple(shape), antialias=True)
    return keras.ops.convert_to_numpy(resized)[..., 0]


def _nearest(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    take = [
        np.minimum(((np.arange(n) + 0.5) * full / n).astype(int), full - 1)
        for n, full in zip(shape, mask.shape)
    ]
    return mask[np.ix_(*take)]


def labelled_data(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    domain_from: str = "folder",
    subject_from: str | None = None,
    layout: str = "auto",
    train_domain: str | None = None,
    window: WindowSpec = "auto",
    classes: str | None = "foreground",
    size: int = 128,
    slices: int = 8,
    seed: int = 0,
) -> dict[str, SegmentationData]:
    """One's own scans, split by domain and subject.

    Without `train_domain` each domain is left out once: trained on all others, tested on it. With
    it, training is on that domain and the test on all others. Of every tested domain a quarter of
    the subjects, at least one, gives styles (their masks are not used), the others are tested. A
    subject that occurs on the test side is not trained on.

    Args:
        images: See :func:`tfstyle.data.find_labelled`.
        masks: See :func:`tfstyle.data.find_labelled`.
        domain_from: See :func:`tfstyle.data.find_labelled`.
        subject_from: See :func:`tfstyle.data.find_labelled`.
        layout: See :func:`tfstyle.data.find_labelled`.
        train_domain: Name of the domain to train on.
        window: Window of all scans, see :func:`tfstyle.data.resolve_window`.
        classes: ``"foreground"`` for 1 wherever there is a label, or None to keep labels.
        size: Side of the images; slices are scaled to fit and padded.
        slices: Slices of each scan, evenly spread over those that show a label.
        seed: Which subjects give styles.

    Returns:
        Data by name of the experiment.

    Raises:
        ArgumentError: one domain alone, an unknown `train_domain`, or too few subjects.
        InputFileError: a file or folder that cannot be read, or nothing found.
    """
    if size < 16 or slices < 1:
        raise ArgumentError(
            f"size and slices: need at least 16 and 1, received {size!r} and {slices!r}."
        )
    records = find_labelled(
        images, masks, layout=layout, domain_from=domain_from, subject_from=subject_from
    )
    domains = sorted({record.domain for record in records})
    if len(domains) < 2:
        raise ArgumentError(
            f"domain_from: {domain_from!r} finds one domain only ({domains[0]!r}) among "
            f"{len(records)} scans; a study needs at least two. Name another source of domains: "
            "folder, tag:KEYWORD or csv:FILE:COLUMN."
        )
    if train_domain is not None and train_domain not in domains:
        raise ArgumentError(
            f"train_domain: there is no {train_domain!r}; domains are {', '.join(domains)}."
        )
    cache: dict[LabelledFiles, tuple] = {}

    def load(record: LabelledFiles) -> tuple:
        if record not in cache:
            cache[record] = _slices_of(record.read(classes), window, size, slices)
        return cache[record]

    highest = max(int(load(r)[1][load(r)[1] != IGNORE].max(initial=0)) for r in records)
    if highest == 0:
        raise InputFileError(masks or images, "holds no labelled pixel in any mask.")
    if highest > 63:
        raise ArgumentError(
            f"classes: labels reach {highest}; use 'foreground', or renumber them below 64."
        )
    names = ["background", "foreground"] if classes == "foreground" else ["background"]
    names += [f"label {n}" for n in range(len(names), highest + 1)]
    if train_domain is not None:
        plans = {f"trained on {train_domain}": [d for d in domains if d != train_domain]}
    else:
        plans = {f"without {domain}": [domain] for domain in domains}
    return {name: _split(records, tested, load, names, seed) for name, tested in plans.items()}


def _split(
    records: Sequence[LabelledFiles],
    tested: Sequence[str],
    load: Callable,
    classes: Sequence[str],
    seed: int,
) -> SegmentationData:
    """Training, style and test scans of one experiment."""
    styles, style_names, tests, taken = [], [], {}, set()
    for domain in tested:
        own = [record for record in records if record.domain == domain]
        subjects = sorted({record.subject for record in own})
        if len(subjects) < 2:
            raise ArgumentError(
                f"domain {domain!r}: has one subject only; a tested domain needs two, one to give "
                "styles and one to be tested."
            )
        order = np.random.default_rng([seed, 0x5D]).permutation(subjects)
        giving = {str(s) for s in order[: max(1, len(subjects) // 4)]}
        for record in own:
            if record.subject in giving:
                part = load(record)[0]
                styles += list(part)
                style_names += [domain] * len(part)
        # A subject that gives styles in one domain is not tested in another.
        chosen = [r for r in own if r.subject not in giving]
        tests[domain] = tuple(np.concatenate(part) for part in zip(*map(load, chosen)))
        taken |= set(subjects)
    training = [r for r in records if r.domain not in tested and r.subject not in taken]
    if not training:
        raise ArgumentError(
            "subjects: every subject of the training domains occurs in a tested one as well; "
            "nothing is left to train on."
        )
    images, masks = (np.concatenate(part) for part in zip(*map(load, training)))
    return SegmentationData(
        images=images,
        masks=masks,
        styles=styles,
        style_names=style_names,
        tests=tests,
        seen=None,
        classes=classes,
        split=(
            f"by subject: {len({r.subject for r in training})} subjects of "
            f"{', '.join(sorted({r.domain for r in training}))} in training ({len(images)} "
            f"slices); tested on {', '.join(f'{d} ({len(t[0])} slices)' for d, t in tests.items())}"
            f"; {len(styles)} style slices from further subjects of the tested domains"
        ),
    )


def _slices_of(
    scan: LabelledScan, window: WindowSpec, size: int, slices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slices that show a label, scaled to fit a square."""
    where = np.flatnonzero(scan.covered & (scan.mask != 0).any(axis=(1, 2)))
    if not len(where):
        where = np.flatnonzero(scan.covered)
    if not len(where):
        raise InputFileError(scan.scan.name, "its mask covers none of its slices.")
    count = min(slices, len(where))
    where = where[[int((i + 0.5) / count * len(where)) for i in range(count)]]
    shown = resolve_window(window, scan.scan)
    images, masks = [], []
    for number in where:
        plane, own = shown.to_unit(scan.scan.pixels[number]), scan.mask[number].astype(np.uint8)
        scale = size / max(plane.shape)
        shape = [max(1, round(n * scale)) for n in plane.shape]
        corner = [(n - size) // 2 for n in shape]
        images.append(_cut(_resize(plane, shape).clip(0, 1), corner, size, 0.0))
        masks.append(_cut(_nearest(own, shape), corner, size, IGNORE))
    return np.stack(images)[..., None].astype(np.float32), np.stack(masks)


# -- augmentation --------------------------------------------------------------------------


class _Views:
    """Augmented forms of the training images, condition by condition."""

    def __init__(
        self,
        settings: SegmentationSettings,
        preset: str | os.PathLike,
        mse: str | os.PathLike | None,
    ):
        self.settings = settings
        self.presets = {"ours": preset, "adain_mse": mse}
        self._networks: dict = {}
        self._banks: dict = {}
        self._made: dict = {}

    def make(
        self, condition: str, name: str, data: SegmentationData, seed: int
    ) -> tuple[np.ndarray, dict]:
        """Views (N, K, H, W, 1) of the training images, and what is to be said of them."""
        settings = self.settings
        shape = (len(data.images), settings.views, *data.images.shape[1:])
        original = np.broadcast_to(data.images[:, None], shape)
        if condition == "plain":
            return original[:, :1], {}
        if condition == "classical":
            return self._classical(original, seed), {}
        if condition == "histogram_matching":
            return self._matched(original, data, seed), {}
        if condition == "ours_classical":
            views, counts = self._styled("ours", name, data, original, seed)
            return self._classical(views, seed), counts
        return self._styled(condition, name, data, original, seed)

    def _chosen(self, shape: Sequence[int], seed: int, what: int) -> np.ndarray:
        rng = np.random.default_rng([seed, what])
        return rng.random(shape[:2]) < self.settings.p

    def _classical(self, views: np.ndarray, seed: int) -> np.ndarray:
        from tfstyle.baselines import RandomGamma, WindowJitter

        settings = self.settings
        result = np.array(views, np.float32)
        chosen = self._chosen(result.shape, seed, 1)
        if chosen.any():
            gamma = RandomGamma(1 / settings.gamma, settings.gamma, seed=seed)
            jitter = WindowJitter(settings.jitter, seed=seed + 1)
            result[chosen] = jitter.stylize(gamma.stylize(result[chosen]))
        return result

    def _matched(self, views: np.ndarray, data: SegmentationData, seed: int) -> np.ndarray:
        from tfstyle.baselines import HistogramMatching

        matching = HistogramMatching()
        rng = np.random.default_rng([seed, 2])
        result = np.array(views, np.float32)
        for index in zip(*np.nonzero(self._chosen(result.shape, seed, 1))):
            style = data.styles[rng.integers(len(data.styles))]
            result[index] = matching.stylize(result[index], style)
        return result

    def _styled(
        self, which: str, name: str, data: SegmentationData, original: np.ndarray, seed: int
    ) -> tuple[np.ndarray, dict]:
        key = (which, name, seed)
        if key not in self._made:
            self._made = {key: self._stylize(which, name, data, original, seed)}
        return self._made[key]

    def _stylize(self, which, name, data, original, seed) -> tuple[np.ndarray, dict]:
        import tensorflow as tf

        from tfstyle.augment import StyleAugmentation
        from tfstyle.presets import open_model
        from tfstyle.style_bank import StyleBank

        settings = self.settings
        if which not in self._networks:
            self._networks[which] = open_model(self.presets[which])
        network = self._networks[which]
        if (which, name) not in self._banks:
            bank = StyleBank.encode(network, data.styles)
            layer = StyleAugmentation(
                network,
                bank,
                p=settings.p,
                strength=settings.strength,
                gate=settings.gate,
                seed=0,
            )
            function = tf.function(lambda x, s: layer(x, seed=s), reduce_retracing=True)
            self._banks[which, name] = layer, function
        layer, augment = self._banks[which, name]
        layer.reset_counts()
        views = np.empty(original.shape, np.float32)
        for view in range(original.shape[1]):
            for start in range(0, len(original), 32):
                part = slice(start, start + 32)
                draw = tf.constant([seed, view * 100_003 + start])
                views[part, view] = augment(tf.constant(original[part, view]), draw).numpy()
        return views, layer.counts


# -- runs ----------------------------------------------------------------------------------


class _Segmenter:
    """A U-Net that is compiled once and trained anew for each run."""

    def __init__(self, classes: int, settings: SegmentationSettings):
        from tfstyle.segmentation import SegmentationLoss, UNet

        self.settings, self.classes = settings, classes
        self._make = lambda: UNet(
            classes, settings.depth, settings.width, normalization="batch", dropout=0.0
        )
        self.unet = self._make()
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
        self.unet.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=SegmentationLoss(dice=1.0, ignore_class=IGNORE),
            jit_compile=False,  # on a CPU no faster, and it has to be compiled first
        )
        self.unet.optimizer.build(self.unet.trainable_variables)

    def train(self, views: np.ndarray, masks: np.ndarray, seed: int) -> None:
        settings = self.settings
        keras.utils.set_random_seed(seed)
        self.unet.set_weights(self._make().get_weights())
        for variable in self.unet.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        # The same draws whatever the condition: images, views by their share, flips.
        rng = np.random.default_rng([seed, 3])
        total = settings.steps * settings.batch_size
        rounds = -(-total // len(views))
        order = np.concatenate([rng.permutation(len(views)) for _ in range(rounds)])[:total]
        view = (rng.random(total) * views.shape[1]).astype(int)
        flip = rng.random(total) < 0.5
        x, y = views[order, view], masks[order]
        x[flip], y[flip] = x[flip, :, ::-1], y[flip, :, ::-1]
        self.unet.fit(x, y, batch_size=settings.batch_size, shuffle=False, verbose=0)

    def test(self, images: np.ndarray, masks: np.ndarray) -> tuple[dict, np.ndarray]:
        from tfstyle import metrics

        found = self.unet.segment(images, batch_size=16)[..., 0]
        options = {"num_classes": self.classes, "ignore_class": IGNORE}
        scores = {
            "pixel_accuracy": metrics.pixel_accuracy(masks, found, **options),
            "mean_iou": metrics.mean_iou(masks, found, **options),
            "iou_by_class": [
                None if np.isnan(v) else round(float(v), 5)
                for v in metrics.iou_by_class(masks, found, **options)
            ],
        }
        return {k: v if k == "iou_by_class" else round(v, 5) for k, v in scores.items()}, found


def run_segmentation_study(
    datasets: Mapping[str, Callable[[int], SegmentationData]],
    output: str | os.PathLike,
    *,
    conditions: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    settings: SegmentationSettings = SegmentationSettings(),
    preset: str | os.PathLike | None = None,
    mse: str | os.PathLike | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict:
    """Trains and tests a U-Net for every data set, seed and condition.

    Args:
        datasets: Name of each data set, and a function from the seed to its data.
        output: JSON file. Runs that it holds already are not done again.
        conditions: Of :data:`CONDITIONS`; all unless given, without ``adain_mse`` where `mse` is
            not.
        seeds: One run of every condition each.
        settings: What all runs have in common.
        preset: The preset or model of ``ours``. Defaults to the default preset.
        mse: A preset trained with MSE, for ``adain_mse``.
        progress: Called with the number of runs done, of all, and the name of the next.

    Returns:
        What the file holds: ``"settings"``, ``"data"``, ``"rows"`` and ``"summary"`` (see
        :func:`summarize`).

    Raises:
        ArgumentError: unknown conditions, ``adain_mse`` without `mse`, or a file of other settings.
        OutputError: the file cannot be written.
    """
    from tfstyle.training import environment

    if conditions is None:
        conditions = [c for c in CONDITIONS if c != "adain_mse" or mse is not None]
    unknown = [c for c in conditions if c not in CONDITIONS]
    if unknown:
        raise ArgumentError(
            f"conditions: unknown {', '.join(unknown)}; use {', '.join(CONDITIONS)}."
        )
    if "adain_mse" in conditions and mse is None:
        raise ArgumentError("mse: the condition adain_mse needs a preset trained with MSE.")
    output = Path(output)
    about = json.loads(json.dumps(dataclasses.asdict(settings)))
    rows = _read_study(output, about)["rows"]
    done = {(row["data"], row["condition"], row["seed"]) for row in rows}
    plan = [(s, d, c) for s in seeds for d in datasets for c in conditions]
    views = _Views(settings, preset, mse)
    segmenters: dict[int, _Segmenter] = {}
    loaded: tuple = ()
    for number, (seed, name, condition) in enumerate(plan):
        if progress is not None:
            progress(number, len(plan), f"{name}, {condition}, seed {seed}")
        if (name, condition, seed) in done:
            continue
        if loaded[:2] != (name, seed):
            loaded = (name, seed, datasets[name](seed))
        data = loaded[2]
        begin = time.process_time()
        classes = len(data.classes)
        if classes not in segmenters:
            segmenters[classes] = _Segmenter(classes, settings)
        row, masks = _run(condition, name, data, seed, views, segmenters[classes])
        row["cpu_seconds"] = round(time.process_time() - begin, 1)
        data_facts = {
            "split": data.split,
            "classes": list(data.classes),
            "domains": list(data.tests),
            "image_size": list(data.images.shape[1:3]),
            "training_images": len(data.images),
            "styles": len(data.styles),
        }
        if seed == seeds[0]:
            _write_examples(output, name, condition, data, masks)
        with _locked(output):  # another process may run other data sets into the same file
            result = _read_study(output, about)
            result["rows"].append(row)
            result["data"][name] = data_facts
            result["environment"] = environment()
            result["summary"] = summarize(result["rows"])
            write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
    if progress is not None:
        progress(len(plan), len(plan), "")
    return _read_study(output, about)


def _run(
    condition: str,
    name: str,
    data: SegmentationData,
    seed: int,
    views: _Views,
    segmenter: _Segmenter,
) -> tuple[dict, dict[str, np.ndarray]]:
    images, counts = views.make(condition, name, data, seed)
    segmenter.train(images, data.masks, seed)
    domains, found = {}, {}
    for domain, (tested, masks) in data.tests.items():
        domains[domain], predictions = segmenter.test(tested, masks)
        found[domain] = predictions[0]
    row = {"data": name, "condition": condition, "seed": seed}
    for measure in MEASURES:
        row[measure] = round(float(np.mean([d[measure] for d in domains.values()])), 5)
    row["seen"] = None if data.seen is None else segmenter.test(*data.seen)[0]
    row["domains"] = domains
    if counts:
        row["augmentation"] = counts
    return row, found


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Alone with the file, among processes of one machine."""
    with open(output.with_name(f".{output.name}.lock"), "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except ImportError:
            pass  # Windows: one process at a time
        yield


def _read_study(output: Path, settings: dict) -> dict:
    return read_study(output, settings, {"data": {}, "rows": [], "summary": []}, "runs")


def summarize(rows: Sequence[Mapping]) -> list[dict]:
    """Means over seeds, and differences to other conditions seed by seed.

    Args:
        rows: As :func:`run_segmentation_study` writes them.

    Returns:
        For each data set and condition: ``runs``; for pixel accuracy and mean IoU the ``mean`` and
        ``std`` (n − 1) over seeds of the mean over unseen domains; ``seen`` means; and ``minus``
        ``plain`` and ``classical``: mean and standard deviation of the paired differences.
    """
    table: dict[tuple[str, str], dict[int, Mapping]] = {}
    for row in rows:
        table.setdefault((row["data"], row["condition"]), {})[row["seed"]] = row
    result = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for condition in CONDITIONS:
            own = table.get((data, condition))
            if not own:
                continue
            entry: dict = {"data": data, "condition": condition, "runs": len(own)}
            for measure in MEASURES:
                entry[measure] = _mean([row[measure] for row in own.values()])
                seen = [row["seen"][measure] for row in own.values() if row["seen"]]
                entry.setdefault("seen", {})[measure] = _mean(seen) if seen else None
            for other in ("plain", "classical"):
                base = table.get((data, other), {})
                shared = sorted({*own} & {*base})
                if other == condition or not shared:
                    continue
                entry[f"minus_{other}"] = {
                    m: _mean([own[s][m] - base[s][m] for s in shared]) for m in MEASURES
                }
            result.append(entry)
    return result


def complete_seeds(result: Mapping) -> dict:
    """A study under way without the seeds that some condition still lacks.

    Args:
        result: Of :func:`run_segmentation_study`, or its file's content.

    Returns:
        The same with fewer rows and the summary of those, so that all conditions of a data set are
        compared on the same seeds.
    """
    conditions: dict[str, set] = {}
    found: dict[tuple, set] = {}
    for row in result["rows"]:
        conditions.setdefault(row["data"], set()).add(row["condition"])
        found.setdefault((row["data"], row["seed"]), set()).add(row["condition"])
    rows = [
        row for row in result["rows"] if found[row["data"], row["seed"]] == conditions[row["data"]]
    ]
    return {**result, "rows": rows, "summary": summarize(rows)}


def _mean(values: Sequence[float]) -> dict:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        "mean": round(float(np.mean(values)), 5),
        "std": None if spread is None else round(spread, 5),
        "n": len(values),
    }


def examples_folder(output: str | os.PathLike) -> Path:
    """Where pictures of the first seed's segmentations lie."""
    output = Path(output)
    return output.with_name(f"{output.stem}_examples")


def _write_examples(
    output: Path, name: str, condition: str, data: SegmentationData, found: Mapping
) -> None:
    """The first test image of each domain, its mask and what was found, as strips."""
    folder = examples_folder(output)
    folder.mkdir(exist_ok=True)
    label = name.replace(" ", "_").replace("/", "_")
    top = len(data.classes) - 1
    strips = {
        "images": [images[0, ..., 0] for images, _ in data.tests.values()],
        "masks": [np.minimum(masks[0], top) / top for _, masks in data.tests.values()],
        condition: [found[domain] / top for domain in data.tests],
    }
    for kind, tiles in strips.items():
        strip = np.concatenate([np.pad(t, 1, constant_values=1.0) for t in tiles], axis=1)
        write_png(strip.astype(np.float32), folder / f"{label}-{kind}.png", description=PICTURE)
