"""Feature maps, the two figures of a tap, and the contact sheet."""

import json
import re

import numpy as np
import pytest

from studies import common, features
from tests.models import image


def noise(*shape):
    return np.random.default_rng(5).normal(size=shape)


class TestGradientReadBack:
    def r2(self, stride, maps):
        pictures = np.stack([image(seed, (128, 128)) for seed in (0, 1)])
        return features.gradient_r2([maps(picture) for picture in pictures], pictures, stride)

    def test_gradient_itself(self):
        assert self.r2(1, lambda x: np.hypot(*np.gradient(x))[..., None]) > 0.999
        assert self.r2(1, lambda x: x[..., None]) < 0.1  # not a linear function of the image

    def test_noise_and_constants_give_nothing(self):
        assert abs(self.r2(4, lambda x: noise(32, 32, 60))) < 0.02
        assert self.r2(4, lambda x: np.ones((32, 32, 3))) == pytest.approx(0, abs=1e-6)
        assert features.gradient_r2([noise(64, 64, 3)], np.full((1, 64, 64), 0.5), 1) == 0.0

    def test_ridge_regression(self):
        x, y = noise(40, 6) * np.arange(1, 7) + 3, noise(40, 4)
        ((weights, offsets),) = features.ridge_regressions(x, y, [0.5])
        z = (x - x.mean(0)) / x.std(0)
        direct = np.linalg.solve(z.T @ z / 40 + 0.5 * np.eye(6), z.T @ (y - y.mean(0)) / 40)
        np.testing.assert_allclose(x @ weights + offsets, z @ direct + y.mean(0), atol=1e-10)


def test_fisher_ratio():
    x = [[np.array([0.0]), np.array([2.0])], [np.array([10.0]), np.array([12.0])]]
    assert features.fisher_ratio(x) == pytest.approx(50 / 2)  # variance of 1 and 11, of 0 and 2
    assert features.fisher_ratio([x[0], x[0]]) == 0.0
    assert features.fisher_ratio(x[:1]) is None
    assert features.fisher_ratio([part[:1] for part in x]) is None


@pytest.mark.slow
def test_command(ct, tmp_path, capsys):
    words = [ct, "--sheet", str(tmp_path / "a.png"), "--weights", "none"]
    features.main([*words, "--encoder", "vgg16", "--taps", "relu2_1", "relu1_1"])
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["encoder"], result["weights"]) == ("VGG16", "random")
    assert result["protocols"] == dict.fromkeys(features.CT_PROTOCOLS, 1)
    found = [(row["name"], row["stride"]) for row in result["taps"]]
    assert found == [("relu1_1", 1), ("relu2_1", 2)]
    assert all(0 < row["gradient_r2"] < 1 for row in result["taps"])
    assert "relu2_1 128 2 0." in capsys.readouterr().out


def test_figures_in_the_text_and_the_sheet():
    folder = common.ROOT / "docs" / "features"
    page = (common.ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    taps = json.loads((folder / "vgg16.json").read_text())["taps"]
    figures = {row["name"]: f"{row['gradient_r2']:.2f}" for row in taps}
    expected = [figures[name] for name in ("relu1_2", "relu2_1", "relu3_1", "relu4_1")]
    (found,) = re.findall(r"read back to ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+)\.", page)
    assert list(found) == expected
    assert (folder / "vgg16.png").stat().st_size < 300_000
