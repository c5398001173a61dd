"""The benchmark of the right answer: bodies, pairs, rows that stay, figures, tables, pictures."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OWN = """
class Halfway:
    def stylize(self, content, style):
        return 0.5 * content + 0.5 * style.mean()

def load(folder):
    return {"halfway": Halfway()} if (folder / "weights.txt").read_text() else {}
"""


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return [importlib.import_module(name) for name in ("ct_scans", "ct_pairs", "truth")]


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


class TestBody:
    def test_lungs_count_and_the_table_does_not(self, modules):
        hu = np.full((80, 80), -1000)
        hu[10:60, 20:60] = 40
        hu[20:30, 30:40] = -850
        hu[66:68] = 200
        body = modules[0].body_mask(hu, (3.0, 3.0))
        expected = np.zeros(hu.shape, bool)
        expected[10:60, 20:60] = True
        # The corners are thinner than the disc.
        assert (body != expected).sum() <= 8
        assert body[25, 35]
        assert not body[66:68].any()

    def test_a_lung_cut_off_by_the_border_counts_and_air_does_not(self, modules):
        hu = np.full((60, 60), 40)
        hu[:, :15] = -850
        hu[:12] = 40  # the chest wall
        hu[:8] = -1000
        body = modules[0].body_mask(hu, (3.0, 3.0))
        assert body[8:].all()
        assert not body[:8].any()

    def test_two_bodies_and_none(self, modules):
        hu = np.full((60, 60), -1000)
        hu[5:50, 5:30], hu[20:40, 45:55] = 40, 40
        body = modules[0].body_mask(hu, (3.0, 3.0))
        assert body[30, 50]
        assert body[30, 20]
        assert not modules[0].body_mask(np.full((20, 20), -1000), (1.0, 1.0)).any()


class TestScans:
    def test_packages(self, modules):
        pytest.importorskip("data_store", reason="pydicom-data is not installed")
        scans = modules[0].load_scans(None)
        assert {*scans} == {*modules[0].PACKAGED}
        for scan in scans.values():
            assert scan.hu.dtype == np.int16
            assert scan.hu.shape == scan.body.shape
            assert scan.body.any()
            assert scan.packaged
        # The table lies behind the patient, below in the picture.
        below = np.nonzero(scans["pancreas"].hu[0][:, 200:300].max(axis=1) > -500)[0].max()
        assert below > np.nonzero(scans["pancreas"].body[0])[0].max() + 20

    def test_missing_data(self, modules, tmp_path):
        with pytest.raises(ValueError, match="holds no folder with a scan"):
            modules[0].load_scans(tmp_path / "none")


class TestPairs:
    def draw(self, modules, scans, *rest, **options):
        return list(modules[1].draw_pairs(scans, *rest, **options))

    def test_the_right_answer(self, modules, scans):
        for pair in self.draw(modules, scans, {"anna"}, 40, seed=3, size=64):
            assert max(pair.content.shape) <= 64
            np.testing.assert_array_equal(pair.content, pair.content_scale(pair.hu))
            np.testing.assert_array_equal(pair.right, pair.style_scale(pair.hu))
            clipped = (pair.content == 0) | (pair.content == 1)
            np.testing.assert_array_equal(pair.mask, pair.body & ~clipped)
            assert pair.mask.sum() >= 300
            shown = (pair.hu > pair.content_scale.window.lower) & (
                pair.hu < pair.content_scale.window.upper
            )
            assert shown[pair.body].mean() >= 0.25
            assert pair.content_id == "anna"
            assert pair.style_id != "anna"

    def test_reproducible_and_of_any_count(self, modules, scans):
        whole = self.draw(modules, scans, {"berta"}, 6, seed=1)
        parts = self.draw(modules, scans, {"berta"}, 2, seed=1) + self.draw(
            modules, scans, {"berta"}, 4, seed=1, start=2
        )
        other = self.draw(modules, scans, {"berta"}, 6, seed=2)
        for a, b, c in zip(whole, parts, other):
            np.testing.assert_array_equal(a.content, b.content)
            np.testing.assert_array_equal(a.style, b.style)
            assert a.content.shape != c.content.shape or (a.content != c.content).any()
        assert {pair.style_id for pair in whole} <= {"anna", "carla"}

    def test_shares(self, modules, scans):
        pairs = self.draw(modules, scans, {"anna"}, 300, size=64)
        assert 0.1 < np.mean([pair.same_scale for pair in pairs]) < 0.2
        for pair in pairs:
            if pair.same_scale:
                np.testing.assert_array_equal(pair.right, pair.content)
        assert 0.25 < np.mean([pair.content_scale.eight_bit for pair in pairs]) < 0.42
        assert {pair.content_id for pair in pairs} == {"anna"}
        assert {pair.style_id for pair in pairs} == {"berta", "berta_again", "carla"}

    @pytest.mark.parametrize("groups", [{"dora"}, {"anna", "berta", "carla"}])
    def test_bad_groups(self, modules, scans, groups):
        with pytest.raises(ValueError, match="held_out_groups"):
            self.draw(modules, scans, groups, 1)


class TestStudy:
    @pytest.fixture
    def run(self, modules, scans, monkeypatch, tmp_path):
        truth = modules[2]
        monkeypatch.setattr(truth, "load_scans", lambda data: scans)
        output = tmp_path / "truth.json"

        def start(*words):
            places = ["--work", tmp_path, "--output", output, "--page", tmp_path / "truth.md"]
            truth.main([str(w) for w in ("--pairs", 12, "--size", 64, *places, *words)])
            return json.loads(output.read_text())

        return start

    def test_figures(self, run, tmp_path):
        result = run("--methods", "classical")
        assert {*result["folds"]} == {"anna", "berta", "carla"}
        methods = {name: one["all_folds"] for name, one in result["methods"].items()}
        answer, nothing = methods["right_answer"], methods["nothing"]
        assert answer["mean"] == answer["all_pixels_mean"] == 0
        assert answer["better_than_histogram_matching"] == 1
        assert nothing["same_scale_median"] == nothing["worse_than_nothing"] == 0
        assert nothing["structure_mean"] == pytest.approx(1)
        matching = methods["histogram_matching"]
        assert matching["mean_to_histogram_matching"] == 1
        rows = [
            json.loads((tmp_path / "rows" / fold / f"{name}.json").read_text())["rows"]
            for name in ("histogram_matching", "nothing")
            for fold in result["folds"]
        ]
        mine, none = (
            np.array([row["balanced"] for fold in part for row in fold])
            for part in (rows[:3], rows[3:])
        )
        assert matching["pairs"] == mine.size == 36
        assert matching["median"] == pytest.approx(np.median(mine), abs=1e-4)
        assert matching["percentile_90"] == pytest.approx(np.percentile(mine, 90), abs=1e-4)
        assert matching["worse_than_nothing"] == pytest.approx(
            np.mean(mine > none + 0.02), abs=1e-4
        )
        page = (tmp_path / "truth.md").read_text()
        assert f"| Nyúl's landmarks | {methods['nyul']['median']:.3f} |" in page

    def test_rows_stay(self, run, tmp_path):
        first = run("--methods", "nothing", "nyul", "--folds", "anna")
        path = tmp_path / "rows" / "anna" / "nyul.json"
        kept = json.loads(path.read_text())
        kept["rows"][0]["balanced"] += 1
        path.write_text(json.dumps(kept))
        again = run("--methods", "nothing", "nyul", "--folds", "anna")
        assert (
            again["methods"]["nyul"]["all_folds"]["mean"]
            > first["methods"]["nyul"]["all_folds"]["mean"] + 0.05
        )
        assert run("--methods", "--folds", "anna", "--again", "nyul")["methods"].keys() == {
            "nothing",
            "nyul",
        }
        anew = run("--methods", "nyul", "--folds", "anna", "--again", "nyul")
        assert anew["methods"] == first["methods"]
        assert run("--methods", "nothing", "--folds", "anna", "--seed", 5)["methods"].keys() == {
            "nothing"
        }

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

    def test_pictures(self, run, tmp_path):
        pytest.importorskip("matplotlib", reason="the extra `benchmarks` is not installed")
        run("--methods", "classical", "--folds", "anna", "--pairs", "8", "--pictures", "nyul")
        assert (tmp_path / "pictures" / "nyul.png").stat().st_size > 10_000
        with pytest.raises(SystemExit, match="no pair of 'ours' to show"):
            run("--methods", "nothing", "--folds", "anna", "--pairs", "8", "--pictures", "ours")

    def test_unknown_fold(self, run):
        with pytest.raises(SystemExit, match="--folds: must be some of"):
            run("--folds", "dora")


def test_committed_page_is_the_json(modules):
    truth = modules[2]
    result = json.loads((BENCHMARKS / "truth.json").read_text())
    page = BENCHMARKS.parent / "docs" / "results" / "truth.md"
    assert page.read_text(encoding="utf-8") == truth.tables(result)
