"""Gatys' method: its equations in NumPy, L-BFGS, what it promises."""

import keras
import numpy as np
import pytest

from tfstyle.baselines import Gatys
from tfstyle.encoders import VGG16, VGG19, ResNet50

from ..models import image

TAPS = ("relu1_1", "relu1_2", "relu2_1")


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return VGG16(weights=None, depth="relu2_1")


def small(encoder, **options):
    layers = {"content_layers": "relu2_1", "style_layers": ["relu1_1", "relu2_1"]}
    return Gatys(encoder, **{"steps": 6, **layers, **options})


def gram(features):
    """Equation 3: inner products of the vectorized maps."""
    flat = features.reshape(-1, features.shape[-1]).T
    return flat @ flat.T


class TestEquations:
    def test_content_style_and_total(self, encoder):
        gatys = small(
            encoder,
            content_layers={"relu2_1": 1.0, "relu1_2": 0.5},
            style_layers={"relu1_1": 0.2, "relu2_1": 0.7},
            content_weight=0.3,
            style_weight=40.0,
        )
        images = [image(seed, (1, 16, 20, 1)) for seed in range(3)]
        f, p, a = (
            {tap: np.asarray(v[0], np.float64) for tap, v in encoder(x, taps=TAPS).items()}
            for x in images
        )
        content = 0.0
        for tap, share in (("relu2_1", 1.0), ("relu1_2", 0.5)):
            equation_1 = 0.5 * np.sum((f[tap] - p[tap]) ** 2)
            content += share * equation_1 * 2 / f[tap].size
        style = 0.0
        for tap, share in (("relu1_1", 0.2), ("relu2_1", 0.7)):
            height, width, channels = f[tap].shape
            difference = gram(f[tap]) - gram(a[tap])
            equation_4 = np.sum(difference**2) / (4 * channels**2 * (height * width) ** 2)
            style += share * equation_4
        expected = 0.3 * content + 40.0 * style
        found = gatys.loss(images[0], gatys.features(images[1]), [(1.0, gatys.features(images[2]))])
        assert float(found) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.slow
    def test_layers_of_the_papers(self):
        gatys = Gatys("vgg19", weights=None)
        assert gatys.content_layers == {"relu4_2": 1.0}
        assert gatys.style_layers == {f"relu{n}_1": 0.2 for n in range(1, 6)}
        assert isinstance(gatys.encoder, VGG19)
        assert gatys.encoder.depth == "relu5_1"
        other = Gatys("resnet50", weights=None, steps=1)
        assert tuple(other.content_layers) == ResNet50.default_content_layers
        assert tuple(other.style_layers) == ResNet50.default_style_layers
        assert other.stylize(image(0, (33, 40)), image(1, (32, 32))).shape == (33, 40)


@pytest.mark.parametrize("start", ["content", "noise"])
def test_loss_falls_and_runs_agree(encoder, start):
    seen = []
    gatys = small(encoder, start=start, steps=8, progress=lambda *step: seen.append(step))
    content, style = image(0, (17, 20)), image(1, (24, 20)) * 0.4
    first = gatys.stylize(content, style)
    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {steps for _, steps, _ in seen} == {8}
    assert seen[-1][2] < 0.9 * seen[0][2]
    assert np.abs(first - content).max() > 0.01
    np.testing.assert_array_equal(gatys.stylize(content, style), first)
