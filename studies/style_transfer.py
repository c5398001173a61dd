"""How well methods transfer gray scales: the paper's Table 1 and Figures 5 and 6.

    python -m studies.style_transfer --mse runs/vgg16_ct_mse/preset

Contents and styles are phantoms, so that there is an answer to compare with: the content itself
under the protocol of the style. Finished methods stay in ``style_transfer.json`` and are not run
again; without --mse the method adain_mse is left out. Pictures lie beside the file.

The classifier of the inception score is Inception-V3 from random weights on small images, where the
paper's starts from ImageNet at 299 x 299; the score is at most the logarithm of the number of
protocols. The contextual transformation, one generator for each protocol, is trained for a few
steps only, far from convergence: its figures say nothing about the method after full training.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from studies import common
from tfstyle import StyleTransfer, baselines, metrics
from tfstyle.baselines import ContextualTransformation
from tfstyle.data import apply_protocol, pair_dataset, spine_phantom, write_png
from tfstyle.data.layouts import PICTURE
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError
from tfstyle.presets import open_model
from tfstyle.runs import environment

#: Methods by name, with their names in tables.
METHODS: Mapping[str, str] = {
    "content": "Content, nothing done",
    "histogram_matching": "Histogram matching",
    "wct": "WCT, preset's decoder",
    "contextual_transformation": "Contextual transformation",
    "adain_mse": "AdaIN-MSE",
    "ours_plain": "StyleTransfer",
    "ours": "Ours",
    "answer": "Content under the protocol",
}
#: Measures, with their names in tables.
MEASURES: Mapping[str, str] = {
    "lpips_to_answer": "LPIPS to the answer",
    "lpips_between_styles": "LPIPS between styles",
    "cis": "Conditional inception score",
    "recognized": "Share of protocols recognized",
    "structure": "Structure",
}


@dataclasses.dataclass(frozen=True)
class StyleTransferSettings:
    """Sizes of the study, lengths in pixels."""

    protocols: tuple[str, ...] = ("bone_sharp", "bright", "dark", "wide")  # of the styles
    contents: int = 6  # phantoms, all under ``standard``
    size: int = 128
    spacing_mm: float = 1.1
    classifier_phantoms: int = 32  # each in every protocol
    classifier_epochs: int = 6
    classifier_size: int = 75  # Inception-V3's least
    contextual_steps: int = 24  # of training, for each protocol
    contextual_crop: int = 64
    seed: int = 0

    def shown(self, first: int, count: int, *protocols: str, size: int | None = None) -> np.ndarray:
        """Phantoms from a seed on under protocols, by default all: (N, P, H, W, 1)."""
        seeds, names = range(first, first + count), protocols or self.protocols
        drawn = [spine_phantom(s, size or self.size, spacing_mm=self.spacing_mm) for s in seeds]
        return np.stack(
            [[apply_protocol(p, n, seed=i)[0] for n in names] for i, p in enumerate(drawn)]
        )


class Images:
    """Contents (C, H, W, 1), styles and answers (C, P, H, W, 1)."""

    def __init__(self, settings: StyleTransferSettings):
        first, count = 7_000 + settings.seed * 100, settings.contents
        self.contents = settings.shown(first, count, "standard")[:, 0]
        self.answers = settings.shown(first, count)
        self.styles = settings.shown(first + 1_000, count)


def run_study(
    output: Path,
    *,
    methods: Sequence[str] | None = None,
    settings: StyleTransferSettings = StyleTransferSettings(),
    preset=None,
    mse=None,
    encoder: str | None = "lpips",
    lpips_weights: str | None = "lpips",
) -> dict:
    """Measures the methods that `output`, a JSON file, does not hold yet; returns what it holds.

    `preset` is the model of ``ours``; a ``StyleTransfer`` is that of ``ours_plain`` and ``wct`` as
    well. `encoder` and `lpips_weights` are weights: of the VGG16 that trains the contextual
    transformation, and of LPIPS.
    """
    if methods is None:
        methods = [m for m in METHODS if m != "adain_mse" or mse is not None]
    if "adain_mse" in methods and mse is None:
        raise ArgumentError("mse: the method adain_mse needs a preset trained with MSE.")
    result = common.read_study(output, dataclasses.asdict(settings), {"rows": []})
    images = Images(settings)
    classifier, accuracy = train_classifier(settings, output)
    result["classifier"] = {"accuracy": accuracy}
    done = {row["method"] for row in result["rows"]}
    for method in (method for method in methods if method not in done):
        print(METHODS[method], flush=True)
        begin = time.process_time()
        generated = _generate(method, images, settings, preset, mse, encoder)
        row = {"method": method, **_measure(generated, images, classifier, lpips_weights)}
        row["cpu_seconds"] = round(time.process_time() - begin, 1)
        result["rows"].append(row)
        result["rows"].sort(key=lambda r: list(METHODS).index(r["method"]))
        result["environment"] = environment()
        _picture(output.with_name(f"{output.stem}_pictures"), method, generated, images)
        common.write_study(output, result)
    return result


def _generate(method: str, images: Images, settings: StyleTransferSettings, preset, mse, encoder):
    """Images (C, P, H, W, 1)."""
    protocols = settings.protocols
    if method == "answer":
        return images.answers
    if method == "content":
        return np.repeat(images.contents[:, None], len(protocols), axis=1)
    if method == "contextual_transformation":
        models = (_contextual(name, settings, encoder) for name in protocols)
        return np.stack([model.stylize(images.contents) for model in models], axis=1)
    if method in ("ours", "ours_plain", "wct"):
        model = open_model(preset)
        if method != "ours" and not isinstance(model, StyleTransfer):
            model = StyleTransfer.from_preset()
        if method == "wct":
            model = baselines.get(method, model=model)
    else:
        model = baselines.get(method, **({"model": mse} if method == "adain_mse" else {}))
    styles = (images.styles[:, p] for p in range(len(protocols)))
    return np.stack([model.stylize(images.contents, style) for style in styles], axis=1)


def _contextual(protocol: str, settings: StyleTransferSettings, weights: str | None):
    """A contextual transformation into one protocol, trained for a moment."""
    keras.utils.set_random_seed(settings.seed)
    crop = settings.contextual_crop
    contents = settings.shown(9_000, 4, "standard", size=2 * crop)[:, 0]
    targets = settings.shown(9_004, 4, protocol, size=2 * crop)[:, 0]
    encoder = VGG16(weights=weights, depth="relu4_2")
    model = ContextualTransformation(encoder, widths=(32, 32, 32, 16))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    pairs = pair_dataset([*contents], [*targets], windows=("range",), crop=crop, batch_size=2)
    model.fit(pairs, steps_per_epoch=settings.contextual_steps, epochs=1, verbose=0)
    return model


def train_classifier(settings: StyleTransferSettings, output: Path):
    """Inception-V3 that tells the protocols apart, kept beside the output, and its accuracy."""

    def labelled(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        images = settings.shown(first, count)
        labels = np.tile(np.arange(len(settings.protocols)), count)
        return images.reshape(-1, *images.shape[2:]), labels

    place = output.with_name(f".{output.stem}_classifier.keras")
    if place.is_file():
        model = metrics.DomainClassifier.load(place)
    else:
        keras.utils.set_random_seed(settings.seed)
        size = settings.classifier_size
        model = metrics.DomainClassifier(settings.protocols, size=size, weights=None)
        given = labelled(20_000, settings.classifier_phantoms)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        model.fit(*given, batch_size=16, epochs=settings.classifier_epochs, verbose=0)
        model.save(place)
    images, labels = labelled(30_000, 10)
    found = model.predict(images, verbose=0).argmax(axis=1)
    return model, round(float((found == labels).mean()), 4)


def _measure(generated, images: Images, classifier, weights: str | None) -> dict:
    contents, styles = generated.shape[:2]
    flat = generated.reshape(-1, *generated.shape[2:]).astype(np.float32)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x.reshape(-1, *x.shape[-3:]).astype(np.float32) for x in (a, b))
        batches = ((a[i : i + 8], b[i : i + 8]) for i in range(0, len(a), 8))
        parts = [np.asarray(metrics.lpips(*batch, "alexnet", weights)) for batch in batches]
        return np.concatenate(parts).mean()

    pairs = itertools.combinations(range(styles), 2)
    probabilities = classifier.predict(flat, verbose=0).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities = probabilities.reshape(contents, styles, -1)
    repeated = np.repeat(images.contents, styles, axis=0)
    values = (
        distance(flat, images.answers),
        np.mean([distance(generated[:, a], generated[:, b]) for a, b in pairs]),
        metrics.conditional_inception_score(probabilities),
        (probabilities.argmax(axis=2) == np.arange(styles)).mean(),
        np.asarray(metrics.structure_scores(repeated, flat)).mean(),
    )
    return {name: round(float(v), 4) for name, v in zip(MEASURES, values)}


def _picture(folder: Path, method: str, generated: np.ndarray, images: Images) -> None:
    """Of two contents: the styles in one row, the content and what it became in the next."""
    rows = []
    for content, styles, became in zip(images.contents[:2], images.styles, generated):
        rows.append([np.zeros_like(content[..., 0]), *styles[..., 0]])
        rows.append([content[..., 0], *became[..., 0]])
    folder.mkdir(exist_ok=True)
    grid = common.grid(rows, side=images.contents.shape[1], gap=4)
    write_png(grid, folder / f"{method}.png", description=PICTURE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the JSON file lacks."""
    parser = common.parser(__doc__)
    parser.add_argument("--preset", help="of `ours` (default: the default preset)")
    parser.add_argument("--mse", type=Path, help="preset trained with MSE")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    common.add_settings(parser, "settings, as contents=2")
    parser.add_argument("--output", type=Path, default=common.FOLDER / "style_transfer.json")
    options = common.parse(parser, arguments)
    result = run_study(
        options.output,
        methods=options.methods,
        settings=StyleTransferSettings(**dict(options.set)),
        preset=options.preset,
        mse=options.mse,
    )
    print(f"classifier: {result['classifier']}")
    rows = [[METHODS[r["method"]], *(f"{r[m]:.3f}" for m in MEASURES)] for r in result["rows"]]
    print(common.markdown(["method", *MEASURES.values()], rows))


if __name__ == "__main__":
    main()
