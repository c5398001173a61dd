"""How well methods transfer gray scales: the paper's Table 1 and Figures 5 and 6.

Contents and styles are phantoms, so that there is an answer to compare with: the content itself
under the protocol of the style.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfstyle import metrics
from tfstyle._private.files import write_atomically
from tfstyle.data import PROTOCOLS, apply_protocol, spine_phantom, write_png
from tfstyle.data.layouts import PICTURE
from tfstyle.errors import ArgumentError
from tfstyle.experiments import page
from tfstyle.experiments.study_file import read_study

log = logging.getLogger(__name__)

#: Methods by name, with what the table says of them.
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
    "Protocol recognised, %",
    "Structure",
)
_MEASURES = ("lpips_to_answer", "lpips_between_styles", "cis", "recognised", "structure")


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
        contextual_steps: Training steps of each contextual transformation; 0 leaves it out.
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

    def __post_init__(self) -> None:
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or len(set(self.protocols)) < 2:
            raise ArgumentError(
                f"protocols: need at least two of {', '.join(PROTOCOLS)}, received "
                f"{', '.join(self.protocols)}."
            )
        for name in ("contents", "classifier_phantoms", "classifier_epochs"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}: must be at least 1, received {getattr(self, name)}.")


def run_style_transfer_study(
    output: str | os.PathLike,
    *,
    methods: Sequence[str] | None = None,
    settings: StyleTransferSettings = StyleTransferSettings(),
    preset: str | os.PathLike | None = None,
    mse: str | os.PathLike | None = None,
    encoder: str = "lpips",
    network: str = "alexnet",
    lpips_weights: str | None = "lpips",
    progress: Callable[[int, int, str], None] | None = None,
) -> dict:
    """Measures every method on the same contents and styles.

    Args:
        output: JSON file. Methods that it holds already are not run again.
        methods: Of :data:`METHODS`; all unless given, without ``adain_mse`` where `mse` is not.
        settings: Sizes.
        preset: The preset or model of ``ours``; a ``StyleTransfer`` is that of ``ours_plain`` and
            ``wct`` as well, whose default is the first of ``StyleTransfer.presets``. Defaults to
            the default preset.
        mse: A preset trained with MSE.
        encoder: Weights of the VGG16 that trains the contextual transformation.
        network: Of LPIPS.
        lpips_weights: Of LPIPS.
        progress: Called with the number of methods done, of all, and the name of the next.

    Returns:
        What the file holds: ``"settings"``, ``"classifier"``, ``"rows"``, ``"notes"`` and
        ``"pictures"``.

    Raises:
        ArgumentError: unknown methods, ``adain_mse`` without `mse`, or a file of other settings.
        OutputError: the file cannot be written.
    """
    from tfstyle.training import environment

    if methods is None:
        methods = [m for m in METHODS if m != "adain_mse" or mse is not None]
        if not settings.contextual_steps:
            methods.remove("contextual_transformation")
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise ArgumentError(f"methods: unknown {', '.join(unknown)}; use {', '.join(METHODS)}.")
    if "adain_mse" in methods and mse is None:
        raise ArgumentError("mse: the method adain_mse needs a preset trained with MSE.")
    output = Path(output)
    result = read_study(
        output,
        json.loads(json.dumps(dataclasses.asdict(settings))),
        {"rows": [], "pictures": {}, "notes": []},
        "methods",
    )
    images = _Images(settings)
    classifier, accuracy = _classifier(settings, output)
    result["classifier"] = {"accuracy": accuracy}
    done = {row["method"] for row in result["rows"]}
    for number, method in enumerate(methods):
        if progress is not None:
            progress(number, len(methods), METHODS[method])
        if method in done:
            continue
        begin = time.process_time()
        generated = _generate(method, images, settings, preset, mse, encoder)
        row = {"method": method}
        row.update(_measure(generated, images, classifier, network, lpips_weights))
        row["cpu_seconds"] = round(time.process_time() - begin, 1)
        result["rows"].append(row)
        result["rows"].sort(key=lambda r: list(METHODS).index(r["method"]))
        result["notes"] = _notes(settings)
        result["environment"] = environment()
        result["pictures"][method] = _picture(output, method, generated, images, settings)
        write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
    if progress is not None:
        progress(len(methods), len(methods), "")
    return result


class _Images:
    """Contents (C, H, W, 1), styles and answers (C, P, H, W, 1)."""

    def __init__(self, settings: StyleTransferSettings):
        count, size = settings.contents, settings.size
        own = {"size": size, "spacing_mm": settings.spacing_mm}
        phantoms = [spine_phantom(7_000 + settings.seed * 100 + i, **own) for i in range(count)]
        others = [spine_phantom(8_000 + settings.seed * 100 + i, **own) for i in range(count)]
        self.contents = np.stack([apply_protocol(p, "standard")[0] for p in phantoms])
        self.answers, self.styles = (
            np.stack(
                [
                    np.stack([apply_protocol(p, name, seed=i)[0] for name in settings.protocols])
                    for i, p in enumerate(group)
                ]
            )
            for group in (phantoms, others)
        )


def _generate(
    method: str,
    images: _Images,
    settings: StyleTransferSettings,
    preset: str | os.PathLike,
    mse: str | os.PathLike | None,
    encoder: str,
) -> np.ndarray:
    """Images (C, P, H, W, 1)."""
    from tfstyle import baselines
    from tfstyle.presets import open_model
    from tfstyle.style_transfer import StyleTransfer

    if method == "answer":
        return images.answers
    if method == "content":
        return np.repeat(images.contents[:, None], len(settings.protocols), axis=1)
    if method == "ours":
        model = open_model(preset)
    elif method in ("ours_plain", "wct"):
        model = open_model(preset)
        if not isinstance(model, StyleTransfer):
            model = StyleTransfer.from_preset()
        if method == "wct":
            model = baselines.get(method, model=model)
    elif method == "adain_mse":
        model = baselines.get(method, model=mse)
    elif method == "contextual_transformation":
        columns = []
        for name in settings.protocols:
            model = _contextual(name, settings, encoder)
            columns.append(model.stylize(images.contents))
        return np.stack(columns, axis=1)
    else:
        model = baselines.get(method)
    columns = [
        model.stylize(images.contents, images.styles[:, p]) for p in range(len(settings.protocols))
    ]
    return np.stack(columns, axis=1)


def _contextual(protocol: str, settings: StyleTransferSettings, weights: str | None):
    """A contextual transformation into one protocol, trained for a moment."""
    from tfstyle.baselines import ContextualTransformation
    from tfstyle.data import pair_dataset
    from tfstyle.encoders import VGG16

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


def _classifier(
    settings: StyleTransferSettings, output: Path
) -> tuple[metrics.DomainClassifier, float]:
    """Inception-V3 that tells the protocols apart, kept beside the output, and its accuracy."""
    protocols = settings.protocols

    def shown(numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        own = {"size": settings.size, "spacing_mm": settings.spacing_mm}
        phantoms = [spine_phantom(n, **own) for n in numbers]
        images = [
            apply_protocol(p, name, seed=i)[0] for name in protocols for i, p in enumerate(phantoms)
        ]
        return np.stack(images), np.repeat(np.arange(len(protocols)), len(phantoms))

    place = output.with_name(f".{output.stem}_classifier.keras")
    if place.is_file():
        model = metrics.DomainClassifier.load(place)
    else:
        keras.utils.set_random_seed(settings.seed)
        images, labels = shown(range(20_000, 20_000 + settings.classifier_phantoms))
        model = metrics.DomainClassifier(protocols, size=settings.classifier_size, weights=None)
        model.fine_tune(
            images,
            labels,
            epochs=settings.classifier_epochs,
            learning_rate=1e-3,
            verbose=0,
        )
        model.save(place)
    images, labels = shown(range(30_000, 30_010))
    found = model.probabilities(images).argmax(axis=1)
    return model, round(float((found == labels).mean()), 4)


def _measure(
    generated: np.ndarray,
    images: _Images,
    classifier: metrics.DomainClassifier,
    network: str,
    weights: str | None,
) -> dict:
    contents, styles = generated.shape[:2]
    flat = generated.reshape(-1, *generated.shape[2:]).astype(np.float32)
    answers = images.answers.reshape(flat.shape)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = [
            np.asarray(metrics.lpips(a[i : i + 8], b[i : i + 8], network, weights))
            for i in range(0, len(a), 8)
        ]
        return np.concatenate(parts)

    pairs = [
        distance(generated[:, a].astype(np.float32), generated[:, b].astype(np.float32)).mean()
        for a, b in itertools.combinations(range(styles), 2)
    ]
    probabilities = classifier.probabilities(flat).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities = probabilities.reshape(contents, styles, -1)
    recognised = probabilities.argmax(axis=2) == np.arange(styles)
    repeated = np.repeat(images.contents, styles, axis=0)
    structure = np.asarray(metrics.structure_scores(repeated, flat))
    values = (
        distance(flat, answers).mean(),
        np.mean(pairs),
        metrics.conditional_inception_score(probabilities),
        recognised.mean(),
        structure.mean(),
    )
    return {name: round(float(v), 4) for name, v in zip(_MEASURES, values)}


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
    """The table's cells as text, in the order of :data:`METHODS`.

    Args:
        result: Of :func:`run_style_transfer_study`.

    Returns:
        One row for each method, columns as :data:`HEAD`.
    """
    rows = []
    for row in result["rows"]:
        to_answer, between, cis, recognised, structure = (row[m] for m in _MEASURES)
        rows.append(
            [
                METHODS[row["method"]],
                f"{to_answer:.3f}",
                f"{between:.3f}",
                f"{cis:.2f}",
                f"{100 * recognised:.0f}",
                f"{structure:.3f}",
            ]
        )
    return rows


def pictures_folder(output: str | os.PathLike) -> Path:
    """Where the pictures lie."""
    output = Path(output)
    return output.with_name(f"{output.stem}_pictures")


def _picture(
    output: Path,
    method: str,
    generated: np.ndarray,
    images: _Images,
    settings: StyleTransferSettings,
) -> dict:
    """A grid of two contents: content, then its generated images; styles above."""
    folder = pictures_folder(output)
    folder.mkdir(exist_ok=True)
    rows = []
    for c in range(min(2, len(generated))):
        empty = np.zeros_like(images.contents[c, ..., 0])
        rows.append([empty, *images.styles[c, ..., 0]])
        rows.append([images.contents[c, ..., 0], *generated[c, ..., 0]])
    grid = page.grid(rows, side=settings.size, gap=4)
    write_png(grid, folder / f"{method}.png", description=PICTURE)
    return {
        "label": METHODS[method],
        "caption": "Odd rows: styles. Even rows: content, and what it became. Columns: "
        f"{', '.join(settings.protocols)}.",
    }
