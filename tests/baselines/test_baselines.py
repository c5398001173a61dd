"""All baselines behind one call: names, checks, shapes, ranges."""

import keras
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from tfstyle import baselines
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.runs import stylize_scans

from ..models import image, small_model

STYLED = (
    "adain_mse",
    "gatys",
    "wct",
    "histogram_matching",
    "foreground_histogram_matching",
    "mean_and_spread",
    "nyul",
)
NAMES = {*STYLED, "contextual_transformation"}


@pytest.fixture(scope="module")
def ready():
    """One of each, small and untrained."""
    keras.utils.set_random_seed(0)
    encoder = VGG16(weights=None, depth="relu2_1")
    layers = {"content_layers": "relu2_1", "style_layers": ["relu1_1", "relu2_1"]}
    options = {
        "adain_mse": {"model": small_model("relu1_2")},
        "contextual_transformation": {
            "model": baselines.ContextualTransformation(encoder, widths=(4, 4))
        },
        "gatys": {"encoder": encoder, "steps": 2, **layers},
        "wct": {"model": small_model("relu2_1")},
    }
    return {name: baselines.get(name, **options.get(name, {})) for name in baselines.BASELINES}


def test_names(ready):
    assert set(baselines.BASELINES) == NAMES
    assert {name for name, one in ready.items() if one.needs_style} == set(STYLED)
    for name in NAMES:
        assert f"\n{name} " in baselines.__doc__
        assert ready[name].method == name


@pytest.mark.parametrize("name", sorted(NAMES))
class TestCall:
    def test_shapes_and_range(self, ready, name):
        shape = 2, 33, 18, 1
        content = np.random.default_rng(0).random(shape).astype(np.float32)
        kept = content.copy()
        generated = ready[name].stylize(content, image(1, (24, 20)))
        assert generated.shape == shape
        assert generated.dtype == np.float32
        assert 0 <= generated.min() <= generated.max() <= 1
        np.testing.assert_array_equal(content, kept)

    def test_strength_goes_from_the_content_to_all(self, ready, name):
        content, style = image(0, (24, 24)), image(1, (24, 24)) * 0.3
        none, half, full = (ready[name].stylize(content, style, s) for s in (0.0, 0.5, 1.0))
        if name not in ("adain_mse", "wct"):  # these decode the content's own features
            np.testing.assert_allclose(none, content, atol=1e-6)
        assert np.abs(full - none).max() > 1e-3
        assert 0 < np.abs(half - none).mean() < np.abs(full - none).mean()

    def test_missing_style(self, ready, name):
        if name in STYLED:
            with pytest.raises(ArgumentError, match=f"style: {name} needs a style image"):
                ready[name].stylize(image(0, (8, 8)))
        else:
            content = image(0, (16, 16))
            with_style = ready[name].stylize(content, image(1, (8, 8)))
            np.testing.assert_array_equal(ready[name].stylize(content), with_style)


def test_bad_input(ready):
    good = {"content": image(0, (8, 8)), "style": image(1, (8, 8))}
    for change, message in (
        ({"style": [np.eye(4), np.full((4, 4), np.nan)]}, r"style\[1\]: holds NaN"),
        ({"style": [np.eye(4)] * 2, "style_weights": [1.0]}, "need 2 finite weights"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
    ):
        for name in ("nyul", "contextual_transformation"):
            with pytest.raises(ArgumentError, match=message):
                ready[name].stylize(**{**good, **change})


@pytest.mark.parametrize("name", ["nyul", "wct", "gatys"])
def test_blend(ready, name):
    method = ready[name]
    content, a, b = image(0, (20, 20)), image(1, (24, 20)) * 0.4, 0.6 + 0.4 * image(2, (20, 20))
    one = method.stylize(content, a)
    np.testing.assert_allclose(method.stylize(content, [a]), one, atol=1e-5)
    np.testing.assert_allclose(
        method.stylize(content, [a, b], style_weights=[3, 0]), one, atol=1e-4
    )
    both = method.stylize(content, [a, b])
    swapped = method.stylize(content, [b, a], style_weights=[2, 2])
    np.testing.assert_allclose(both, swapped, atol=1e-4)
    assert np.abs(both - one).max() > 1e-3


class TestGet:
    def test_bad_options(self):
        for name, options, message in (
            ("nyul", {"seed": 1}, "nyul: has no option 'seed'; it has floor"),
            ("histogram_matching", {"bins": 3}, "histogram_matching: .*; it has none"),
            ("foreground_histogram_matching", {"floor": 1.0}, "floor: must lie in"),
            ("wct", {"threshold": -1.0}, "threshold"),
            ("gatys", {"start": "style"}, "start: must be one of"),
            ("gatys", {"weights": None, "style_layers": "relu9_1"}, "unknown layer 'relu9_1'"),
            ("gatys", {"encoder": VGG16(weights=None, depth="relu1_1")}, "lies behind 'relu1_1'"),
        ):
            with pytest.raises(ArgumentError, match=message):
                baselines.get(name, **options)

    def test_what_needs_training_says_so(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"model: contextual_transformation .*train"):
            baselines.get("contextual_transformation")
        for name in ("adain_mse", "contextual_transformation"):
            with pytest.raises(InputFileError, match="no such model file"):
                baselines.get(name, model=tmp_path / "none.keras")


class TestAdaINMSE:
    def test_mse_and_moments_are_the_papers_loss(self):
        """Huang and Belongie, equations 11 to 13, in NumPy."""
        model, taps = small_model("relu2_1"), ("relu1_1", "relu2_1")
        options = {"content_loss": "mse", "style_loss": "moments", "content_layers": "relu2_1"}
        model.compile(style_layers=taps, style_weight=2.0, **options)
        content, style = image(0, (1, 16, 16, 1)), image(1, (1, 16, 16, 1))
        terms = model.losses_of(content, style)
        x, y, g = (
            {k: np.asarray(v[0], np.float64) for k, v in model.encoder(images, taps=taps).items()}
            for images in (content, style, terms["generated"])
        )

        def mean_std(features):
            return features.mean((0, 1)), np.sqrt(features.var((0, 1)) + 1e-5)

        (mx, sx), (my, sy) = mean_std(x["relu2_1"]), mean_std(y["relu2_1"])
        target = sy * (x["relu2_1"] - mx) / sx + my
        content_loss = np.mean((g["relu2_1"] - target) ** 2)
        style_loss = sum(
            np.sqrt(np.mean((a - b) ** 2))
            for tap in taps
            for a, b in zip(mean_std(g[tap]), mean_std(y[tap]))
        )
        assert float(terms["loss"][0]) == pytest.approx(content_loss + 2 * style_loss, rel=1e-3)


def test_a_scan_without_a_style(ready, tmp_path):
    method, scans = ready["contextual_transformation"], [get_testdata_file("CT_small.dcm")]
    (done,) = stylize_scans(method, scans, [], tmp_path / "out")
    assert len(done.files) == 1
