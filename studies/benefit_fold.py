"""A U-Net of :mod:`studies.benefit`, and one patient left out: methods, augmentations, images."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from studies import benefit_data as data
from studies.augmentations import BANK_AUGMENTATIONS, IMAGE_AUGMENTATIONS, MixStyleUNet
from tfstyle import StyleAugmentation, ToneTransfer, baselines
from tfstyle.segmentation import SegmentationLoss, UNet
from tfstyle.style_bank import StyleBank
from tfstyle.tone.features import merge_tokens

#: Ways from the test image to the gray scale of the training, with their names in tables.
METHODS = {
    "nothing": "nothing",
    "histogram_matching": "histogram matching",
    "foreground_histogram_matching": "foreground histogram matching",
    "mean_and_spread": "mean and spread of the foreground",
    "nyul": "Nyúl's landmarks",
    "tone_transfer": "**tone transfer**",
    "exact": "the scan's HU in the training window",
}
#: Augmentations by name; joined by ``+`` they follow one another.
CONDITIONS = {
    "none": "none",
    "nnunet": "nnU-Net's intensity transforms",
    "bezier": "Bézier curves (Models Genesis)",
    "gin_ipa": "GIN and IPA",
    "randconv": "RandConv",
    "fda": "FDA, images of other scans",
    "mixstyle": "MixStyle",
    "histogram_matching": "foreground histogram matching to other scans",
    "histogram_matching+nnunet": "foreground histogram matching, then nnU-Net's",
    "tone_transfer": "**tone transfer to other scans**",
    "tone_transfer+nnunet": "**tone transfer, then nnU-Net's**",
    "exact": "the scan's HU in random gray scales",
}
OWN = "tone_transfer"


@dataclass(frozen=True)
class Settings:
    """What all cells have in common."""

    size: int = 96  # side of the squares in pixels
    spacing_mm: float = 2.5  # of the pixels
    width: int = 16  # of the U-Net
    depth: int = 3
    steps: int = 300  # of training
    batch_size: int = 4
    learning_rate: float = 2e-3  # Adam's at the start; it falls to 0 along a cosine
    phantoms: int = 24  # trained on beside the scans
    every: int = 2  # of so many slices of `vertebra` one is taken
    styles: int = 8  # slices of each scan that are the style at test time
    bank: int = 60  # images of other scans, for augmentation
    p: float = 0.75  # share of the images that the tone transfer augments
    seed: int = 0  # of gray scales and bank


FULL = Settings(size=128, spacing_mm=2.0, width=32, depth=4, steps=1000, batch_size=8, every=1)


def make_unet(settings: Settings, family: type[UNet] = UNet) -> UNet:
    """A U-Net of two classes with new weights."""
    return family(2, settings.depth, settings.width, normalization="batch", dropout=0.0)


def compile_unet(unet: UNet, settings: Settings) -> None:
    """Compiles a U-Net for a training of ``settings.steps`` steps."""
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
    unet.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=SegmentationLoss(dice=1.0, ignore_class=data.IGNORE),
        # On a CPU a third slower, and it has to be compiled first.
        jit_compile=bool(tf.config.list_physical_devices("GPU")),
    )


def tone_augmentation(model: ToneTransfer, images: Sequence[np.ndarray], p: float) -> Callable:
    """Augmentation by the tone transfer: from a batch and a seed (2,) to a batch.

    Args:
        model: The tone transfer.
        images: Styles, float32 (H, W) in [0, 1].
        p: Share of the images that are changed.
    """
    bank = StyleBank.encode(model, images)
    layer = StyleAugmentation(model, bank, p=p, strength=1.0, gate=None, seed=0)
    return tf.function(lambda x, s: layer(x, seed=s), reduce_retracing=True)


class Segmenter:
    """A U-Net that is compiled once and trained again for each cell.

    Args:
        settings: Of the study.
        mixing: Whether its features are mixed (:class:`MixStyleUNet`).
    """

    def __init__(self, settings: Settings, mixing: bool = False):
        self.settings, family = settings, MixStyleUNet if mixing else UNet
        self._make = lambda: make_unet(settings, family)
        self.unet = self._make()
        compile_unet(self.unet, settings)
        self.unet.optimizer.build(self.unet.trainable_variables)

    def train(self, batches, augment: Callable, seed: int) -> list[float]:
        """Trains from new weights; the mean loss of each quarter of the steps.

        Args:
            batches: Endless batches of images and masks.
            augment: From images, masks and the number of the step to images.
            seed: Of the weights.
        """
        keras.utils.set_random_seed(seed)
        self.unet.set_weights(self._make().get_weights())
        for variable in self.unet.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        for level, layer in enumerate(getattr(self.unet, "mixing", ())):
            layer.seed_generator.state.assign([seed, level])
        losses = []
        for step in range(self.settings.steps):
            images, masks = next(batches)
            self.unet.reset_metrics()
            losses.append(float(self.unet.train_on_batch(augment(images, masks, step), masks)))
        return [round(float(np.mean(part)), 5) for part in np.array_split(losses, 4)]


class Fold:
    """One patient left out: what is trained on, what is tested, and the tone transfer for it.

    Args:
        name: The patient.
        planes: All labelled slices by scan.
        scans: All scans, for the bank.
        settings: Of the study.
        model: A ``.keras`` file trained without the patient; with another file the preset is taken.
    """

    def __init__(self, name, planes, scans, settings: Settings, model: Path):
        self.name, self.settings, self.scans = name, settings, scans
        self.tested = planes[name]
        self.trained = [p for other in planes if other != name for p in planes[other]]
        self.trained += data.phantom_planes(settings.phantoms, settings.size, settings.spacing_mm)
        self.unseen = model.suffix == ".keras"
        self.model = keras.saving.load_model(model) if self.unseen else ToneTransfer.from_preset()
        #: Slices of each scan that is trained on, in the gray scale of the training.
        self.references = []
        for own in (planes[scan] for scan in planes if scan != name):
            chosen = np.linspace(0, len(own) - 1, min(settings.styles, len(own))).astype(int)
            self.references.append(np.stack([data.training_tone(own[n].hu) for n in chosen]))
        self.about = {
            "tested": f"{len(self.tested)} slices",
            "trained": dict(sorted(Counter(p.scan for p in self.trained).items())),
            "reference": f"{settings.styles} slices of each scan that is trained on",
            "tone_transfer": "trained without the patient"
            if self.unseen
            else "preset tone_ct, whose training saw the patient",
            "fingerprint": self.model.fingerprint(),
        }

    def harmonizer(self, method: str) -> Callable:
        """From slices of one scan, and their HU, to the gray scale of the training, by one map."""
        if method == "nothing":
            return lambda gray, hu: gray
        if method == "exact":
            return lambda gray, hu: [data.training_tone(image) for image in hu]
        if method == OWN:
            codes = [self.model.encode_style(images[..., None]) for images in self.references]
            code = np.asarray(merge_tokens(np.concatenate(codes)))

            def stylize(gray, hu):
                images = np.stack(gray)[..., None]
                return list(self.model.stylize(images, code, one_curve=True)[..., 0])

            return stylize
        pixels = np.concatenate([images.ravel() for images in self.references])
        style = pixels[: len(pixels) // 256 * 256].reshape(-1, 256)  # any shape: it is the values
        options = {"foreground": True} if method == "mean_and_spread" else {}
        baseline = baselines.get(method, **options)
        return lambda gray, hu: np.split(baseline.stylize(np.concatenate(gray), style), len(gray))

    @functools.cached_property
    def tests(self) -> tuple[dict, np.ndarray, dict]:
        """Squares by method and domain, their masks, and milliseconds a slice by method."""
        size, seed = self.settings.size, self.settings.seed
        grids = [plane.grid(size) for plane in self.tested]
        functions = {method: self.harmonizer(method) for method in METHODS}
        spent = dict.fromkeys(METHODS, 0.0)
        groups = data.sub_scans(self.tested)
        shape = (len(grids), size, size, 1)
        found: dict = {
            method: {domain: np.empty(shape, np.float32) for domain in data.DOMAINS}
            for method in METHODS
        }
        for function in functions.values():  # traced, loaded
            function(*data.shown([self.tested[n] for n in groups[0]], "training", seed)[:2])
        for domain, group in itertools.product(data.DOMAINS, groups):
            gray, hu, tone = data.shown([self.tested[n] for n in group], domain, seed)
            for method, function in functions.items():
                begin = time.process_time()
                changed = function(gray, hu)
                spent[method] += time.process_time() - begin
                fill = float(tone(np.float32(data.AIR))) if method == "nothing" else 0.0
                for number, image in zip(group, changed):
                    square = self.tested[number].square(image, grids[number], fill)
                    found[method][domain][number, ..., 0] = square.clip(0, 1)
        masks = [p.square(p.mask, g, data.IGNORE) for p, g in zip(self.tested, grids)]
        count = len(self.tested) * len(data.DOMAINS)
        milliseconds = {method: round(1000 * s / count, 2) for method, s in spent.items()}
        return found, np.stack(masks), milliseconds

    @functools.cached_property
    def bank(self) -> list[np.ndarray]:
        """Images of other patients in random gray scales."""
        settings = self.settings
        return data.style_bank(self.scans, self.name, settings.bank, settings.seed)

    @functools.cached_property
    def stylize(self) -> Callable:
        """Augmentation by the tone transfer: from images and a seed (2,) to images."""
        return tone_augmentation(self.model, self.bank, self.settings.p)

    def augmenter(self, condition: str, seed: int) -> tuple[Callable, Callable]:
        """The augmentation of a condition, and a function that says its milliseconds an image."""
        spent = [0.0, 0]

        def augment(images: np.ndarray, masks: np.ndarray, step: int) -> np.ndarray:
            begin = time.process_time()
            rng = np.random.default_rng([seed, step, 5])
            padding = (masks == data.IGNORE)[..., None]
            for part in condition.split("+"):
                if part == OWN:
                    images = self.stylize(tf.constant(images), tf.constant([seed, step])).numpy()
                elif part in IMAGE_AUGMENTATIONS:
                    function = IMAGE_AUGMENTATIONS[part]
                    images = np.stack([function(i[..., 0], rng) for i in images])[..., None]
                elif part in BANK_AUGMENTATIONS:
                    function = BANK_AUGMENTATIONS[part]
                    styles = [self.bank[int(rng.integers(len(self.bank)))] for _ in images]
                    changed = [function(i[..., 0], rng, s) for i, s in zip(images, styles)]
                    images = np.stack(changed)[..., None]
            if step:  # the first call traces
                spent[0], spent[1] = spent[0] + time.process_time() - begin, spent[1] + len(images)
            return np.where(padding, np.float32(0.0), images)

        return augment, lambda: round(1000 * spent[0] / max(spent[1], 1), 2)
