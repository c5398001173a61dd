"""The segmentation study on tiny images: split, resuming, summary, one's own data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from studies import segmentation
from studies.segmentation import CONDITIONS, SegmentationSettings, run_study, summarize
from studies.segmentation_data import IGNORE, own_data, phantom_data
from tests.models import small_model
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, InputFileError

pytestmark = pytest.mark.slow
TINY = SegmentationSettings(steps=2, batch_size=2, depth=1, width=2, views=2, gate=None)
OPTIONS = {"size": 32, "train": 2, "style": 1, "test": 1, "protocols": ("standard", "dark")}


def tiny(seed):
    return phantom_data(seed, **OPTIONS)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "preset"
    small_model("relu1_1").save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory, preset):
    file = tmp_path_factory.mktemp("study") / "segmentation.json"
    options = {"settings": TINY, "preset": preset, "mse": preset}
    return run_study({"phantoms": tiny}, file, seeds=(0, 1), **options), file, options


class TestPhantoms:
    def test_training_differs_by_seed_and_tests_do_not(self):
        one, two = tiny(0), tiny(1)
        assert np.abs(one.images - two.images).max() > 0.1
        np.testing.assert_array_equal(one.tests["dark"][0], two.tests["dark"][0])
        assert set(one.tests) == {"dark"}
        assert one.images.shape == (2, 32, 32, 1)
        assert len(one.styles) == 1

    def test_no_image_is_on_two_sides(self):
        data = phantom_data(0, **{**OPTIONS, "test": 3, "train": 3})
        assert not {m.tobytes() for m in data.masks} & {t.tobytes() for t in data.seen[1]}
        assert len(data.classes) == 4


class TestRuns:
    def test_every_condition_once_a_seed(self, study):
        result, file, _ = study
        found = [(r["condition"], r["seed"]) for r in result["rows"]]
        assert found == [(c, s) for s in (0, 1) for c in CONDITIONS]
        assert json.loads(file.read_text()) == result
        for row in result["rows"]:
            assert 0 <= row["mean_iou"] <= row["pixel_accuracy"] <= 1
            assert row["mean_iou"] == row["domains"]["dark"]["mean_iou"]
        ours = next(r for r in result["rows"] if r["condition"] == "ours")
        assert ours["augmentation"]["seen"] == 4
        assert ours["augmentation"]["stylized"] >= 2
        pictures = {p.name for p in file.with_name("segmentation_examples").iterdir()}
        assert pictures == {f"phantoms-{k}.png" for k in ("images", "masks", *CONDITIONS)}

    def test_goes_on_where_it_stopped(self, study, tmp_path):
        result, _, options = study
        kept = [{**r, "mark": 1} for r in result["rows"] if r["condition"] != "classical"]
        again = tmp_path / "again.json"
        again.write_text(json.dumps({**result, "rows": kept}))
        done = run_study({"phantoms": tiny}, again, seeds=(0, 1), **options)
        assert sum("mark" in row for row in done["rows"]) == len(kept)
        new = {r["seed"]: r for r in done["rows"] if "mark" not in r}
        old = {r["seed"]: r for r in result["rows"] if r["condition"] == "classical"}
        assert {s: r["mean_iou"] for s, r in new.items()} == {
            s: r["mean_iou"] for s, r in old.items()
        }

    def test_conditions_differ_in_gray_levels_alone(self, preset):
        data, views = tiny(0), segmentation.Views(TINY, preset, preset)
        plain, _ = views.make("plain", data, 0)
        np.testing.assert_array_equal(plain[:, 0], data.images)
        for condition in CONDITIONS:
            made, again = (views.make(condition, data, 0)[0] for _ in range(2))
            np.testing.assert_allclose(made, again, atol=1e-6)
            assert made.shape == (2, 1 if condition == "plain" else 2, 32, 32, 1)
            assert 0 <= made.min() <= made.max() <= 1
            assert condition == "plain" or np.abs(made - plain).max() > 0.01

    def test_mse_is_needed(self, tmp_path):
        with pytest.raises(ArgumentError, match="mse"):
            run_study({}, tmp_path / "a.json", conditions=["adain_mse"])


def test_summary_pairs_by_seed():
    rows = [
        {"data": "d", "condition": c, "seed": s, "pixel_accuracy": a, "mean_iou": a, "seen": None}
        for c, s, a in (
            ("plain", 0, 0.1),
            ("plain", 1, 0.5),
            ("ours", 1, 0.6),
            ("ours", 0, 0.2),
            ("classical", 0, 0.3),
        )
    ]
    plain, classical, ours = summarize(rows)
    assert ours["minus_plain"]["mean_iou"] == {"mean": 0.1, "std": 0.0, "n": 2}
    assert ours["minus_classical"]["mean_iou"] == {"mean": -0.1, "std": None, "n": 1}
    assert plain["mean_iou"] == {"mean": 0.3, "std": 0.28284, "n": 2}
    assert classical["runs"] == 1


@pytest.fixture
def folders(tmp_path):
    """Three domains of three pictures with masks; a bright square is the structure."""
    rng = np.random.default_rng(0)
    for domain in ("a", "b", "c"):
        for number in range(3):
            image = 0.3 * rng.random((20, 24)).astype(np.float32)
            mask = np.zeros((20, 24), np.float32)
            image[4:12, 6:14] += 0.6
            mask[4:12, 6:14] = 1
            for kind, values in (("images", image), ("masks", mask)):
                folder = tmp_path / kind / domain
                folder.mkdir(parents=True, exist_ok=True)
                write_png(values, folder / f"{domain}{number}.png")
    return tmp_path / "images", tmp_path / "masks"


class TestOwnData:
    def test_leaves_out_each_domain(self, folders):
        sets = own_data(*folders, size=24)
        assert list(sets) == ["without a", "without b", "without c"]
        data = sets["without a"]
        assert data.images.shape == (6, 24, 24, 1)
        assert len(data.styles) == 1
        assert data.tests["a"][0].shape == (2, 24, 24, 1)
        assert set(np.unique(data.masks)) == {0, 1, IGNORE}  # padded to a square
        assert data.images[..., 0][data.masks == 1].min() > 0.5

    def test_errors(self, folders, tmp_path):
        images, masks = folders
        with pytest.raises(ArgumentError, match="'a' alone"):
            own_data(images / "a", masks / "a")
        with pytest.raises(ArgumentError, match="must be one of a, b, c, received 'z'"):
            own_data(images, masks, train_domain="z")
        for file in (images / "c").glob("c[12].png"):
            file.unlink()
        with pytest.raises(ArgumentError, match="one subject only"):
            own_data(images, masks)
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(InputFileError, match="no scan with a mask"):
            own_data(images, empty)

    def test_command(self, folders, tmp_path, preset, capsys):
        words = ["--images", *folders, "--train-domain", "a", "--size", 24, "--seeds", 1]
        words[2:2] = ["--masks"]
        words += ["--set", "steps=1", "depth=1", "width=2", "strength=[0.5,1.0]"]
        words += ["--preset", preset, "--conditions", "plain", "ours"]
        segmentation.main(map(str, [*words, "--output", tmp_path / "own.json"]))
        result = json.loads((tmp_path / "own.json").read_text())
        assert [e["condition"] for e in result["summary"]] == ["plain", "ours"]
        assert result["settings"]["strength"] == [0.5, 1.0]
        assert list(result["data"]["trained on a"]["domains"]) == ["b", "c"]
