"""Contextual transformation: the equation, training with fit, saving, exporting."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.baselines import CascadedRefinement, ContextualTransformation, get
from tfstyle.data import pair_dataset, spine_phantom
from tfstyle.encoders import VGG16
from tfstyle.errors import InputFileError
from tfstyle.export import export_stylize
from tfstyle.losses import ContextualLoss

from ..losses.test_losses import contextual_reference
from ..models import image

LAYERS = {"content_layers": "relu2_1", "style_layers": {"relu1_2": 0.5, "relu2_1": 1.0}}


def small(seed=0):
    keras.utils.set_random_seed(seed)
    return ContextualTransformation(VGG16(weights=None, depth="relu2_1"), widths=(6, 4))


@pytest.fixture(scope="module")
def trained():
    """A few steps toward a brighter domain."""
    model = small()
    model.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=False, **LAYERS)
    scans = [spine_phantom(seed, size=64).scan for seed in range(2)]
    pairs = pair_dataset(
        scans, windows=("soft_tissue",), style_windows=("brain",), crop=16, batch_size=2
    )
    history = model.fit(pairs, steps_per_epoch=5, epochs=3, verbose=0, shuffle=False)
    return model, history.history


class TestLoss:
    def test_equation(self):
        model = small()
        model.compile(
            content_weight=0.7, style_weight=2.0, contextual=ContextualLoss(bandwidth=0.3), **LAYERS
        )
        content, style = image(0, (2, 12, 16, 1)), image(1, (2, 14, 10, 1)) * 0.5
        generated = model({"content": content})
        terms = model.losses_of(content, style, generated)
        taps = ("relu1_2", "relu2_1")
        x, y, g = (
            {k: np.asarray(v) for k, v in model.encoder(images, taps=taps).items()}
            for images in (content, style, generated)
        )
        against_content = contextual_reference(g["relu2_1"], x["relu2_1"], 0.3)
        against_style = 0.5 * contextual_reference(g["relu1_2"], y["relu1_2"], 0.3)
        against_style += contextual_reference(g["relu2_1"], y["relu2_1"], 0.3)
        for name, expected in (
            ("content_loss", against_content),
            ("style_loss", against_style),
            ("loss", 0.7 * against_content + 2.0 * against_style),
        ):
            np.testing.assert_allclose(terms[name], expected, rtol=1e-3)

    def test_layers_of_the_paper(self):
        model = ContextualTransformation("vgg19", weights=None, widths=(2, 2))
        assert model.encoder.depth == "relu4_2"
        model.compile()
        assert model._settings["content_layers"] == {"relu4_2": 1.0}
        assert model._settings["style_layers"] == {"relu3_2": 1.0, "relu4_2": 1.0}


class TestTraining:
    def test_loss_falls(self, trained):
        model, history = trained
        assert set(history) == {"loss", "content_loss", "style_loss"}
        assert history["loss"][-1] < history["loss"][0]
        assert int(model.optimizer.iterations.numpy()) == 15


def test_features_are_refined_from_small_to_full_size():
    network = CascadedRefinement((8, 6, 4))
    assert network.stride == 4
    images = image(0, (2, 16, 24, 1))
    assert network(images).shape == (2, 16, 24, 1)
    assert network.compute_output_shape((2, 16, None, 1)) == (2, 16, None, 1)
    # A change of one pixel reaches all through the smallest size.
    changed = images.copy()
    changed[0, 0, 0, 0] += 0.5
    difference = np.abs(np.asarray(network(changed)) - np.asarray(network(images)))
    assert difference[0, -1, -1, 0] > 0
    assert difference[1].max() < 1e-6


class TestSaving:
    def test_by_name(self, trained, tmp_path):
        model, _ = trained
        assert get("contextual_transformation", model=model) is model
        model.save(tmp_path / "model.keras")
        again, content = ContextualTransformation.load(tmp_path / "model.keras"), image(5, (20, 20))
        assert int(again.optimizer.iterations.numpy()) == 15
        for place in (tmp_path / "model.keras", tmp_path):
            again = get("contextual_transformation", model=str(place))
            np.testing.assert_allclose(again.stylize(content), model.stylize(content), atol=1e-5)
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
        with pytest.raises(InputFileError, match="Sequential, not a ContextualTransformation"):
            get("contextual_transformation", model=tmp_path / "other.keras")

    def test_export(self, trained, tmp_path):
        model, _ = trained
        folder = export_stylize(model, tmp_path / "stylize")
        served = tf.saved_model.load(str(folder))
        content = image(6, (2, 19, 26, 1))
        found = served.signatures["stylize"](content=content, style=image(7, (1, 5, 6, 1)))
        np.testing.assert_allclose(found["generated"], model.stylize(content), atol=1e-4)
