"""Feature maps, the two figures of a tap, and the contact sheet."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from pydicom.data import get_testdata_file

from tfstyle.data import write_png
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.experiments import features, sheet
from tfstyle.experiments.features import TapFeatures, study_features, write_features
from tfstyle.experiments.sheet import contact_sheet

from ..models import image


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
        regression = features._Regression(stride, (128, 128))
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
        regression = features._Regression(1, (64, 64))
        regression.add(noise(64, 64, 3), np.full((64, 64), 0.5))
        assert regression.r2() == 0.0

    def test_sums_are_ridge_regression(self):
        x, y = noise(40, 6) * np.arange(1, 7) + 3, noise(40, 4)
        weights, offsets, means = features._Sums(x, y).fit(0.5)
        z = (x - x.mean(0)) / x.std(0)
        direct = np.linalg.solve(z.T @ z / 40 + 0.5 * np.eye(6), z.T @ (y - y.mean(0)) / 40)
        np.testing.assert_allclose(x @ weights + offsets, z @ direct + y.mean(0), atol=1e-10)
        new_x, new_y = noise(9, 6), noise(9, 4)
        sums = features._Sums(new_x[:5], new_y[:5]) + features._Sums(new_x[5:], new_y[5:])
        error = ((new_y - new_x @ weights - offsets) ** 2).sum()
        assert sums.error((weights, offsets, means)) == pytest.approx(error)
        assert sums.variation((weights, offsets, means)) == pytest.approx(
            ((new_y - y.mean(0)) ** 2).sum()
        )


class TestSeparation:
    def test_known_ratio(self):
        x = [[np.array([[0.0], [2.0]])], [np.array([[10.0], [12.0]])]]
        ratio, accuracy = features._separation(x, aligned=False)
        assert ratio == pytest.approx(50 / 2)  # variance of 1 and 11, of 0 and 2
        assert accuracy == 1.0

    def test_a_sample_does_not_vote_for_itself(self):
        # Each is nearest to its own mean only as long as it counts in it.
        x = [[np.array([[0.0], [10.0]])], [np.array([[4.0], [7.0]])]]
        assert features._separation(x, aligned=False)[1] < 0.5

    def test_protocols_that_do_not_differ(self):
        x = [[noise(1, 50)[:, :1] + i] for i in range(8)]
        same = [[part[0] for part in x]] * 3
        ratio, accuracy = features._separation(same, aligned=True)
        assert ratio == pytest.approx(0, abs=1e-12)
        assert accuracy == pytest.approx(1 / 3)  # ties go to the first

    def test_one_protocol(self):
        assert features._separation([[np.ones((2, 3))]], aligned=False) == (None, None)

    def test_moments_of_the_map_or_its_quarters(self):
        maps = np.zeros((4, 6, 2), np.float32)
        maps[:2, 3:, 1] = 2.0
        whole = features._moments(maps, quartered=False)
        np.testing.assert_allclose(whole[0, :2], [0, 0.5], atol=1e-6)
        quarters = features._moments(maps, quartered=True)
        np.testing.assert_allclose(quarters[:, 1], [0, 2, 0, 0], atol=1e-6)
        assert quarters.shape == (4, 4)


class TestStudy:
    def test_rows(self, encoder):
        images = image(0, (2, 64, 96, 1))
        done = []
        rows = study_features(
            encoder,
            images,
            {"dark": images * 0.3, "bright": 0.7 + images * 0.3},
            taps=["relu2_1", "relu1_1"],
            channels=3,
            aligned=True,
            progress=lambda *step: done.append(step),
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
        assert done[-1] == (6, 6, "relu2_1")
        assert done[:2] == [(1, 6, "content"), (2, 6, "content")]
        assert json.loads(json.dumps(first.as_dict()))["shown"] == list(first.shown)

    def test_crops_to_the_stride(self, encoder):
        rows = study_features(encoder, image(0, (1, 65, 71, 1)), taps=["relu2_1"])
        assert rows[0].maps.shape == (8, 32, 35)
        assert rows[0].fisher_ratio is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"channels": 0}, "channels"),
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


class TestSheet:
    def row(self, **changes):
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
        return TapFeatures(**{**values, **changes})

    def draw(self, rows, **options):
        settings = {"title": "VGG16", "subtitle": "scan", "protocols": {}, **options}
        data = contact_sheet(rows, image=np.eye(64), gradient=np.eye(64), **settings)
        return tf.io.decode_png(data).numpy()[..., 0]

    def test_maps_are_on_it(self):
        drawn = self.draw([self.row()])
        x = sheet.MARGIN + sheet.LABEL
        found = False
        for y in range(drawn.shape[0] - sheet.TILE):
            tile = drawn[y : y + sheet.TILE, x : x + sheet.TILE]
            found |= np.array_equal(tile, np.kron(np.eye(4), np.ones((26, 26))) * 255)
        assert found

    def test_words_differ(self):
        assert (self.draw([self.row()]) != self.draw([self.row(name="relu9_1")])).any()
        assert (self.draw([self.row()]) != self.draw([self.row(gradient_r2=0.51)])).any()
        assert (self.draw([self.row()]) != self.draw([self.row(fisher_ratio=None)])).any()

    def test_any_figure_and_words(self):
        rows = [
            self.row(name="é" * 300, gradient_r2=-0.2, fisher_ratio=1e9),
            self.row(name="", maps=np.ones((1, 1, 90)), shown=(1000,)),
        ]
        drawn = self.draw(rows, title="x" * 500, protocols={"p" * 99: np.ones((64, 70))})
        assert (drawn[:, -2:] == sheet.PAPER).all()

    def test_resizing(self):
        np.testing.assert_allclose(sheet._resize(np.arange(6.0)[:, None], 3), [[0.5], [2.5], [4.5]])
        np.testing.assert_allclose(sheet._resize(np.arange(3.0)[:, None], 2), [[1 / 3], [5 / 3]])
        np.testing.assert_allclose(sheet._resize(np.arange(2.0)[:, None], 3), [[0], [0], [1]])


class TestFiles:
    def test_ct(self, ct, encoder, tmp_path):
        target = tmp_path / "sheet.png"
        result = write_features(ct, target, encoder=encoder, taps=["relu1_1"], channels=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.json", "sheet.png"]
        assert json.loads((tmp_path / "sheet.json").read_text()) == result
        assert result["content"]["size"] == [128, 128]
        assert result["protocols"] == dict.fromkeys(features.CT_PROTOCOLS, 1)
        assert result["chance"] == pytest.approx(1 / 6)
        (row,) = result["taps"]
        assert (row["name"], row["layer"], len(row["shown"])) == ("relu1_1", "block1_conv1", 2)
        assert 0.5 < row["gradient_r2"] < 1
        assert tf.io.decode_png(target.read_bytes()).shape[-1] == 1

    def test_random_weights_say_so(self, ct, tmp_path):
        options = {"encoder": "resnet50", "weights": None, "taps": ["conv1_relu"], "protocols": ()}
        result = write_features(ct, tmp_path / "a.png", **options)
        assert (result["weights"], result["seed"], result["encoder"]) == ("random", 0, "ResNet50")
        assert result["taps"][0]["fisher_ratio"] is None
        again = write_features(ct, tmp_path / "b.png", **options)
        assert again["taps"] == result["taps"]
        assert write_features(ct, tmp_path / "c.png", seed=1, **options)["taps"] != result["taps"]

    def test_styles_are_the_protocols(self, encoder, tmp_path):
        for number, name in enumerate(["a", "b"]):
            write_png(image(number, (80, 70)) * (1 - 0.5 * number), tmp_path / f"{name}.png")
        result = write_features(
            tmp_path / "a.png",
            tmp_path / "out.png",
            encoder=encoder,
            styles=[tmp_path / "b.png", tmp_path / "b.png"],
            taps=["relu1_1"],
            size=80,
        )
        assert result["protocols"] == {"a": 1, "b": 1, "b (2)": 1}
        assert result["protocols_are"] == "scans"
        assert result["taps"][0]["protocol_accuracy"] is not None

    def test_picture_alone_has_no_protocols(self, encoder, tmp_path):
        write_png(image(0, (64, 64)), tmp_path / "a.png")
        result = write_features(tmp_path / "a.png", tmp_path / "out.png", encoder=encoder)
        assert result["chance"] is None
        assert [row["name"] for row in result["taps"]] == ["relu1_1", "relu1_2", "relu2_1"]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"output": "sheet.jpg"}, OutputError, r"ends in \.png"),
            ({"output": "nowhere/sheet.png"}, OutputError, "folder does not exist"),
            ({"scan": "nowhere.dcm"}, InputFileError, "no such file"),
            ({"scan": "small.png"}, InputFileError, "30 x 70 pixels are too small"),
            ({"encoder": "lenet"}, ArgumentError, "densenet121"),
            ({"encoder": "resnet50", "taps": ["relu1_1"]}, ArgumentError, "ResNet50"),
            ({"size": 32}, ArgumentError, "size: must be at least 64"),
            ({"slices": 0}, ArgumentError, "slices"),
            ({"window": "pink"}, ArgumentError, "pink"),
        ],
    )
    def test_bad_input(self, ct, encoder, tmp_path, monkeypatch, options, error, message):
        monkeypatch.chdir(tmp_path)
        write_png(image(0, (70, 30)), "small.png")
        settings = {"scan": ct, "output": "sheet.png", "encoder": encoder, **options}
        with pytest.raises(error, match=message):
            write_features(**settings)
        assert [path.name for path in tmp_path.iterdir()] == ["small.png"]
