"""The model: shapes, strength, blending, training, saving; bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.encoders import VGG16, VGG19, ResNet50
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.losses import ContextualLoss
from tfstyle.style_transfer import LOSS_TERMS, StyleTransfer

from .models import image, small_model


@pytest.fixture(scope="module")
def model():
    return small_model("relu3_1")


class TestStylize:
    @pytest.mark.parametrize("shape", [(1, 1), (3, 17, 12, 1)])
    def test_any_size(self, model, shape):
        for content in (np.random.default_rng(0).random(shape), np.ones(shape)):
            generated = model.stylize(content.astype(np.float32), image(1, (24, 40)))
            assert generated.shape == shape
            assert generated.dtype == np.float32
            assert 0 <= generated.min() <= generated.max() <= 1

    def test_is_the_decoder_of_adain(self, model):
        content, style = image(0, (1, 32, 32, 1)), image(1, (1, 32, 32, 1))
        mixed = tfstyle.layers.AdaIN()(model.encode(content), model.encode(style))
        expected = np.clip(model.decoder(mixed), 0, 1)
        np.testing.assert_allclose(model.stylize(content, style), expected, atol=1e-5)
        assert expected.std() > 0.01

    def test_strength(self, model):
        content, style = image(0, (32, 32)), image(1, (32, 32)) * 0.2
        itself = np.clip(model.decoder(model.encode(content[None, ..., None])), 0, 1)[0, ..., 0]
        np.testing.assert_allclose(model.stylize(content, style, strength=0.0), itself, atol=1e-5)
        distances = [
            np.abs(model.stylize(content, style, strength=s) - itself).mean()
            for s in (0.25, 0.5, 1.0)
        ]
        assert 0 < distances[0] < distances[1] < distances[2]

    def test_style_codes(self, model):
        contents, styles = image(0, (3, 20, 24, 1)), image(1, (3, 24, 28, 1))
        codes = model.encode_style(styles)
        assert codes.shape == (3, 2, 256)
        assert codes.dtype == np.float32
        for style, code in ((styles, codes), (styles[0], codes[:1])):
            np.testing.assert_allclose(
                model.stylize(contents, code), model.stylize(contents, style), atol=1e-5
            )
        blend = model.stylize(contents, [codes[:1], styles[1]])
        expected = model.stylize(contents, [styles[0], styles[1]])
        np.testing.assert_allclose(blend, expected, atol=1e-5)

    def test_bad_input(self, model):
        good = {"content": np.zeros((8, 8)), "style": np.zeros((8, 8))}
        for change, message in (
            ({"style": np.zeros((1, 2, 8))}, r"style: must be .* style code .*\(B, 2, 256\)"),
            ({"style": np.zeros((2, 2, 256))}, "style: batch of 2 for 1"),
            ({"content": np.zeros((0, 4))}, "content: is empty"),
            ({"content": np.full((8, 8), -1000.0)}, r"content: values lie in.*window"),
            ({"strength": float("nan")}, "strength"),
            ({"style": [np.zeros((8, 8))] * 2, "style_weights": [1, -1]}, "style_weights"),
        ):
            with pytest.raises(ArgumentError, match=message):
                model.stylize(**{**good, **change})


class TestConstruction:
    def test_decoder_mirrors_the_encoder(self):
        layer = "relu3_1"
        encoder = VGG16(weights=None, depth=layer)
        model = tfstyle.StyleTransfer(encoder, layer=layer)
        assert model.stride == encoder.tap(layer).stride
        x = image(0, (1, 48, 32, 1))
        assert model({"content": x, "style": x}).shape == (1, 48, 32, 1)
        convolutions = [s for s in model.decoder.steps if isinstance(s, keras.layers.Conv2D)]
        assert len(convolutions) == encoder.order(layer) + 1

    def test_papers_setting_is_the_default(self):
        model = tfstyle.StyleTransfer(VGG19(weights=None, depth="relu4_1"))
        assert model.layer == "relu4_1"
        assert model.decoder.channels == (512, 256, 256, 256, 256, 128, 128, 64, 64)

    def test_bad_layers(self):
        encoder, decoder = VGG16(weights=None, depth="relu2_1"), small_model("relu1_1").decoder
        for options, message in (
            ({"layer": "relu7_1"}, "unknown layer 'relu7_1'"),
            ({"layer": "relu3_1"}, "'relu3_1'.*depth='relu3_1'"),
            ({"layer": "image"}, "nothing to decode"),
            ({"layer": "relu2_1", "decoder": decoder}, "takes 64 channels of stride 1.*128 of str"),
        ):
            with pytest.raises(ArgumentError, match=message):
                tfstyle.StyleTransfer(encoder, **options)


def pairs():
    content, style = image(3, (2, 16, 16, 1)), image(4, (2, 16, 16, 1)) ** 2
    return tf.data.Dataset.from_tensors({"content": content, "style": style}).repeat()


class TestTraining:
    @pytest.mark.parametrize(
        ("content_loss", "style_loss"), [("contextual", "moments"), ("mse", "gram")]
    )
    def test_loss_falls_and_terms_are_in_the_history(self, content_loss, style_loss):
        model = small_model("relu1_2", depth="relu2_1")
        model.compile(
            optimizer=keras.optimizers.Adam(1e-3),
            content_loss=content_loss,
            style_loss=style_loss,
            content_layers=["relu1_2"],
            style_layers={"image": 1.0, "relu2_1": 0.5},
            histogram_weight=1.0,
            tv_weight=0.1,
            jit_compile=False,
        )
        frozen = [np.array(v) for v in model.encoder.variables]
        history = model.fit(pairs(), epochs=4, steps_per_epoch=4, verbose=0).history
        assert set(history) == set(LOSS_TERMS)
        assert history["loss"][-1] < history["loss"][0]
        for before, after in zip(frozen, model.encoder.variables):
            np.testing.assert_array_equal(before, after)

    def test_total_is_the_weighted_sum(self):
        model = small_model("relu1_2")
        model.compile(
            content_layers=["relu1_2"],
            style_layers=["relu1_1"],
            style_weight=3.0,
            content_weight=2.0,
            histogram_weight=5.0,
            paired_weight=7.0,
            tv_weight=11.0,
        )
        x, y = image(0, (2, 16, 16, 1)), image(1, (2, 16, 16, 1))
        terms = {k: np.asarray(v) for k, v in model.losses_of(x, y, np.array([1.0, 0.0])).items()}
        names = ("content", "style", "histogram", "paired", "tv")
        total = sum(w * terms[f"{name}_loss"] for w, name in zip((2, 3, 5, 7, 11), names))
        np.testing.assert_allclose(terms["loss"], total, rtol=1e-5)
        expected = np.abs(terms["generated"] - y).mean((1, 2, 3)) * [1, 0]
        np.testing.assert_allclose(terms["paired_loss"], expected, rtol=1e-5)

    def test_contextual_loss_with_settings_of_its_own(self, tmp_path):
        model = small_model("relu1_2")
        loss = ContextualLoss(bandwidth=0.4, distance="l2", direction="symmetric")
        layers = {"content_layers": ["relu1_2"], "style_layers": ["relu1_1"]}
        model.compile("sgd", content_loss=loss, jit_compile=False, **layers)
        history = model.fit(pairs().take(2), verbose=0).history
        assert np.isfinite(history["loss"]).all()
        model.save(tmp_path / "model.keras")
        again = StyleTransfer.load(tmp_path / "model.keras")
        assert again._contextual.settings == loss.settings

    def test_half_precision_policy(self):
        """Features in half precision, losses in float32; the step moves the decoder."""
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = small_model("relu1_2")
            # The usual 2**15 takes some steps to come down.
            optimizer = keras.optimizers.Adam()
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
            layers = {"content_layers": ["relu1_2"], "style_layers": ["relu1_1"]}
            model.compile(optimizer, jit_compile=False, **layers)
            losses = model.losses_of(image(0, (2, 16, 16, 1)), image(1, (2, 16, 16, 1)))
            before = [np.array(v) for v in model.trainable_variables]
            history = model.fit(pairs().take(2), verbose=0).history
        finally:
            keras.config.set_dtype_policy("float32")
        assert losses["content_loss"].dtype == tf.float32
        assert np.isfinite(history["loss"]).all()
        after = [np.array(v) for v in model.trainable_variables]
        assert all(np.isfinite(v).all() for v in after)
        assert any(np.abs(a - b).max() > 0 for a, b in zip(before, after))


class TestSaving:
    def test_loaded_it_goes_on(self, tmp_path):
        model = small_model("relu1_2")
        settings = {"content_layers": ["relu1_2"], "style_layers": {"relu1_1": 0.3}}
        settings["jit_compile"] = False
        model.compile(optimizer=keras.optimizers.Adam(1e-4), style_weight=2.5, **settings)
        model.fit(pairs(), steps_per_epoch=2, verbose=0)
        model.save(tmp_path / "model.keras")
        again = tfstyle.StyleTransfer.load(tmp_path / "model.keras")
        images = image(5, (20, 20)), image(6, (20, 20))
        np.testing.assert_allclose(again.stylize(*images), model.stylize(*images), atol=1e-5)
        assert int(again.optimizer.iterations.numpy()) == 2
        assert again.get_compile_config()["style_weight"] == 2.5
        assert again.get_compile_config()["style_layers"] == {"relu1_1": 0.3}

    def test_another_family_of_encoders(self, tmp_path):
        """With batch normalization and shortcuts: trained, it comes back from a preset."""
        layer, (pair,) = "conv2_block1_out", pairs().take(1)
        encoder = ResNet50(weights=None, depth=layer)
        model = StyleTransfer(encoder, layer=layer)
        frozen, before = encoder.get_weights(), model.decoder.get_weights()
        layers = {"content_layers": [layer], "style_layers": [encoder.taps_table[0].name, layer]}
        model.compile("adam", content_loss="mse", run_eagerly=True, **layers)
        assert np.isfinite(model.train_on_batch(pair)).all()
        assert not np.array_equal(before[-2], model.decoder.get_weights()[-2])
        for a, b in zip(frozen, encoder.get_weights()):
            np.testing.assert_array_equal(a, b)
        again = StyleTransfer.from_preset(model.save_to_preset(tmp_path / "preset", half=False))
        np.testing.assert_allclose(again(pair), model(pair), atol=1e-5 * np.abs(model(pair)).max())

    def test_bad_files(self, tmp_path):
        (tmp_path / "damaged.keras").write_bytes(b"not a zip")
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        other.save(tmp_path / "other.keras")
        for name, message in (
            ("none", "no such model"),
            ("damaged", r"damaged\.keras"),
            ("other", "Sequential, not a StyleTransfer"),
        ):
            with pytest.raises(InputFileError, match=message):
                tfstyle.StyleTransfer.load(tmp_path / f"{name}.keras")
