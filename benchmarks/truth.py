#!/usr/bin/env python
"""Is the tone right: every method against the content's own HU in the style's gray scale.

    python benchmarks/truth.py --data DATA                        # the methods of tfstyle
    python benchmarks/truth.py --data DATA --models runs/truth    # and models trained for it
    python benchmarks/truth.py --data DATA --methods nyul --folds torso

A fold leaves one patient out: its slices are the contents, those of all other patients the styles
(``ct_pairs.py``; ``--list`` shows the folds). For CT the right answer is known, and the error is
the mean absolute difference to it inside the body, where the content is not clipped, by tissue and
with the tissues weighed alike (``tfstyle.metrics.tone_error``).

Models of one's own are looked for in the folders ``fold-PATIENT`` of ``--models``, trained without
that patient: each ``NAME.keras`` is a row NAME, so that ``ours.keras`` and ``ours_one_way.keras``
are a method and its ablation. ``--load MODULE:FUNCTION`` gives a function to load them instead: it
takes the folder and returns a dictionary from names to objects with ``stylize(content, style)``.

Rows are kept by fold and method under ``--work``; what is there is not computed again, unless
``--again`` names it or a model file changed. Figures go to ``truth.json``, tables to
``../docs/results/truth.md``; ``python -m studies.gallery`` has pictures of such pairs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from ct_pairs import SIZE, Pair, draw_pairs
from ct_scans import ScanRecord, load_scans
from keras import ops, saving

import tfstyle
from studies import common
from tfstyle import baselines, presets
from tfstyle._private.files import write_atomically
from tfstyle.errors import TfstyleError
from tfstyle.metrics import TISSUES, structure_similarity, tone_error
from tfstyle.runs import environment
from tfstyle.tone import ToneTransfer
from tfstyle.tone.curve import rising
from tfstyle.tone.matching import by_knot

Stylize = Callable[[np.ndarray, np.ndarray], np.ndarray]

NOTHING, ANSWER, MATCHING = "nothing", "right_answer", "histogram_matching"
#: Rows without training: name and what the table says.
METHODS = {
    NOTHING: "nothing done",
    ANSWER: "the right answer itself",
    MATCHING: "histogram matching",
    "foreground_histogram_matching": "histogram matching above the floor",
    "mean_and_spread": "mean and spread",
    "mean_and_spread_foreground": "mean and spread above the floor",
    "nyul": "Nyúl's landmarks",
    "wct": "WCT",
    "adain_mse": "the paper's model with MSE, `vgg16_ct_mse`",
    "vgg16_ct": "the paper's model, contextual, `vgg16_ct`",
    "vgg16_ct_shallow": "the same at a shallow layer, `vgg16_ct_shallow`",
}
#: Rows of the tone transfers that leave the patient out, and of what is left without a part.
OWN = {
    "ours": "**tone transfer**",
    "ours_without_alike": "without recognizing one gray scale",
    "ours_without_weighing": "the expectation alone, not weighed along the gray scale",
    "ours_without_content_side": "evidence from the style's side alone",
}
#: More than this worse than nothing done counts as harm.
HARM = 0.02


@functools.cache
def method(name: str) -> Stylize | None:
    """The function of content and style behind a name of :data:`METHODS`; none is the answer."""
    if name == ANSWER:
        return None
    if name == NOTHING:
        return lambda content, style: content
    if name == "mean_and_spread_foreground":
        return baselines.get("mean_and_spread", foreground=True).stylize
    if name in presets.names():
        return tfstyle.from_preset(name).stylize
    return baselines.get(name).stylize


def parts_of(model: ToneTransfer) -> dict[str, SimpleNamespace]:
    """A model without each of its parts, behind the same call; nothing is trained again."""
    matcher = model.matcher

    def part(name: str, curve: Callable) -> SimpleNamespace:
        traced = model.traced(name, curve, model.code_spec, model.code_spec)

        def stylize(content: np.ndarray, style: np.ndarray) -> np.ndarray:
            codes = (model.encode_style(image) for image in (content, style))
            return model.apply_curve(content, traced(*codes))

        return SimpleNamespace(stylize=stylize)

    def whole(content, style):
        return matcher.curve(content, style, matcher.own(content), matcher.own(style))

    def without_alike(content, style):
        curve = whole(content, style)
        # In the values as well, which the probability draws to the content.
        values = (curve.values - curve.alike * curve.levels) / ops.maximum(1.0 - curve.alike, 1e-3)
        return curve._replace(values=rising(values))

    def from_evidence(gray):
        def curve(content, style):
            values = rising(by_knot(gray(*matcher.evidence(content, style)))[..., 0])
            return whole(content, style)._replace(values=values)

        return curve

    curves = {
        "ours_without_alike": without_alike,
        "ours_without_weighing": from_evidence(lambda forward, _, backward: forward[..., :1]),
        "ours_without_content_side": from_evidence(
            lambda forward, _, backward: backward[..., 1:] / ops.maximum(backward[..., :1], 1e-6)
        ),
    }
    return {name: part(name, curve) for name, curve in curves.items()}


def keras_models(folder: Path) -> dict[str, object]:
    """Every ``NAME.keras`` of a folder, by NAME."""
    found = {path.stem: saving.load_model(path) for path in sorted(folder.glob("*.keras"))}
    if isinstance(found.get("ours"), ToneTransfer):
        found |= parts_of(found["ours"])
    return found


def digest_of(folder: Path, name: str) -> str:
    """Changes with the model file of a row, or without one with any file in the folder."""
    own = folder / f"{'ours' if name in OWN else name}.keras"
    paths = [own] if own.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def measure(pair: Pair, generated: np.ndarray) -> dict[str, float]:
    """Errors of one generated image, and the structure it kept inside the body.

    ``structure_shown`` is that where the right answer is neither black nor white: where the style's
    window clips, structure is rightly lost.
    """
    scores = tone_error(pair.right, generated, pair.hu, pair.mask)
    scores["structure"] = structure_similarity(pair.content, generated, pair.body)
    shown = pair.mask & (pair.right > 0) & (pair.right < 1)
    scores["structure_shown"] = structure_similarity(pair.content, generated, shown)
    return scores


class Study:
    """The rows of all folds, kept in a folder.

    Args:
        scans: All scans.
        options: Of the command line.
    """

    def __init__(self, scans: dict[str, ScanRecord], options: argparse.Namespace):
        self.scans, self.options = scans, options
        self.settings = {"count": options.pairs, "seed": options.seed, "size": options.size}
        groups = sorted({scan.group for scan in scans.values()})
        self.folds = options.folds or groups
        if unknown := sorted({*self.folds} - {*groups}):
            raise SystemExit(f"--folds: must be some of {groups}, received {unknown}.")

    def pairs(self, fold: str, **which: int) -> list[Pair]:
        """The pairs of a fold, or with ``count`` the first of them."""
        return list(draw_pairs(self.scans, {fold}, **{**self.settings, **which}))

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """By fold what changes with the settings, the scans and the way pairs are drawn."""
        found = {}
        for fold in self.folds:
            digest = hashlib.sha256(json.dumps(self.settings).encode())
            for pair in self.pairs(fold, count=3):
                for image in (pair.content, pair.style, pair.right, pair.hu, pair.mask):
                    digest.update(np.ascontiguousarray(image).tobytes())
            found[fold] = digest.hexdigest()[:16]
        return found

    def own(self, fold: str) -> dict[str, Stylize]:
        """Models trained without the patient of the fold."""
        if self.options.models is None:
            return {}
        folder = self.options.models / f"fold-{fold}"
        if not folder.is_dir():
            print(f"{folder}: missing, so that fold {fold} has no row of one's own", flush=True)
            return {}
        load = keras_models
        if self.options.load:
            module, _, function = self.options.load.partition(":")
            load = getattr(importlib.import_module(module), function)
        return {name: model.stylize for name, model in load(folder).items()}

    def path(self, fold: str, name: str) -> Path:
        """File of a fold's row."""
        return self.options.work / "rows" / fold / f"{name}.json"

    def run(self) -> None:
        """Computes what is missing."""
        for fold in self.folds:
            pairs: list[Pair] = []
            key = {"digest": self.digests[fold]}
            for name in self.options.methods:
                self._fill(fold, name, key, pairs)
            for name, stylize in self.own(fold).items():
                digest = digest_of(self.options.models / f"fold-{fold}", name)
                self._fill(fold, name, {**key, "model": digest}, pairs, stylize)

    def _fill(self, fold, name, key, pairs, stylize=None) -> None:
        """Measures a method unless its file is fresh, with `pairs` of the fold once drawn."""
        path = self.path(fold, name)
        again = name in self.options.again or not path.is_file()
        if not again and json.loads(path.read_text())["key"] == key:
            return
        try:
            stylize = stylize or method(name)
        except TfstyleError as error:
            print(f"{name}: left out, {error}", flush=True)
            return
        if not pairs:
            pairs += self.pairs(fold)
        rows = [measure(p, stylize(p.content, p.style) if stylize else p.right) for p in pairs]
        facts = [
            {"content": p.content_id, "style": p.style_id, "same_scale": p.same_scale}
            | {"content_scale": str(p.content_scale), "style_scale": str(p.style_scale)}
            for p in pairs
        ]
        text = json.dumps({"key": key, "pairs": facts, "rows": rows})
        write_atomically(path, text.encode())
        median = np.nanmedian([row["balanced"] for row in rows])
        print(f"fold {fold}, {name}: median error {median:.3f}", flush=True)

    def rows(self) -> dict[str, dict[str, dict]]:
        """What there is: fold to method to its pairs and rows, with arrays in place of lists."""
        found: dict[str, dict[str, dict]] = {}
        for fold in self.folds:
            for path in sorted(self.path(fold, "x").parent.glob("*.json")):
                kept = json.loads(path.read_text())
                if kept["key"]["digest"] == self.digests[fold]:
                    columns = {k: np.array([r[k] for r in kept["rows"]]) for k in kept["rows"][0]}
                    columns["same_scale"] = np.array([p["same_scale"] for p in kept["pairs"]])
                    found.setdefault(fold, {})[path.stem] = columns
        return found

    def result(self, known: Iterable[str]) -> dict:
        """The figures of all rows that there are, in the order of those that are known."""
        rows = self.rows()
        found = {name for fold in rows.values() for name in fold}
        names = [name for name in known if name in found] + sorted(found - {*known})
        return {
            "settings": self.settings,
            "folds": {
                fold: {s.id: len(s.hu) for s in self.scans.values() if s.group == fold}
                for fold in self.folds
            },
            "methods": {
                name: {
                    "all_folds": summary(rows, name),
                    "by_fold": {f: summary({f: rows[f]}, name) for f in rows if name in rows[f]},
                }
                for name in names
            },
            "environment": environment(),
        }


def summary(rows: dict[str, dict[str, dict]], name: str) -> dict:
    """The figures of a method over the folds that have it.

    Args:
        rows: See :meth:`Study.rows`.
        name: The method.
    """
    folds = [fold for fold in rows if name in rows[fold]]

    def column(key: str, of: str = name) -> np.ndarray | None:
        if any(of not in rows[fold] for fold in folds):
            return None
        return np.concatenate([rows[fold][of][key] for fold in folds])

    error, same = column("balanced"), column("same_scale")
    figures = {
        "pairs": len(error),
        "median": np.median(error),
        "mean": np.mean(error),
        "percentile_90": np.percentile(error, 90),
        "tissues": {tissue: _mean(column(tissue)) for tissue in TISSUES},
        "all_pixels_median": np.median(column("all")),
        "all_pixels_mean": np.mean(column("all")),
        "same_scale_median": np.median(error[same]) if same.any() else None,
        "structure_mean": _mean(column("structure")),
        "structure_shown_mean": _mean(column("structure_shown")),
    }
    for other in (MATCHING, "foreground_histogram_matching"):
        theirs = column("balanced", other)
        if theirs is not None:
            figures[f"mean_to_{other}"] = np.mean(error) / np.mean(theirs)
            figures[f"better_than_{other}"] = np.mean(error < theirs)
    nothing = column("balanced", NOTHING)
    if nothing is not None:
        figures["worse_than_nothing"] = np.mean(error > nothing + HARM)
    return common.rounded(figures)


def _mean(values: np.ndarray) -> float | None:
    """Mean of the numbers that are not NaN; None where all are."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else None


def page(result: dict) -> str:
    """The page of a result, in Markdown."""
    titles = {**METHODS, **OWN}
    return common.render("truth.md", **result, titles=titles, tissues=TISSUES, harm=HARM) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing; writes the figures and the page."""
    parser = common.parser(__doc__, __file__)
    parser.add_argument("--data", type=Path, help="folder of the real CT; packages alone without")
    parser.add_argument("--pairs", type=int, default=200, help="of each fold (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=SIZE, help=f"longest side (default: {SIZE})")
    parser.add_argument("--folds", nargs="+", metavar="PATIENT", help="default: all")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--models", type=Path, help="folder with fold-PATIENT/NAME.keras")
    parser.add_argument("--load", metavar="MODULE:FUNCTION", help="loads the models of a fold")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="compute again")
    parser.add_argument("--list", action="store_true", help="shows the folds and ends")
    parser.add_argument("--work", type=Path, default=common.ROOT / "runs" / "truth")
    options = common.parse(parser, arguments)
    study = Study(load_scans(options.data), options)
    if options.list:
        for scan in study.scans.values():
            print(f"fold-{scan.group}: {scan.id}, {' x '.join(map(str, scan.hu.shape))}")
        return
    study.run()
    result = study.result({**METHODS, **OWN})
    common.write_study(options.output, result)
    text = page(result)
    write_atomically(options.page, text.encode())
    print(text)


if __name__ == "__main__":
    main()
