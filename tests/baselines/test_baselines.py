"""All baselines behind one call: names, checks, shapes, ranges."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from tfstyle import baselines, presets
from tfstyle.encoders import VGG16
from tfstyle.errors import ArgumentError, InputFileError, MissingPackageError
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
    return {name: baselines.get(name, **options.get(name, {})) for name in baselines.names()}


def test_names(ready):
    assert set(baselines.names()) == NAMES
    assert {name for name, one in ready.items() if one.needs_style} == set(STYLED)
    for name in NAMES:
        assert f"\n{name} " in baselines.__doc__
        assert ready[name].method == name


@pytest.mark.parametrize("name", sorted(NAMES))
class TestCall:
    @pytest.mark.parametrize("shape", [(1, 1), (2, 33, 18, 1)])
    def test_shapes_and_range(self, ready, name, shape):
        content = np.random.default_rng(0).random(shape).astype(np.float32)
        kept = content.copy()
        style = np.full((16, 16), 0.3) if shape == (1, 1) else image(1, (24, 20))
        generated = ready[name].stylize(content, style)
        assert generated.shape == shape
        assert generated.dtype == np.float32
        assert np.isfinite(generated).all()
        assert generated.min() >= 0.0
        assert generated.max() <= 1.0
        np.testing.assert_array_equal(content, kept)

    def test_batch_equals_single(self, ready, name):
        contents, styles = image(0, (3, 20, 24, 1)), image(1, (3, 24, 18, 1))
        batch = ready[name].stylize(contents, styles, batch_size=2)
        for i in range(3):
            one = ready[name].stylize(contents[i], styles[i])
            np.testing.assert_allclose(batch[i], one, atol=1e-5)

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": np.full((4, 4), 2.0)}, "content: values lie in"),
        ({"style": [np.eye(4), np.full((4, 4), np.nan)]}, r"style\[1\]: holds NaN"),
        ({"style": image(0, (2, 4, 4, 1))}, "batch of 2 for 1 contents"),
        ({"strength": 1.5}, "strength: must lie in"),
        ({"style": [np.eye(4)] * 2, "style_weights": [1.0]}, "need 2 finite weights"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
    ],
)
def test_bad_input(ready, change, message):
    good = {"content": image(0, (8, 8)), "style": image(1, (8, 8))}
    for name in ("nyul", "contextual_transformation"):
        with pytest.raises(ArgumentError, match=message):
            ready[name].stylize(**{**good, **change})


@pytest.mark.parametrize("name", STYLED)
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
    def test_unknown_option(self):
        with pytest.raises(ArgumentError, match=r"nyul: has no option 'seed'; it has floor"):
            baselines.get("nyul", seed=1)
        with pytest.raises(ArgumentError, match=r"histogram_matching: .*; it has none"):
            baselines.get("histogram_matching", bins=3)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("foreground_histogram_matching", {"floor": 1.0}, "floor: must lie in"),
            ("mean_and_spread", {"foreground": True, "floor": float("nan")}, "floor: must lie in"),
            ("nyul", {"floor": "dark"}, "nyul: an option cannot be used"),
            ("wct", {"model": []}, "model: the list of models is empty"),
            ("wct", {"threshold": -1.0}, "threshold"),
            ("gatys", {"start": "style"}, "start: must be one of"),
            ("gatys", {"steps": 0}, "steps: must be a whole number"),
            ("gatys", {"style_weight": -1.0}, "style_weight: must be at least 0"),
            ("gatys", {"encoder": "alexnet"}, "encoder: must be one of .*, received .alexnet."),
            ("gatys", {"weights": None, "style_layers": "relu9_1"}, "unknown layer 'relu9_1'"),
            ("gatys", {"encoder": VGG16(weights=None, depth="relu1_1")}, "lies behind 'relu1_1'"),
        ],
    )
    def test_bad_options(self, name, options, message):
        with pytest.raises(ArgumentError, match=message):
            baselines.get(name, **options)

    def test_what_needs_training_says_so(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"model: contextual_transformation .*train"):
            baselines.get("contextual_transformation")
        for name in ("adain_mse", "contextual_transformation"):
            with pytest.raises(InputFileError, match="no such model file"):
                baselines.get(name, model=tmp_path / "none.keras")

    def test_missing_package(self, monkeypatch):
        monkeypatch.setattr("tfstyle.errors.find_spec", lambda package: None)
        for name in ("histogram_matching", "foreground_histogram_matching"):
            with pytest.raises(MissingPackageError, match=r"scikit-image: pip install 'tfstyle\[b"):
                baselines.get(name)


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

    def test_of_a_file_and_of_the_preset(self, ready, tmp_path):
        content, style = image(0, (20, 20)), image(1, (20, 20))
        ready["adain_mse"].model.save(tmp_path / "model.keras")
        found = baselines.get("adain_mse", model=tmp_path / "model.keras")
        expected = ready["adain_mse"].stylize(content, style)
        np.testing.assert_allclose(found.stylize(content, style), expected, atol=1e-5)
        card = presets.card("vgg16_ct_mse")
        assert card.get("training", card.get("recipe"))["content_loss"] == "mse"
        assert baselines.get("adain_mse").model.encoder.name == "vgg16"


def test_a_scan_without_a_style(ready, tmp_path):
    method, scans = ready["contextual_transformation"], [get_testdata_file("CT_small.dcm")]
    (done,) = stylize_scans(method, scans, [], tmp_path / "out")
    assert len(done.files) == 1
