"""The segmentation study on tiny images: split, resuming, summary, one's own data, page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.models import small_model
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.experiments import results, segmentation
from tfstyle.experiments.segmentation import (
    CONDITIONS,
    IGNORE,
    SegmentationSettings,
    labelled_data,
    phantom_data,
    run_segmentation_study,
    summarize,
)

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
    result = run_segmentation_study(
        {"phantoms": tiny}, file, seeds=(0, 1), settings=TINY, preset=preset, mse=preset
    )
    return result, file


class TestPhantoms:
    def test_training_differs_by_seed_and_tests_do_not(self):
        one, two = tiny(0), tiny(1)
        assert np.abs(one.images - two.images).max() > 0.1
        np.testing.assert_array_equal(one.tests["dark"][0], two.tests["dark"][0])
        assert set(one.tests) == {"dark"}
        assert one.images.shape == (2, 32, 32, 1)
        assert one.style_names == ["dark"]

    def test_no_image_is_on_two_sides(self):
        data = phantom_data(0, **{**OPTIONS, "test": 3, "train": 3})
        tested = [t.tobytes() for t in data.seen[1]]
        assert not {m.tobytes() for m in data.masks} & set(tested)

    def test_classes(self):
        data = phantom_data(0, train=1, style=1, test=1, protocols=("standard", "dark"))
        assert len(data.classes) == 4
        assert set(np.unique(data.masks)) == {0, 1, 2, 3}


class TestRuns:
    def test_every_condition_once_a_seed(self, study):
        result, file = study
        found = [(r["condition"], r["seed"]) for r in result["rows"]]
        assert found == [(c, s) for s in (0, 1) for c in CONDITIONS]
        assert json.loads(file.read_text())["rows"] == result["rows"]
        for row in result["rows"]:
            assert 0 <= row["mean_iou"] <= row["pixel_accuracy"] <= 1
            assert row["mean_iou"] == row["domains"]["dark"]["mean_iou"]
        ours = next(r for r in result["rows"] if r["condition"] == "ours")
        assert ours["augmentation"]["seen"] == 4
        assert ours["augmentation"]["stylized"] >= 2

    def test_goes_on_where_it_stopped(self, study, tmp_path, preset):
        result, _ = study
        kept = {**result, "rows": [r for r in result["rows"] if r["condition"] != "classical"]}
        for row in kept["rows"]:
            row["mark"] = True
        again = tmp_path / "again.json"
        again.write_text(json.dumps(kept))
        options = {"settings": TINY, "preset": preset, "mse": preset}
        done = run_segmentation_study({"phantoms": tiny}, again, seeds=(0, 1), **options)
        fresh = [row for row in done["rows"] if "mark" not in row]
        assert [(r["condition"], r["seed"]) for r in fresh] == [("classical", 0), ("classical", 1)]
        before = [r for r in result["rows"] if r["condition"] == "classical"]
        for old, new in zip(before, fresh):
            assert new["mean_iou"] == pytest.approx(old["mean_iou"], abs=1e-3)

    def test_other_settings_are_refused(self, study):
        with pytest.raises(ArgumentError, match="other settings"):
            run_segmentation_study({"phantoms": tiny}, study[1], conditions=["plain"])

    def test_conditions_that_cannot_be_run(self, tmp_path):
        with pytest.raises(ArgumentError, match="unknown other"):
            run_segmentation_study({}, tmp_path / "a.json", conditions=["other"])
        with pytest.raises(ArgumentError, match="mse"):
            run_segmentation_study({}, tmp_path / "a.json", conditions=["adain_mse"])

    def test_page_holds_tables_and_pictures(self, study, tmp_path):
        text = results.write_results(
            tmp_path / "new" / "index.html", segmentation=study
        ).read_text()
        assert "Histogram matching" in text
        assert text.count("data:image/png;base64,") == 1
        assert 'src="http' not in text


def test_views_leave_the_share_that_p_says_and_masks_nothing(preset):
    settings = SegmentationSettings(views=8, p=0.5, gate=None)
    data = tiny(0)
    views = segmentation._Views(settings, preset, None)
    for condition in ("classical", "histogram_matching", "ours"):
        made, _ = views.make(condition, "phantoms", data, 0)
        assert made.shape == (2, 8, 32, 32, 1)
        changed = np.abs(made - data.images[:, None]).max(axis=(2, 3, 4)) > 1e-3
        assert 3 <= changed.sum() <= 13
        again, _ = segmentation._Views(settings, preset, None).make(condition, "phantoms", data, 0)
        np.testing.assert_allclose(made, again, atol=1e-6)
    plain, _ = views.make("plain", "phantoms", data, 0)
    np.testing.assert_array_equal(plain[:, 0], data.images)


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


def test_seeds_that_lack_a_condition_are_left_out():
    rows = [
        {"data": "d", "condition": c, "seed": s, "pixel_accuracy": 0, "mean_iou": 0, "seen": None}
        for c, s in (("plain", 0), ("plain", 1), ("ours", 0))
    ]
    result = segmentation.complete_seeds({"rows": rows, "data": {}})
    assert [(r["condition"], r["seed"]) for r in result["rows"]] == [("plain", 0), ("ours", 0)]
    assert [entry["runs"] for entry in result["summary"]] == [1, 1]


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
        sets = labelled_data(*folders, size=24)
        assert list(sets) == ["without a", "without b", "without c"]
        data = sets["without a"]
        assert data.images.shape == (6, 24, 24, 1)
        assert len(data.styles) == 1
        assert data.tests["a"][0].shape == (2, 24, 24, 1)
        assert set(np.unique(data.masks)) == {0, 1, IGNORE}  # padded to a square
        inside = data.masks != IGNORE
        assert data.images[..., 0][inside & (data.masks == 1)].min() > 0.5

    def test_one_training_domain(self, folders):
        (data,) = labelled_data(*folders, size=24, train_domain="b").values()
        assert set(data.tests) == {"a", "c"}
        assert len(data.images) == 3

    def test_errors(self, folders, tmp_path):
        images, masks = folders
        with pytest.raises(ArgumentError, match="one domain only"):
            labelled_data(images / "a", masks / "a")
        with pytest.raises(ArgumentError, match="there is no 'z'; domains are a, b, c"):
            labelled_data(images, masks, train_domain="z")
        for file in (images / "c").glob("c[12].png"):
            file.unlink()
        with pytest.raises(ArgumentError, match="one subject only"):
            labelled_data(images, masks)
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(InputFileError, match="no scan with a mask"):
            labelled_data(images, empty)
