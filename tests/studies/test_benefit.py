"""The study of the benefit: augmentations, data, measures, intervals, and a tiny run of it all."""

import dataclasses
import json

import numpy as np
import pytest

from studies import augmentations, benefit, benefit_page, benefit_summary, common
from studies import benefit_data as data
from tfstyle import ToneTransfer
from tfstyle.data.scan import Scan

IMAGES = augmentations.IMAGE_AUGMENTATIONS
BANK = augmentations.BANK_AUGMENTATIONS


@pytest.fixture(scope="module")
def planes():
    """Two patients of three slices each."""
    drawn = data.phantom_planes(6, 48, 4.5)
    names = ("torso", "torso_dicom")
    return {
        name: [dataclasses.replace(p, scan=name) for p in drawn[3 * n : 3 * n + 3]]
        for n, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def image(planes):
    return data.training_tone(planes["torso"][0].hu)


def always(name: str, image: np.ndarray, seed: int, **options) -> np.ndarray:
    """An augmentation that is applied for certain."""
    rng = np.random.default_rng(seed)
    if name in ("bezier", "randconv", *BANK):
        options["p"] = 1.0
    if name == "nnunet":
        options["rate"] = 20.0
    if name in BANK:
        options.setdefault("style", image.T**0.5 * 0.6)
        return BANK[name](image, rng, **options)
    return IMAGES[name](image, rng, **options)


class TestAugmentations:
    @pytest.mark.parametrize("name", ["nnunet", "gin_ipa", "randconv", "fda"])
    def test_shape_range_and_seed(self, name, image):
        changed = always(name, image, seed=3)
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
        assert np.abs(changed - image).max() > 0.02
        np.testing.assert_array_equal(changed, always(name, image, seed=3))
        assert np.abs(changed - always(name, image, seed=4)).max() > 0 or name in BANK

    def test_bezier_curves_fall(self):
        ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
        curve = always("bezier", ramp, 5, falling=1.0).ravel()
        assert (np.diff(curve) <= 0).all()
        np.testing.assert_allclose(curve[[0, -1]], [1, 0], atol=1e-6)

    def test_fda_keeps_the_phase_and_takes_the_low_amplitudes(self, image):
        style = np.full_like(image, 0.7)
        changed = always("fda", image, 0, style=style, betas=(0.01,))
        # Of the lowest frequency alone, the mean, where nothing is clipped.
        shifted = image + (0.7 - image.mean())
        np.testing.assert_allclose(changed, shifted.clip(0, 1), atol=1e-4)

    def test_mixstyle_mixes_statistics_in_training_alone(self):
        rng = np.random.default_rng(0)
        x = rng.normal([[[[0.0, 5.0]]]], 1.0, (4, 8, 8, 2)).astype(np.float32)
        x *= np.arange(1, 5, dtype=np.float32)[:, None, None, None]
        layer = augmentations.MixStyle(p=1.0, alpha=1.0, seed=2)
        np.testing.assert_array_equal(layer(x, training=False), x)
        mixed = np.asarray(layer(x, training=True))
        means, before = mixed.mean((1, 2)), x.mean((1, 2))
        assert np.abs(means - before).max() > 0.1
        assert (means >= before.min(0) - 1e-3).all()
        assert (means <= before.max(0) + 1e-3).all()
        same = np.repeat(x[:1], 4, axis=0)
        np.testing.assert_allclose(layer(same, training=True), same, atol=1e-4)


class TestData:
    @pytest.mark.parametrize("domain", ["sigmoid", "inverted", "blur", "thick slices"])
    def test_shown_is_its_hu_in_its_gray_scale(self, domain, planes):
        scan = planes["torso"]
        gray, hu, tone = data.shown(scan, domain, seed=1)
        np.testing.assert_allclose(gray, tone(np.stack(hu)), atol=1e-5)
        np.testing.assert_array_equal(gray, data.shown(scan, domain, seed=1)[0])
        changed = domain == "blur"
        plain = tone(np.stack([plane.hu for plane in scan]))
        assert (np.abs(np.stack(gray) - plain).mean() > 1e-3) == changed

    def test_axes_are_turned_with_their_labels(self):
        pixels = np.full((4, 20, 20), -1000, np.int16)
        pixels[1, 3:9, 4:16] = 300
        affine = np.diag([-3.0, 3.0, -3.0, 1.0])[[2, 1, 0, 3]]
        scan = Scan(pixels, spacing=(3.0, 3.0, 3.0), units="HU", name="x", affine=affine)
        (plane,) = data._planes(scan, "x", pixels > 0, np.arange(4) == 1, 3.0)
        assert plane.number == 2
        np.testing.assert_array_equal(plane.hu, pixels[1, :, ::-1])
        np.testing.assert_array_equal(plane.mask == 1, pixels[1, :, ::-1] > 0)
        assert plane.thick.max() == 300 - 1300 * 2 / 3


class TestMeasures:
    def test_boundary_distance(self):
        truth, found = np.zeros((2, 30, 30), bool)
        truth[10:20, 10:20], found[10:20, 12:22] = True, True
        assert benefit_summary.boundary_distance(truth, truth, 2.0) == 0
        # 8 of 10 columns of the upper and lower edges lie on each other.
        distance = benefit_summary.boundary_distance(truth, found, 2.0)
        assert 1.5 < distance < 4.0
        assert distance == benefit_summary.boundary_distance(found, truth, 1.0) * 2
        empty = np.zeros_like(truth)
        assert benefit_summary.boundary_distance(truth, empty, 2.0) == 60
        assert benefit_summary.boundary_distance(empty, empty, 2.0) == 0

    def test_measures_of_right_half_and_ignored(self):
        truth = np.zeros((2, 8, 8), np.uint8)
        truth[:, 2:6, 2:6], truth[:, 7] = 1, data.IGNORE
        found = truth.copy()
        found[:, 7], found[1, 2:4] = 1, 0
        rows = benefit_summary.measure(truth, found, 1.0)
        assert rows["dice"] == [1.0, pytest.approx(2 / 3, abs=1e-4)]
        assert rows["spine_iou"] == [1.0, 0.5]
        assert rows["mean_iou"] == [1.0, pytest.approx((0.5 + 40 / 48) / 2, abs=1e-4)]
        assert rows["pixel_accuracy"] == [1.0, pytest.approx(48 / 56, abs=1e-4)]
        assert rows["boundary_mm"][0] == 0


def test_mean_over_patients_not_over_slices():
    found = benefit_summary.interval({"a": np.full((3, 30), 0.1), "b": np.full((3, 5), 0.3)})
    assert found["folds"] == {"a": 0.1, "b": 0.3}
    assert found["mean"] == found["low"] == found["high"] == pytest.approx(0.2)


@pytest.mark.slow
def test_a_tiny_study_resumes_and_is_written(tmp_path, monkeypatch, planes):
    scans = {
        name: data.ScanRecord(
            name,
            name,
            np.stack([p.hu for p in own]).astype(np.int16),
            np.stack([p.body for p in own]),
            (4.5, 4.5, 4.5),
        )
        for name, own in planes.items()
    }
    monkeypatch.setattr(data, "labelled_planes", lambda *_: planes)
    monkeypatch.setattr(data, "load_scans", lambda _: scans)
    output, page, own = tmp_path / "benefit.json", tmp_path / "benefit.md", "tone_transfer+nnunet"
    options = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--seeds", "1"]
    options += ["--output", str(output), "--page", str(page), "--folds", "torso"]
    options += ["--conditions", "none", own, "--set", "size=32", "spacing_mm=4.5", "width=4"]
    options += ["depth=1", "steps=4", "batch_size=2", "phantoms=1", "styles=2", "bank=2"]
    benefit.main(options)
    result = json.loads(output.read_text())
    assert (result["conditions"], result["cells"]) == (["none", own], 2)
    assert "saw the patient" in result["folds"]["torso"]["tone_transfer"]
    assert set(result["test_time"]) == set(benefit.METHODS)
    # Where nothing but the gray scale is changed, the exact way back leads to what is trained on.
    exact = result["test_time"]["exact"]
    assert exact["tone"]["mean_iou"] == exact["training"]["mean_iou"]
    assert set(result["augmentation_minus"][own]) == {"none"}
    text = page.read_text()
    assert text.startswith("# Does it pay?")
    assert "saw the tested scan** of torso" in text
    assert page.with_suffix(".png").stat().st_size > 1000
    cells = {path: path.read_text() for path in (tmp_path / "work").rglob("*.json")}

    done = []
    for step in ("train", "test"):
        function = getattr(benefit.Study, step)

        def counted(self, segmenter, *cell, step=step, function=function):
            done.append((step, cell[-1]))
            return function(self, segmenter, *cell)

        monkeypatch.setattr(benefit.Study, step, counted)
    benefit.main(options)
    assert done == []
    assert cells == {path: path.read_text() for path in (tmp_path / "work").rglob("*.json")}
    # With another tone transfer only what it augmented is trained again.
    model = tmp_path / "models" / "fold-torso" / "ours.keras"
    model.parent.mkdir(parents=True)
    ToneTransfer.from_preset().save(model)
    benefit.main([*options, "--models", str(tmp_path / "models")])
    assert done == [("test", "none"), ("train", own), ("test", own)]
    again = json.loads(output.read_text())
    assert again["folds"]["torso"]["tone_transfer"] == "trained without the patient"
    for condition in result["conditions"]:  # it is the same model, in a file of its own
        assert again["augmentation"][condition] == result["augmentation"][condition]


def test_committed_page_is_the_json(tmp_path):
    result = json.loads((common.FOLDER / "benefit.json").read_text())
    benefit_page.write(result, tmp_path / "benefit.md")
    page = common.ROOT / "docs" / "results" / "benefit.md"
    assert (tmp_path / "benefit.md").read_text() == page.read_text(encoding="utf-8")
