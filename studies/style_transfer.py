"""How well methods transfer gray scales: the paper's Table 1 and Figures 5 and 6.

    python -m studies.style_transfer --mse runs/vgg16_ct_mse/preset

Contents and styles are phantoms, so that there is an answer to compare with: the content itself
under the protocol of the style. Finished methods stay in ``style_transfer.json`` and are not run
again; without --mse the method adain_mse is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
HEAD = (
    "Method",
    "LPIPS to the answer",
    "LPIPS between styles",
    "Conditional inception score",
    "Protocol recognized, %",
    "Structure",
)
MEASURES = ("lpips_to_answer", "lpips_between_styles", "cis", "recognised", "structure")


@dataclass(frozen=True)
class StyleTransferSettings:
    """Sizes of the study.

    Attributes:
        protocols: Protocols of the styles, at least two.
        contents: Number of content phantoms, all under ``standard``.
        size: Side of the images.
        spacing_mm: Pixel spacing of the phantoms.
        classifier_phantoms: Phantoms that the classifier is trained on, each in every protocol.
        classifier_epochs: Passes through them.
        classifier_size: Side to which the classifier brings images; 75 is Inception-V3's least.
        contextual_steps: Training steps of each contextual transformation.
        contextual_crop: Side of its training crops.
        seed: Of everything drawn.
    """

    protocols: tuple[str, ...] = ("bone_sharp", "bright", "dark", "wide")
    contents: int = 6
    size: int = 128
    spacing_mm: float = 1.1
    classifier_phantoms: int = 32
    classifier_epochs: int = 6
    classifier_size: int = 75
    contextual_steps: int = 24
    contextual_crop: int = 64
    seed: int = 0


class Images:
    """Contents (C, H, W, 1), styles and answers (C, P, H, W, 1)."""

    def __init__(self, settings: StyleTransferSettings):
        def draw(first: int) -> list:
            return [
                spine_phantom(first + i, settings.size, spacing_mm=settings.spacing_mm)
                for i in range(settings.contents)
            ]

        def shown(phantoms: list) -> np.ndarray:
            return np.stack(
                [
                    [apply_protocol(p, name, seed=i)[0] for name in settings.protocols]
                    for i, p in enumerate(phantoms)
                ]
            )

        phantoms = draw(7_000 + settings.seed * 100)
        self.contents = np.stack([apply_protocol(p, "standard")[0] for p in phantoms])
        self.answers = shown(phantoms)
        self.styles = shown(draw(8_000 + settings.seed * 100))


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
    """Measures every method on the same contents and styles.

    Args:
        output: JSON file. Methods that it holds already are not run again.
        methods: Of :data:`METHODS`. Defaults to all, without ``adain_mse`` where `mse` is not
            given.
        settings: Sizes.
        preset: The preset or model of ``ours``; a ``StyleTransfer`` is that of ``ours_plain`` and
            ``wct`` as well, whose default is the first of ``StyleTransfer.presets``. Defaults to
            the default preset.
        mse: A preset trained with MSE.
        encoder: Weights of the VGG16 that trains the contextual transformation.
        lpips_weights: Of LPIPS.

    Returns:
        What the file holds: ``"settings"``, ``"classifier"``, ``"rows"``, ``"notes"`` and
        ``"pictures"``.

    Raises:
        ArgumentError: ``adain_mse`` without `mse`, or a file of other settings.
    """
    if methods is None:
        methods = [m for m in METHODS if m != "adain_mse" or mse is not None]
    if "adain_mse" in methods and mse is None:
        raise ArgumentError("mse: the method adain_mse needs a preset trained with MSE.")
    empty = {"rows": [], "pictures": {}, "notes": []}
    result = common.read_study(output, dataclasses.asdict(settings), empty)
    images = Images(settings)
    classifier, accuracy = train_classifier(settings, output)
    result["classifier"] = {"accuracy": accuracy}
    done = {row["method"] for row in result["rows"]}
    for method in methods:
        if method in done:
            continue
        print(METHODS[method], flush=True)
        begin = time.process_time()
        generated = _generate(method, images, settings, preset, mse, encoder)
        row = {"method": method, **_measure(generated, images, classifier, lpips_weights)}
        row["cpu_seconds"] = round(time.process_time() - begin, 1)
        result["rows"].append(row)
        result["rows"].sort(key=lambda r: list(METHODS).index(r["method"]))
        result["notes"] = _notes(settings)
        result["environment"] = environment()
        result["pictures"][method] = _picture(output, method, generated, images, settings)
        common.write_study(output, result)
    return result


def _generate(method: str, images: Images, settings: StyleTransferSettings, preset, mse, encoder):
    """Images (C, P, H, W, 1)."""
    if method == "answer":
        return images.answers
    if method == "content":
        return np.repeat(images.contents[:, None], len(settings.protocols), axis=1)
    if method == "contextual_transformation":
        columns = [
            _contextual(name, settings, encoder).stylize(images.contents)
            for name in settings.protocols
        ]
        return np.stack(columns, axis=1)
    if method in ("ours", "ours_plain", "wct"):
        model = open_model(preset)
        if method != "ours" and not isinstance(model, StyleTransfer):
            model = StyleTransfer.from_preset()
        if method == "wct":
            model = baselines.get(method, model=model)
    else:
        model = baselines.get(method, **({"model": mse} if method == "adain_mse" else {}))
    columns = [
        model.stylize(images.contents, images.styles[:, p]) for p in range(len(settings.protocols))
    ]
    return np.stack(columns, axis=1)


def _contextual(protocol: str, settings: StyleTransferSettings, weights: str | None):
    """A contextual transformation into one protocol, trained for a moment."""
    keras.utils.set_random_seed(settings.seed)
    own = {"size": 2 * settings.contextual_crop, "spacing_mm": settings.spacing_mm}
    phantoms = [spine_phantom(9_000 + i, **own) for i in range(8)]
    contents = [apply_protocol(p, "standard")[0] for p in phantoms[:4]]
    targets = [apply_protocol(p, protocol)[0] for p in phantoms[4:]]
    model = ContextualTransformation(
        VGG16(weights=weights, depth="relu4_2"), widths=(32, 32, 32, 16)
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    pairs = pair_dataset(
        contents, targets, windows=("range",), crop=settings.contextual_crop, batch_size=2
    )
    model.fit(pairs, steps_per_epoch=settings.contextual_steps, epochs=1, verbose=0)
    return model


def train_classifier(settings: StyleTransferSettings, output: Path):
    """Inception-V3 that tells the protocols apart, kept beside the output, and its accuracy."""
    protocols = settings.protocols

    def shown(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        own = {"size": settings.size, "spacing_mm": settings.spacing_mm}
        phantoms = [spine_phantom(first + i, **own) for i in range(count)]
        images = [
            apply_protocol(p, name, seed=i)[0] for name in protocols for i, p in enumerate(phantoms)
        ]
        return np.stack(images), np.repeat(np.arange(len(protocols)), count)

    place = output.with_name(f".{output.stem}_classifier.keras")
    if place.is_file():
        model = metrics.DomainClassifier.load(place)
    else:
        keras.utils.set_random_seed(settings.seed)
        model = metrics.DomainClassifier(protocols, size=settings.classifier_size, weights=None)
        given = shown(20_000, settings.classifier_phantoms)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        model.fit(*given, batch_size=16, epochs=settings.classifier_epochs, verbose=0)
        model.save(place)
    images, labels = shown(30_000, 10)
    found = model.predict(images, verbose=0).argmax(axis=1)
    return model, round(float((found == labels).mean()), 4)


def _measure(generated, images: Images, classifier, weights: str | None) -> dict:
    contents, styles = generated.shape[:2]
    flat = generated.reshape(-1, *generated.shape[2:]).astype(np.float32)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x.reshape(-1, *x.shape[-3:]).astype(np.float32) for x in (a, b))
        parts = [
            np.asarray(metrics.lpips(a[i : i + 8], b[i : i + 8], "alexnet", weights))
            for i in range(0, len(a), 8)
        ]
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


def _notes(settings: StyleTransferSettings) -> list[str]:
    return [
        f"{settings.contents} content phantoms under standard, each in the style of other phantoms "
        f"under {', '.join(settings.protocols)}, {settings.size} x {settings.size} pixels.",
        "The classifier is Inception-V3 at "
        f"{settings.classifier_size} x {settings.classifier_size} pixels from random weights, "
        f"trained on {settings.classifier_phantoms} further phantoms in every protocol, "
        f"{settings.classifier_epochs} epochs; the paper's starts from ImageNet weights at 299 x "
        f"299. The score's largest value is log {len(settings.protocols)} = "
        f"{np.log(len(settings.protocols)):.2f}.",
        "Contextual transformation is one generator for each protocol and was trained for "
        f"{settings.contextual_steps} steps only, far from convergence; its figures say nothing "
        "about the method after full training.",
    ]


def table_rows(result: Mapping) -> list[list[str]]:
    """The table's cells as text: one row a method, columns as :data:`HEAD`."""
    forms = ("{:.3f}", "{:.3f}", "{:.2f}", "{:.0%}", "{:.3f}")
    return [
        [
            # As it was called when it was measured.
            result["pictures"].get(row["method"], {}).get("label", METHODS[row["method"]]),
            *(form.format(row[m]).rstrip("%") for m, form in zip(MEASURES, forms)),
        ]
        for row in result["rows"]
    ]


def _picture(output: Path, method: str, generated, images: Images, settings) -> dict:
    """A grid of two contents: content, then its generated images; styles above."""
    folder = output.with_name(f"{output.stem}_pictures")
    folder.mkdir(exist_ok=True)
    rows = []
    for c in range(min(2, len(generated))):
        rows.append([np.zeros_like(images.contents[c, ..., 0]), *images.styles[c, ..., 0]])
        rows.append([images.contents[c, ..., 0], *generated[c, ..., 0]])
    grid = common.grid(rows, side=settings.size, gap=4)
    write_png(grid, folder / f"{method}.png", description=PICTURE)
    return {
        "label": METHODS[method],
        "caption": "Odd rows: styles. Even rows: content, and what it became. Columns: "
        f"{', '.join(settings.protocols)}.",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the JSON file lacks."""
    parser = common.parser(__doc__)
    parser.add_argument("--preset", help="of `ours` (default: the default preset)")
    parser.add_argument("--mse", type=Path, help="preset trained with MSE")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument(
        "--set", nargs="+", type=common.setting, default=[], metavar="NAME=VALUE",
        help="settings, as contents=2",
    )  # fmt: skip
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
    for row in table_rows(result):
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
