"""Does style augmentation help a segmenter on gray scales it was not trained on?

    python -m studies.segmentation --data DATA --mse runs/vgg16_ct_mse/stage2/preset
    python -m studies.segmentation --images ct/ --masks masks/ --domain-from tag:Manufacturer \
--output study/segmentation.json

A U-Net is trained on one gray scale and tested on others, with and without augmentation: the
paper's Figure 7 and Table 2. What is trained on, what styles come from and what is tested on are
different scans (phantoms: different seeds). Every condition sees the same training images in the
same order with the same flips, starts from the same weights and takes the same number of steps;
conditions differ in the gray levels alone.

On phantoms; with --data also on real CT with spine masks (DATA is the folder that
``scripts/train_release.py`` names, with ``torso/labels.nii.gz`` and
``torso_dicom/labels.nii.gz``); with --images on your own scans. Finished runs stay in the JSON file
and are not done again; without --mse the condition adain_mse is left out.
``python -m studies.results_page`` makes the page and the tables of ``docs/studies.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from studies import common, segmentation_data
from studies.segmentation_data import IGNORE
from tfstyle import metrics
from tfstyle.augment import StyleAugmentation
from tfstyle.baselines import HistogramMatching
from tfstyle.data import Window, write_png
from tfstyle.data.layouts import PICTURE
from tfstyle.errors import ArgumentError
from tfstyle.presets import open_model
from tfstyle.runs import environment
from tfstyle.segmentation import SegmentationLoss, UNet
from tfstyle.style_bank import StyleBank

#: Conditions by name, with their names in tables.
CONDITIONS: Mapping[str, str] = {
    "plain": "Plain",
    "classical": "Classical",  # random gamma and window jitter
    "histogram_matching": "Histogram matching",
    "adain_mse": "AdaIN-MSE",  # StyleAugmentation with a preset trained with MSE
    "ours": "Ours",  # StyleAugmentation
    "ours_classical": "Ours and classical",
}
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


class Views:
    """Augmented forms of the training images, condition by condition."""

    def __init__(self, settings: SegmentationSettings, ours, mse):
        self.settings = settings
        self.presets = {"ours": ours, "ours_classical": ours, "adain_mse": mse}

    def make(self, condition: str, data, seed: int):
        """Views (N, K, H, W, 1) of the training images, and counts of the augmentation."""
        settings = self.settings
        shape = (len(data.images), settings.views, *data.images.shape[1:])
        views, counts = np.array(np.broadcast_to(data.images[:, None], shape)), {}
        chosen = np.random.default_rng([seed, 1]).random(shape[:2]) < settings.p
        if condition == "plain":
            return views[:, :1], counts
        if condition == "histogram_matching":
            rng = np.random.default_rng([seed, 2])
            for index in zip(*np.nonzero(chosen)):
                style = data.styles[rng.integers(len(data.styles))]
                views[index] = HistogramMatching().stylize(views[index], style)
        if condition in self.presets:
            views, counts = self._stylized(condition, data, views, seed)
        if condition in ("classical", "ours_classical") and chosen.any():
            views[chosen] = _classical(views[chosen], settings, seed)
        return views, counts

    @functools.cache  # noqa: B019 - as long as the study
    def _network(self, preset):
        return open_model(preset)

    def _stylized(self, condition: str, data, views, seed: int):
        settings, network = self.settings, self._network(self.presets[condition])
        layer = StyleAugmentation(
            network,
            StyleBank.encode(network, data.styles),
            p=settings.p,
            strength=settings.strength,
            gate=settings.gate,
            seed=0,
        )
        augment = tf.function(lambda x, s: layer(x, seed=s), reduce_retracing=True)
        for view in range(views.shape[1]):
            for start in range(0, len(views), 32):
                part = slice(start, start + 32)
                draw = tf.constant([seed, view * 100_003 + start])
                views[part, view] = augment(tf.constant(views[part, view]), draw).numpy()
        return views, layer.counts


def _classical(images: np.ndarray, settings: SegmentationSettings, seed: int) -> np.ndarray:
    """Images (N, H, W, 1) with a random exponent each, log-uniform, in a window near their own."""
    changed = np.empty_like(images)
    for number, image in enumerate(images):
        spread = np.log(settings.gamma)
        power = np.exp(np.random.default_rng([seed, number]).uniform(-spread, spread))
        rng = np.random.default_rng([seed + 1, number])
        changed[number] = Window(0.5, 1.0).jittered(settings.jitter, rng).to_unit(image**power)
    return changed


class Segmenter:
    """A U-Net that is compiled once and trained from its start for each run."""

    def __init__(self, classes: int, settings: SegmentationSettings):
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

    def train(self, views, masks, seed: int) -> None:
        """Trains; the draws of images, views by their share, and flips hang on the seed alone."""
        settings = self.settings
        keras.utils.set_random_seed(seed)
        self.unet.set_weights(self._make().get_weights())
        for variable in self.unet.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        rng = np.random.default_rng([seed, 3])
        total = settings.steps * settings.batch_size
        rounds = -(-total // len(views))
        order = np.concatenate([rng.permutation(len(views)) for _ in range(rounds)])[:total]
        view = (rng.random(total) * views.shape[1]).astype(int)
        flip = rng.random(total) < 0.5
        x, y = views[order, view], masks[order]
        x[flip], y[flip] = x[flip, :, ::-1], y[flip, :, ::-1]
        self.unet.fit(x, y, batch_size=settings.batch_size, shuffle=False, verbose=0)

    def test(self, images, masks):
        """Accuracy, mean IoU and IoU by class; and the classes found."""
        found = self.unet.segment(images, batch_size=16)[..., 0]
        options = {"num_classes": self.classes, "ignore_class": IGNORE}
        scores = {
            name: round(getattr(metrics, name)(masks, found, **options), 5) for name in MEASURES
        }
        by_class = metrics.iou_by_class(masks, found, **options)
        scores["iou_by_class"] = [None if np.isnan(v) else round(float(v), 5) for v in by_class]
        return scores, found


def run_study(
    datasets: Mapping[str, Callable],
    output: Path,
    *,
    conditions: Sequence[str] | None = None,
    seeds: Sequence[int] = range(5),
    settings: SegmentationSettings = SegmentationSettings(),
    preset=None,
    mse=None,
) -> dict:
    """Trains and tests a U-Net for every data set, seed and condition.

    Args:
        datasets: Name of each data set, and a function from the seed to its data.
        output: JSON file. Runs that it holds already are not done again.
        conditions: Of :data:`CONDITIONS`. Defaults to all, without ``adain_mse`` where `mse` is not
            given.
        seeds: One run of every condition each.
        settings: What all runs have in common.
        preset: The preset or model of ``ours``. Defaults to the default preset.
        mse: A preset trained with MSE, for ``adain_mse``.

    Returns:
        What the file holds: ``"settings"``, ``"data"``, ``"rows"`` and ``"summary"`` (see
        :func:`summarize`).

    Raises:
        ArgumentError: ``adain_mse`` without `mse`, or a file of other settings.
    """
    if conditions is None:
        conditions = [c for c in CONDITIONS if c != "adain_mse" or mse is not None]
    if "adain_mse" in conditions and mse is None:
        raise ArgumentError("mse: the condition adain_mse needs a preset trained with MSE.")
    empty = {"data": {}, "rows": [], "summary": []}
    result = common.read_study(output, dataclasses.asdict(settings), empty)
    done = {(row["data"], row["condition"], row["seed"]) for row in result["rows"]}
    views, segmenters = Views(settings, preset, mse), {}
    for seed, name in ((s, d) for s in seeds for d in datasets):
        missing = [c for c in conditions if (name, c, seed) not in done]
        data = datasets[name](seed) if missing else None
        for condition in missing:
            print(f"{name}, {condition}, seed {seed}", flush=True)
            begin, classes = time.process_time(), len(data.classes)
            if classes not in segmenters:
                segmenters[classes] = Segmenter(classes, settings)
            row, found = _run(condition, name, data, seed, views, segmenters[classes])
            row["cpu_seconds"] = round(time.process_time() - begin, 1)
            if seed == seeds[0]:
                _write_examples(output, name, condition, data, found)
            result["rows"].append(row)
            result["data"][name] = {
                "split": data.split,
                "classes": list(data.classes),
                "domains": list(data.tests),
                "image_size": list(data.images.shape[1:3]),
                "training_images": len(data.images),
                "styles": len(data.styles),
            }
            result["environment"] = environment()
            result["summary"] = summarize(result["rows"])
            common.write_study(output, result)
    return result


def _run(condition: str, name: str, data, seed: int, views: Views, segmenter: Segmenter):
    """One row, and what was found in the first test image of each domain."""
    images, counts = views.make(condition, data, seed)
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
    return {**row, **({"augmentation": counts} if counts else {})}, found


def summarize(rows: Sequence[Mapping]) -> list[dict]:
    """Means over seeds, and differences to other conditions seed by seed.

    Returns:
        For each data set and condition: ``runs``; for pixel accuracy and mean IoU the ``mean`` and
        ``std`` (n − 1) over seeds of the mean over unseen domains; ``seen`` means; and
        ``minus_plain`` and ``minus_classical``: mean and standard deviation of the paired
        differences.
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
            entry: dict = {"data": data, "condition": condition, "runs": len(own), "seen": {}}
            for measure in MEASURES:
                entry[measure] = _mean([row[measure] for row in own.values()])
                seen = [row["seen"][measure] for row in own.values() if row["seen"]]
                entry["seen"][measure] = _mean(seen) if seen else None
            for other in ("plain", "classical"):
                base = table.get((data, other), {})
                shared = sorted({*own} & {*base})
                if other != condition and shared:
                    entry[f"minus_{other}"] = {
                        m: _mean([own[s][m] - base[s][m] for s in shared]) for m in MEASURES
                    }
            result.append(entry)
    return result


def _mean(values: Sequence[float]) -> dict:
    spread = round(float(np.std(values, ddof=1)), 5) if len(values) > 1 else None
    return {"mean": round(float(np.mean(values)), 5), "std": spread, "n": len(values)}


def _write_examples(output: Path, name: str, condition: str, data, found: Mapping) -> None:
    """The first test image of each domain, its mask and what was found, as strips."""
    folder = output.with_name(f"{output.stem}_examples")
    folder.mkdir(exist_ok=True)
    top = len(data.classes) - 1
    strips = {
        "images": [images[0, ..., 0] for images, _ in data.tests.values()],
        "masks": [np.minimum(masks[0], top) / top for _, masks in data.tests.values()],
        condition: [found[domain] / top for domain in data.tests],
    }
    for kind, tiles in strips.items():
        strip = np.concatenate([np.pad(t, 1, constant_values=1.0) for t in tiles], axis=1)
        file = folder / f"{name.replace(' ', '_').replace('/', '_')}-{kind}.png"
        write_png(strip.astype(np.float32), file, description=PICTURE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the JSON file lacks."""
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real CT")
    parser.add_argument("--preset", help="of `ours` (default: the default preset)")
    parser.add_argument("--mse", type=Path, help="preset trained with MSE")
    parser.add_argument("--sets", nargs="+", choices=["phantoms", "real"])
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each condition")
    parser.add_argument(
        "--set", nargs="+", type=common.setting, default=[], metavar="NAME=VALUE",
        help="settings, as steps=100 or strength=[0.5,1.0]",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=common.FOLDER / "segmentation.json")
    own = parser.add_argument_group("your own scans, instead of the study's")
    own.add_argument("--images", type=Path)
    own.add_argument("--masks", type=Path)
    own.add_argument("--domain-from", default="folder", help="or tag:KEYWORD")
    own.add_argument("--subject-from", help="the same, for subjects")
    own.add_argument("--train-domain", help="default: leave out every domain once")
    own.add_argument("--window", default="auto")
    own.add_argument("--size", type=int, default=128)
    own.add_argument("--slices", type=int, default=8, help="of each scan")
    options = common.parse(parser, arguments)
    if options.images is not None:
        names = ("domain_from", "subject_from", "train_domain", "window", "size", "slices")
        given = {name: getattr(options, name) for name in names}
        found = segmentation_data.own_data(options.images, options.masks, **given)
        datasets = {name: lambda seed, data=data: data for name, data in found.items()}
    else:
        datasets = {"phantoms": segmentation_data.phantom_data}
        if options.data is not None:
            datasets["real"] = functools.partial(segmentation_data.real_data, options.data)
        datasets = {name: datasets[name] for name in options.sets or datasets}
    result = run_study(
        datasets,
        options.output,
        conditions=options.conditions,
        seeds=range(options.seeds),
        settings=SegmentationSettings(**dict(options.set)),
        preset=options.preset,
        mse=options.mse,
    )
    for row in result["summary"]:
        print(row["data"], row["condition"], *(row[m] for m in MEASURES))


if __name__ == "__main__":
    main()
