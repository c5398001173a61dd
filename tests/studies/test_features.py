"""Feature maps, the two figures of a tap, and the contact sheet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from studies import features, tap_figures
from studies.tap_figures import TapFeatures, study_features
from tests.models import image
from tfstyle.data import write_png
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError, InputFileError


@pytest.fixture(scope="module")
def encoder():
    return VGG16(weights=None, depth="relu2_1")


@pytest.fixture
def ct():
    return get_testdata_file("CT_small.dcm")


def noise(*shape):
    return np.random.default_rng(5).normal(size=shape)


class TestGradientReadBack:
    def r2(self, stride, maps):
        regression = tap_figures.Regression(stride, (128, 128))
        for seed in (0, 1):
            picture = image(seed, (128, 128))
            regression.add(maps(picture), picture)
        return regression.r2()

    def test_gradient_itself(self):
        assert self.r2(1, lambda x: np.hypot(*np.gradient(x))[..., None]) > 0.999
        # It is no linear function of the image.
        assert self.r2(1, lambda x: x[..., None]) < 0.1

    def test_one_vector_answers_for_all_its_pixels(self):
        def maps(x):
            gradient = np.hypot(*np.gradient(x)).reshape(32, 4, 32, 4)
            return gradient.transpose(0, 2, 1, 3).reshape(32, 32, 16)

        assert self.r2(4, maps) > 0.999
        assert 0.3 < self.r2(4, lambda x: maps(x)[..., :8]) < 0.9  # half of the pixels

    def test_noise_and_constants_give_nothing(self):
        assert abs(self.r2(4, lambda x: noise(32, 32, 60))) < 0.02
        assert abs(self.r2(16, lambda x: noise(8, 8, 100))) < 0.05
        assert self.r2(4, lambda x: np.ones((32, 32, 3))) == pytest.approx(0, abs=1e-6)

    def test_constant_image(self):
        regression = tap_figures.Regression(1, (64, 64))
        regression.add(noise(64, 64, 3), np.full((64, 64), 0.5))
        assert regression.r2() == 0.0

    def test_ridge_regression(self):
        x, y = noise(40, 6) * np.arange(1, 7) + 3, noise(40, 4)
        ((weights, offsets),) = tap_figures.ridge_regressions(x, y, [0.5])
        z = (x - x.mean(0)) / x.std(0)
        direct = np.linalg.solve(z.T @ z / 40 + 0.5 * np.eye(6), z.T @ (y - y.mean(0)) / 40)
        np.testing.assert_allclose(x @ weights + offsets, z @ direct + y.mean(0), atol=1e-10)


class TestSeparation:
    def test_known_ratio(self):
        x = [[np.array([[0.0], [2.0]])], [np.array([[10.0], [12.0]])]]
        ratio, accuracy = tap_figures.separation(x, aligned=False)
        assert ratio == pytest.approx(50 / 2)  # variance of 1 and 11, of 0 and 2
        assert accuracy == 1.0

    def test_a_sample_does_not_vote_for_itself(self):
        # Each is nearest to its own mean only as long as it counts in it.
        x = [[np.array([[0.0], [10.0]])], [np.array([[4.0], [7.0]])]]
        assert tap_figures.separation(x, aligned=False)[1] < 0.5

    def test_protocols_that_do_not_differ(self):
        x = [[noise(1, 50)[:, :1] + i] for i in range(8)]
        same = [[part[0] for part in x]] * 3
        ratio, accuracy = tap_figures.separation(same, aligned=True)
        assert ratio == pytest.approx(0, abs=1e-12)
        assert accuracy == pytest.approx(1 / 3)  # ties go to the first

    def test_one_protocol(self):
        assert tap_figures.separation([[np.ones((2, 3))]], aligned=False) == (None, None)

    def test_moments_of_the_map_or_its_quarters(self):
        maps = np.zeros((4, 6, 2), np.float32)
        maps[:2, 3:, 1] = 2.0
        whole = tap_figures.moments_of(maps, quartered=False)
        np.testing.assert_allclose(whole[0, :2], [0, 0.5], atol=1e-6)
        quarters = tap_figures.moments_of(maps, quartered=True)
        np.testing.assert_allclose(quarters[:, 1], [0, 2, 0, 0], atol=1e-6)
        assert quarters.shape == (4, 4)


class TestStudy:
    def test_rows(self, encoder):
        images = image(0, (2, 64, 96, 1))
        rows = study_features(
            encoder,
            images,
            {"dark": images * 0.3, "bright": 0.7 + images * 0.3},
            taps=["relu2_1", "relu1_1"],
            channels=3,
            aligned=True,
        )
        assert [row.name for row in rows] == ["relu1_1", "relu2_1"]
        first, second = rows
        assert (first.channels, first.stride, second.channels, second.stride) == (64, 1, 128, 2)
        assert first.maps.shape == (3, 64, 96)
        assert second.maps.shape == (3, 32, 48)
        assert first.maps.min() == 0.0
        assert first.maps.max() == 1.0
        variance = np.asarray(encoder(images[:1], taps=["relu1_1"])["relu1_1"])[0].var(axis=(0, 1))
        assert list(first.shown) == list(np.argsort(-variance)[:3])
        assert all(0 < row.gradient_r2 < 1 for row in rows)
        assert first.protocol_accuracy == 1.0
        assert first.fisher_ratio > 10
        assert json.loads(json.dumps(first.as_dict()))["shown"] == list(first.shown)

    def test_crops_to_the_stride(self, encoder):
        rows = study_features(encoder, image(0, (1, 65, 71, 1)), taps=["relu2_1"])
        assert rows[0].maps.shape == (8, 32, 35)
        assert rows[0].fisher_ratio is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"taps": ["relu3_1"]}, "relu2_1"),
            ({"taps": ["conv1_relu"]}, "conv1_relu"),
            ({"taps": ["image"]}, "taps"),
            ({"images": np.zeros((1, 32, 80, 1))}, "80 x 32 pixels are too small"),
            (
                {"protocols": {"a": np.zeros((1, 64, 64)), "b": np.zeros((2, 64, 64, 1))}},
                r"protocols\['a'\]",
            ),
        ],
    )
    def test_bad_input(self, encoder, options, message):
        with pytest.raises(ArgumentError, match=message):
            study_features(encoder, **{"images": np.zeros((1, 64, 64, 1)), **options})

    def test_aligned_needs_equal_numbers(self, encoder):
        batches = {"a": np.zeros((1, 64, 64, 1)), "b": np.zeros((2, 64, 64, 1))}
        with pytest.raises(ArgumentError, match="same number"):
            study_features(encoder, np.zeros((1, 64, 64, 1)), batches, aligned=True)


def test_sheet_shows_maps_and_words(tmp_path):
    def drawn(**changes):
        values = {
            "name": "relu1_1",
            "layer": "block1_conv1",
            "channels": 64,
            "stride": 1,
            "gradient_r2": 0.5,
            "fisher_ratio": 123.4,
            "protocol_accuracy": 1.0,
            "shown": (7, 3),
            "maps": np.stack([np.eye(4), 1 - np.eye(4)]),
        }
        rows = [TapFeatures(**{**values, **changes})]
        features.draw_sheet(rows, "VGG16", "scan", {"image": np.eye(64)}, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as sheet:
            assert sheet.mode == "L"
            return np.asarray(sheet)

    first = drawn()
    for changes in (
        {"maps": np.stack([1 - np.eye(4)] * 2)},
        {"name": "relu9_1"},
        {"gradient_r2": 0.51},
        {"fisher_ratio": None},
    ):
        other = drawn(**changes)
        assert other.shape != first.shape or (other != first).any()


@pytest.mark.slow
class TestCommand:
    def run(self, *words):
        features.main([str(word) for word in words])

    def test_ct(self, ct, tmp_path, capsys):
        words = [ct, "--sheet", tmp_path / "a.png", "--weights", "none", "--channels", 2]
        words += ["--encoder", "densenet121", "--taps", "conv1_relu"]
        self.run(*words)
        result = json.loads((tmp_path / "a.json").read_text())
        assert (result["encoder"], result["weights"], result["seed"]) == (
            "DenseNet121",
            "random",
            0,
        )
        assert result["content"]["size"] == [128, 128]
        assert result["protocols"] == dict.fromkeys(features.CT_PROTOCOLS, 1)
        assert result["chance"] == pytest.approx(1 / 6)
        (row,) = result["taps"]
        assert (row["name"], row["stride"], len(row["shown"])) == ("conv1_relu", 2, 2)
        assert 0 < row["gradient_r2"] < 1
        assert "conv1_relu 64 2 0." in capsys.readouterr().out
        self.run(*words, "--output", tmp_path / "b.json")  # random weights of the same seed
        assert json.loads((tmp_path / "b.json").read_text())["taps"] == result["taps"]

    def test_styles_are_the_protocols(self, tmp_path):
        for number, name in enumerate("ab"):
            write_png(image(number, (80, 70)) * (1 - 0.5 * number), tmp_path / f"{name}.png")
        a, b = tmp_path / "a.png", tmp_path / "b.png"
        words = ["--weights", "none", "--taps", "relu1_1", "--sheet", tmp_path / "out.png"]
        self.run(a, "--style", b, b, *words)
        result = json.loads((tmp_path / "out.json").read_text())
        assert result["protocols"] == {"a": 1, "b": 1, "b (2)": 1}
        assert result["protocols_are"] == "scans"
        assert result["taps"][0]["protocol_accuracy"] is not None
        self.run(a, *words)  # a picture alone has no protocols
        assert json.loads((tmp_path / "out.json").read_text())["chance"] is None

    @pytest.mark.parametrize(
        ("words", "error", "message"),
        [
            (["nowhere.dcm"], InputFileError, "no such file"),
            (["small.png"], InputFileError, "30 x 70 pixels are too small"),
            (["--encoder", "resnet50", "--taps", "relu3_1"], ArgumentError, "conv1_relu"),
            (["--window", "pink"], ArgumentError, "pink"),
        ],
    )
    def test_bad_input(self, ct, tmp_path, monkeypatch, words, error, message):
        monkeypatch.chdir(tmp_path)
        write_png(image(0, (70, 30)), "small.png")
        scan = [] if "." in words[0] else [ct]
        with pytest.raises(error, match=message):
            self.run(*scan, *words, "--weights", "none")
        assert [path.name for path in tmp_path.iterdir()] == ["small.png"]
