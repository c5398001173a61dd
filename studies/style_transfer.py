"""How well methods transfer gray scales between protocols: the paper's Table 1, on phantoms.

    python -m studies.style_transfer                    # about 40 minutes on one core

Contents and styles are phantoms, so that there is an answer to compare with: the content itself
under the protocol of the style. Finished methods stay in ``style_transfer.json`` and are not run
again. The page is ``../docs/results/style_transfer.md``.

The classifier of the inception score is Inception-V3 from random weights on small images, where the
paper's starts from ImageNet at 299 x 299; the score is at most the logarithm of the number of
protocols. The contextual transformation is one generator for each protocol, trained for it here,
where the other methods meet the protocol in the style image alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

import tfstyle
from studies import common
from tfstyle import baselines, metrics
from tfstyle.baselines import ContextualTransformation
from tfstyle.data import apply_protocol, pair_dataset, spine_phantom
from tfstyle.encoders import VGG16
from tfstyle.runs import environment

#: Methods by name, with their names in tables.
METHODS: Mapping[str, str] = {
    "content": "nothing done",
    "histogram_matching": "histogram matching",
    "foreground_histogram_matching": "histogram matching above the floor",
    "wct": "WCT, decoder of `vgg16_ct_shallow`",
    "contextual_transformation": "contextual transformation, a generator a protocol",
    "adain_mse": "AdaIN with MSE, `vgg16_ct_mse`",
    "vgg16_ct": "the paper's network, `vgg16_ct`",
    "vgg16_ct_shallow": "the same, `vgg16_ct_shallow`",
    "tone_ct": "**tone transfer, `tone_ct`**",
    "answer": "the content under the protocol",
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
    classifier_phantoms: int = 64  # each in every protocol
    classifier_epochs: int = 12
    classifier_size: int = 75  # Inception-V3's least
    contextual_steps: int = 600  # of training, for each protocol
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
    methods: Sequence[str] = tuple(METHODS),
    settings: StyleTransferSettings = StyleTransferSettings(),
    weights: str | None = "lpips",
) -> dict:
    """Measures the methods that `output`, a JSON file, does not hold yet; returns what it holds.

    `weights` are those of LPIPS, and of the VGG16 that trains the contextual transformation.
    """
    result = common.read_study(output, dataclasses.asdict(settings))
    images = Images(settings)
    classifier, accuracy = train_classifier(settings, output)
    result["classifier"] = {"accuracy": accuracy}
    done = {row["method"] for row in result["rows"]}
    for method in (method for method in methods if method not in done):
        print(METHODS[method], flush=True)
        begin = time.process_time()
        generated, facts = _generate(method, images, settings, weights)
        row = {"method": method, **_measure(generated, images, classifier, weights), **facts}
        row["cpu_seconds"] = round(time.process_time() - begin, 1)
        result["rows"].append(row)
        result["rows"].sort(key=lambda r: list(METHODS).index(r["method"]))
        result["environment"] = environment()
        folder = output.with_name(f".{output.stem}_generated")
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{method}.npy", generated[0, ..., 0].astype(np.float16))
        common.write_study(output, result)
    return result


def _generate(method: str, images: Images, settings: StyleTransferSettings, weights: str | None):
    """Images (C, P, H, W, 1), and further facts."""
    protocols = settings.protocols
    if method == "answer":
        return images.answers, {}
    if method == "content":
        return np.repeat(images.contents[:, None], len(protocols), axis=1), {}
    if method == "contextual_transformation":
        trained = [_contextual(name, settings, weights) for name in protocols]
        generated = np.stack([model.stylize(images.contents) for model, _ in trained], axis=1)
        return generated, {"losses": {name: loss for name, (_, loss) in zip(protocols, trained)}}
    released = method in tfstyle.presets.names()
    model = tfstyle.from_preset(method) if released else baselines.get(method)
    styles = (images.styles[:, p] for p in range(len(protocols)))
    return np.stack([model.stylize(images.contents, style) for style in styles], axis=1), {}


def _contextual(protocol: str, settings: StyleTransferSettings, weights: str | None):
    """A contextual transformation into one protocol, and its mean loss by sixths of the steps."""
    keras.utils.set_random_seed(settings.seed)
    crop, steps = settings.contextual_crop, settings.contextual_steps
    contents = settings.shown(9_000, 16, "standard", size=2 * crop)[:, 0]
    targets = settings.shown(9_016, 16, protocol, size=2 * crop)[:, 0]
    encoder = VGG16(weights=weights, depth="relu4_2")
    model = ContextualTransformation(encoder, widths=(32, 32, 32, 16))
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps, alpha=0.02)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=steps > 100)
    pairs = pair_dataset([*contents], [*targets], windows=("range",), crop=crop, batch_size=2)
    epochs = min(6, steps)
    history = model.fit(pairs, steps_per_epoch=steps // epochs, epochs=epochs, verbose=0)
    return model, [round(loss, 4) for loss in history.history["loss"]]


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
    return common.rounded(dict(zip(MEASURES, values)))


def write_page(result: dict, output: Path, page: Path) -> None:
    """The table and a figure of one content: styles, and what each method makes of it."""
    settings = StyleTransferSettings(**result["settings"])
    images, protocols = Images(settings), settings.protocols
    rows = [[("content", images.contents[0, ..., 0])]]
    rows[0] += [(f"style, {name}", images.styles[0, p, ..., 0]) for p, name in enumerate(protocols)]
    for row in result["rows"]:
        file = output.with_name(f".{output.stem}_generated") / f"{row['method']}.npy"
        words = METHODS[row["method"]].translate({ord("*"): None, ord("`"): None})
        title = "\n".join(textwrap.wrap(words, 24))
        rows.append([(title, images.contents[0, ..., 0]), *(("", x) for x in np.load(file))])
    figure, _ = common.titled(rows, (1.5, 1.65), 7)
    common.save_small(figure, page.with_suffix(".png"), 110)
    names = {"methods": METHODS, "measures": MEASURES}
    common.write_page(page, "style_transfer.md", **result, **names, most=np.log(len(protocols)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the JSON file lacks."""
    parser = common.parser(__doc__, __file__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    common.add_settings(parser, "settings, as contents=2")
    options = common.parse(parser, arguments)
    settings = StyleTransferSettings(**dict(options.set))
    result = run_study(options.output, methods=options.methods, settings=settings)
    write_page(result, options.output, options.page)
    print(options.page)


if __name__ == "__main__":
    main()
