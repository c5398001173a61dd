"""The benchmark of the right answer: scans, pairs, rows that stay, figures, tables."""

import dataclasses
import json

import numpy as np
import pytest

from tests.process import ROOT
from tfstyle.data.windows import Window
from tfstyle.tone import ToneTransfer

OWN = """
class Halfway:
    def stylize(self, content, style):
        return 0.5 * content + 0.5 * style.mean()

def load(folder):
    return {"halfway": Halfway()} if (folder / "weights.txt").read_text() else {}
"""


@pytest.fixture
def modules(script):
    return [script(name) for name in ("ct_scans", "ct_pairs", "truth")]


def patient(seed: int, size: int = 96, slices: int = 2) -> np.ndarray:
    """A round body of every tissue in air."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x * (1 + 0.1 * seed)) / size
    hu = np.select([radius < 0.1, radius < 0.2, radius < 0.3, radius < 0.4], [700, 50, 180, -90])
    hu = np.where(np.hypot(y - 10, x - 16) < 8, -800, np.where(radius < 0.4, hu, -1000))
    return np.stack([hu + rng.normal(0, 15, hu.shape) for _ in range(slices)]).astype(np.int16)


@pytest.fixture
def scans(modules):
    ct_scans = modules[0]
    found = {}
    for seed, name in enumerate(("anna", "berta", "berta_again", "carla")):
        hu = patient(seed)
        body = np.stack([ct_scans.body_mask(one, (3.0, 3.0)) for one in hu])
        found[name] = ct_scans.ScanRecord(name, name.split("_")[0], hu, body, (3.0, 3.0, 3.0))
    return found


class TestPairs:
    def draw(self, modules, scans, *rest, **options):
        return list(modules[1].draw_pairs(scans, *rest, **options))

    def test_the_right_answer(self, modules, scans):
        pairs = self.draw(modules, scans, {"anna"}, 100, seed=3, size=64)
        for pair in pairs:
            assert max(pair.content.shape) <= 64
            np.testing.assert_array_equal(pair.content, pair.content_scale(pair.hu))
            np.testing.assert_array_equal(pair.right, pair.style_scale(pair.hu))
            clipped = (pair.content == 0) | (pair.content == 1)
            np.testing.assert_array_equal(pair.mask, pair.body & ~clipped)
            assert pair.mask.sum() >= 300
            assert pair.content_scale.shown(pair.hu[pair.body]) >= 0.25
            if pair.same_scale:
                np.testing.assert_array_equal(pair.right, pair.content)
        assert 0.05 < np.mean([pair.same_scale for pair in pairs]) < 0.3
        assert {pair.content_id for pair in pairs} == {"anna"}
        assert {pair.style_id for pair in pairs} == {"berta", "berta_again", "carla"}

    def test_reproducible_and_of_any_count(self, modules, scans):
        whole = self.draw(modules, scans, {"berta"}, 6, seed=1)
        part = self.draw(modules, scans, {"berta"}, 4, seed=1)
        other = self.draw(modules, scans, {"berta"}, 6, seed=2)
        for a, b, c in zip(whole, part, other):
            np.testing.assert_array_equal(a.content, b.content)
            np.testing.assert_array_equal(a.style, b.style)
            assert a.content.shape != c.content.shape or (a.content != c.content).any()
        assert {pair.style_id for pair in whole} <= {"anna", "carla"}


class TestStudy:
    @pytest.fixture
    def run(self, modules, scans, monkeypatch, tmp_path):
        truth = modules[2]
        monkeypatch.setattr(truth, "load_scans", lambda data: scans)
        output = tmp_path / "truth.json"

        def start(*words):
            places = ["--work", tmp_path, "--output", output, "--page", tmp_path / "truth.md"]
            truth.main([str(w) for w in ("--pairs", 8, "--size", 48, *places, *words)])
            return json.loads(output.read_text())

        return start

    def test_figures(self, run, tmp_path):
        names = ("nothing", "right_answer", "histogram_matching", "nyul")
        result = run("--methods", *names)
        assert {*result["folds"]} == {"anna", "berta", "carla"}
        methods = {name: one["all_folds"] for name, one in result["methods"].items()}
        answer, nothing = methods["right_answer"], methods["nothing"]
        assert answer["mean"] == answer["all_pixels_mean"] == 0
        assert answer["better_than_histogram_matching"] == 1
        assert nothing["same_scale_median"] == nothing["worse_than_nothing"] == 0
        assert nothing["structure_mean"] == pytest.approx(1)
        matching = methods["histogram_matching"]
        assert matching["mean_to_histogram_matching"] == 1
        files = tmp_path / "rows"
        mine, none = (
            np.array(
                [
                    row["balanced"]
                    for fold in result["folds"]
                    for row in json.loads((files / fold / f"{name}.json").read_text())["rows"]
                ]
            )
            for name in ("histogram_matching", "nothing")
        )
        assert matching["pairs"] == mine.size == 24
        assert matching["median"] == pytest.approx(np.median(mine), abs=1e-4)
        assert matching["percentile_90"] == pytest.approx(np.percentile(mine, 90), abs=1e-4)
        worse = np.mean(mine > none + 0.02)
        assert matching["worse_than_nothing"] == pytest.approx(worse, abs=1e-4)
        page = (tmp_path / "truth.md").read_text()
        assert f"| Nyúl's landmarks | {methods['nyul']['median']:.3f} |" in page

    def test_rows_stay(self, run, tmp_path):
        words = ("--methods", "nothing", "nyul", "--folds", "anna")
        first = run(*words)
        path = tmp_path / "rows" / "anna" / "nyul.json"
        kept = json.loads(path.read_text())
        kept["rows"][0]["balanced"] += 1
        path.write_text(json.dumps(kept))
        changed, mean = run(*words), first["methods"]["nyul"]["all_folds"]["mean"]
        assert changed["methods"]["nyul"]["all_folds"]["mean"] > mean + 0.05
        assert run(*words, "--again", "nyul")["methods"] == first["methods"]
        other = run("--methods", "nothing", "--folds", "anna", "--seed", 5)
        assert [*other["methods"]] == ["nothing"]

    def test_own_models(self, run, tmp_path, monkeypatch):
        (tmp_path / "own_models_of_test.py").write_text(OWN)
        monkeypatch.syspath_prepend(str(tmp_path))
        folder = tmp_path / "models" / "fold-carla"
        folder.mkdir(parents=True)
        (folder / "weights.txt").write_text("1")
        words = ("--models", tmp_path / "models", "--load", "own_models_of_test:load")
        result = run("--methods", "nothing", *words)
        assert {*result["methods"]["halfway"]["by_fold"]} == {"carla"}
        path = tmp_path / "rows" / "carla" / "halfway.json"
        before = path.read_text()
        run("--methods", "nothing", *words)
        assert path.read_text() == before
        (folder / "weights.txt").write_text("2")
        run("--methods", "nothing", *words)
        assert path.read_text() != before


def test_committed_page_is_the_json(modules):
    truth = modules[2]
    result = json.loads((ROOT / "benchmarks" / "truth.json").read_text())
    page = ROOT / "docs" / "results" / "truth.md"
    assert page.read_text(encoding="utf-8") == truth.page(result)


def test_beyond_measures_whole_scans_turned_slices_and_confidence(
    modules, script, monkeypatch, tmp_path
):
    beyond = script("beyond")
    scans = {}
    for seed, name in enumerate(("anna", "berta")):
        hu = patient(seed, size=48, slices=8)
        scans[name] = modules[0].ScanRecord(name, name, hu, hu > -500, (1.0, 3.0, 3.0))
    for content, style, right, hu, mask in beyond.scan_pairs(scans, "anna", 3):
        assert content.shape == style.shape == (8, 48, 48)
        assert mask.any()
        order = np.argsort(hu[mask])  # of the content, in a rising gray scale
        assert (np.diff(right[mask][order]) >= 0).all()
    monkeypatch.setattr(beyond, "load_scans", lambda data: scans)
    monkeypatch.setattr(beyond, "foreign_images", lambda: {"MR": np.eye(32, dtype=np.float32)})
    (tmp_path / "fold-anna").mkdir()
    ToneTransfer().save(tmp_path / "fold-anna" / "ours.keras")
    output, page = tmp_path / "beyond.json", tmp_path / "beyond.md"
    options = f"--models {tmp_path} --output {output} --page {page} --pairs 1 --scans 1"
    beyond.main([*options.split(), "--folds", "anna"])
    result = json.loads(output.read_text())
    assert [len(result[p]) for p in ("scan_to_scan", "turned", "confidence")] == [5, 5, 4]
    text = page.read_text()
    for part in ("scan_to_scan", "turned"):
        for name, row in result[part].items():
            assert f"| {name} | {row['mean']:.3f} | {row['median']:.3f} |" in text
    for name, row in result["confidence"].items():
        assert f"| {name} | {row['median']:.2f} | {100 * row['warned']:.0f} % |" in text


def test_lesions_that_a_method_keeps_and_loses(modules, script):
    beyond, pairs = script("beyond"), modules[1]
    window = Window(40, 400)
    hu = np.full((64, 64), 50, np.float32) + np.random.default_rng(0).normal(0, 5, (64, 64))
    scale, every = pairs.GrayScale("soft tissue", window), np.ones(hu.shape, bool)
    gray = scale(hu)
    pair = pairs.Pair(gray, gray, gray, hu, every, every, "a", "b", scale, scale)
    shown, disk, ring = beyond.planted(pair, np.random.default_rng(0))
    assert np.abs((shown - hu)[disk]).min() == pytest.approx(30, abs=1e-3)
    assert (shown == hu)[~disk].all()
    assert not (disk & ring).any()
    assert beyond.contrast_to_noise(scale(shown), disk, ring) == pytest.approx(6, abs=1.5)
    methods = {"keeps": lambda x, y: 0.5 * x, "loses": lambda x, y: np.zeros_like(x)}
    found = beyond.lesions(methods, [pair])
    assert found["keeps"] == pytest.approx([1])
    assert found["loses"] == [0]
    narrow = dataclasses.replace(pair, style_scale=pairs.GrayScale("black", Window(900, 10)))
    assert beyond.lesions(methods, [narrow]) == {}
