"""StyleAugmentation alone, in tf.data, in models, and saved."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import image, small_model
from tfstyle import StyleAugmentation, StyleBank
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, InputFileError, WeightsError
from tfstyle.metrics import structure_scores

SIZE = 16


@pytest.fixture(scope="module")
def images():
    return image(1, (6, SIZE, SIZE, 1))


def always(model, styles, **options):
    """A layer that stylizes every image in full."""
    return StyleAugmentation(model, styles, p=1, strength=1, **{"gate": None, **options})


def changed(before, after) -> np.ndarray:
    """Which images differ."""
    return np.any(np.asarray(before) != np.asarray(after), axis=(1, 2, 3))


class TestImages:
    def test_are_those_of_stylize(self, model, bank, images):
        weighted = StyleBank(bank.codes, weights=np.array([0, 2.0, 0]))
        layer = StyleAugmentation(model, weighted, p=1, strength=0.7, gate=None)
        traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 1))])
        for run, batch in ((layer, images), (traced, image(4, (1, 40, 12, 1)))):
            expected = model.stylize(batch, bank.codes[1:2], strength=0.7)
            np.testing.assert_allclose(run(batch), expected, atol=1e-5)
            assert changed(batch, expected).all()
            empty = np.zeros((0, 16, 16, 1), np.float32)
            assert run(empty).shape == empty.shape

    def test_styles_and_strengths_differ_within_a_batch(self, model, bank, images):
        batch = np.repeat(images[:1], 24, axis=0)
        fixed = np.asarray(always(model, bank, seed=5)(batch))
        expected = [model.stylize(images[0], code[None]) for code in bank.codes]
        match = np.abs(fixed[:, None] - np.stack(expected)[None]).max(axis=(2, 3, 4)) < 1e-5
        assert (match.sum(axis=1) == 1).all()
        assert match.any(axis=0).all()
        drawn = StyleAugmentation(model, bank.codes[:1], p=1, strength=(0, 1), gate=None, seed=2)
        assert len(np.unique(np.asarray(drawn(batch)).mean(axis=(1, 2, 3)).round(6))) == 24

    def test_batch_is_another_image_of_the_batch(self, model, images):
        levels = np.linspace(0.2, 1, 6, dtype=np.float32)[:, None, None, None]
        batch = images[:1] * levels
        results = [np.asarray(always(model, "batch", seed=s)(batch)) for s in range(12)]
        possible = np.stack([[model.stylize(a, b) for b in batch] for a in batch])
        taken = np.zeros((6, 6), bool)
        for result in results:
            near = np.abs(result[:, None] - possible).max(axis=(2, 3, 4)) < 1e-5
            assert (near.sum(axis=1) == 1).all()
            taken |= near
        assert not taken.diagonal().any()
        assert taken.sum() > 20  # of 30
        layer = always(model, "batch")  # one image has no other
        np.testing.assert_array_equal(layer(images[:1]), images[:1])
        assert layer.counts == {"seen": 1, "stylized": 0, "gated": 0}

    @pytest.mark.parametrize(("dtype", "value_range"), [("uint8", (0, 255)), ("float64", (-1, 1))])
    def test_value_range(self, model, bank, images, dtype, value_range):
        low, high = value_range
        values = (low + (high - low) * images).astype(dtype)
        result = always(model, bank.codes[:1], value_range=value_range)(values)
        unit = (values.astype(np.float32) - low) / (high - low)
        expected = low + (high - low) * model.stylize(unit, bank.codes[:1])
        assert result.dtype == tf.float32
        np.testing.assert_allclose(result, expected, atol=1e-5 * (high - low))

    def test_what_is_no_gray_level_is_refused(self, model, bank, images):
        layer = StyleAugmentation(model, bank, p=0.5, gate=None)
        half = np.concatenate([images[:3], 2000 * images[3:] - 1000])
        graph = tf.function(layer)
        for wrong in (255 * images, half, images + np.inf):
            with pytest.raises(ArgumentError, match=r"images: .*(or give value_range|infinite)"):
                layer(wrong)
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"images: (values|holds)"):
                graph(wrong)

    def test_nan_is_black_and_spoils_no_other_pixel(self, model, bank, images):
        values = (400 * images - 160).astype(np.float32)
        values[:, 3, 4] = np.nan
        black = np.where(np.isnan(values), np.float32(-160), values)
        layer = StyleAugmentation(model, bank, p=0.5, gate=None, value_range=(-160, 240))
        for run in (layer, tf.function(layer)):
            np.testing.assert_array_equal(run(values, seed=(1, 2)), run(black, seed=(1, 2)))

    def test_channels_are_gray_images_of_one_style(self, model, bank):
        volume = image(3, (4, SIZE, SIZE, 3))
        result = always(model, bank, seed=9)(volume, seed=(1, 2))
        apart = [always(model, bank, seed=9)(volume[..., i : i + 1], seed=(1, 2)) for i in range(3)]
        np.testing.assert_allclose(result, np.concatenate(apart, axis=-1), atol=1e-5)
        thrice = always(model, "batch")(np.repeat(volume[..., :1], 3, axis=-1), seed=(3, 4))
        once = always(model, "batch")(volume[..., :1], seed=(3, 4))
        np.testing.assert_allclose(thrice, np.repeat(once, 3, axis=-1), atol=1e-5)

    def test_identity_outside_of_training(self, model, bank, images):
        layer = always(model, bank)
        np.testing.assert_array_equal(layer(images, training=False), images)
        whole = (255 * images).astype(np.uint8)
        same = always(model, bank, value_range=(0, 255))(whole, training=False)
        np.testing.assert_array_equal(same, whole)
        assert layer.counts["seen"] == 0


@pytest.mark.parametrize(("p", "allowed"), [(0.5, {3}), (0.4, {2, 3})])
def test_share_of_a_batch(model, bank, images, p, allowed):
    layer = StyleAugmentation(model, bank, p=p, gate=None, seed=0)
    run = tf.function(layer)
    masks = np.stack([changed(images, run(images)) for _ in range(60)])
    assert set(masks.sum(axis=1)) == allowed
    # 360 draws: six standard deviations.
    assert abs(masks.mean() - p) <= 6 * np.sqrt(p * (1 - p) / 360)
    if p == 0.5:
        assert (np.abs(masks.mean(axis=0) - p) < 0.4).all()


def test_dictionaries_in_a_pipeline(model, bank, images):
    masks = (images > 0.5).astype(np.uint8)
    boxes = tf.ragged.constant([[[0.0] * 4] * (i % 3) for i in range(6)], ragged_rank=1)
    others = {
        "segmentation_masks": masks,
        "labels": np.arange(6, dtype=np.int64),
        "bounding_boxes": {"boxes": boxes},
        "name": [f"scan {i}" for i in range(6)],
    }
    data = tf.data.Dataset.from_tensor_slices({"images": (255 * images).astype(np.uint8), **others})
    layer = always(model, bank, value_range=(0, 255))
    for dataset in (data.batch(6).map(layer), data.map(layer).ragged_batch(6)):
        (batch,) = dataset
        assert batch["images"].dtype == tf.float32
        found = batch["segmentation_masks"]
        found = found.to_tensor() if isinstance(found, tf.RaggedTensor) else found
        assert (found.dtype, batch["labels"].dtype) == (tf.uint8, tf.int64)
        np.testing.assert_array_equal(found, masks)
        np.testing.assert_array_equal(batch["labels"], others["labels"])
        assert batch["bounding_boxes"]["boxes"].to_list() == boxes.to_list()
        assert batch["name"].numpy().tolist() == [b"scan %d" % k for k in range(6)]
    assert layer.counts["stylized"] == 12


class TestTuples:
    def test_as_keras_users_have_them(self, model, bank, images):
        masks = (images[..., 0] > 0.5).astype(np.uint8)
        weights = np.arange(6.0)
        layer = always(model, bank.codes[:1])
        expected = layer(images)
        data = tf.data.Dataset.from_tensor_slices((images, masks, weights))
        for result in (
            next(iter(data.batch(6).map(layer))),
            next(iter(data.map(layer).batch(6))),
            layer((images, masks, weights)),
            layer(images, masks, weights),
        ):
            assert isinstance(result, tuple)
            np.testing.assert_allclose(result[0], expected, atol=1e-5)
            np.testing.assert_array_equal(result[1], masks)
            np.testing.assert_array_equal(result[2], weights)
        assert layer((images, masks), training=False)[0].shape == images.shape


class TestGate:
    def test_under_the_threshold_the_original_comes_back(self, model, bank, images):
        full = np.asarray(always(model, bank, seed=3)(images))
        scores = structure_scores(images, full).numpy()
        gate = float(np.sort(scores)[2:4].mean())
        layer = always(model, bank, gate=gate, seed=3)
        result = layer(images)
        assert 0 < (scores < gate).sum() < 6
        np.testing.assert_array_equal(changed(images, result), scores >= gate)
        np.testing.assert_allclose(result[scores >= gate], full[scores >= gate], atol=1e-5)
        refused = int((scores < gate).sum())
        assert layer.counts == {"seen": 6, "stylized": 6 - refused, "gated": refused}
        layer.reset_counts()
        assert layer.counts == {"seen": 0, "stylized": 0, "gated": 0}


class TestSeed:
    def test_equal_seeds_equal_streams(self, model, bank, images):
        one, two, other = (
            StyleAugmentation(model, bank, gate=None, seed=seed) for seed in (4, 4, 5)
        )
        first = [one(images).numpy() for _ in range(2)]
        np.testing.assert_array_equal(first, [two(images).numpy() for _ in range(2)])
        assert (first[0] != first[1]).any()
        assert (first[0] != other(images).numpy()).any()


def segmenter(layer=None):
    inputs = keras.Input((SIZE, SIZE, 1))
    x = inputs if layer is None else layer(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same", name="head")(x))


class TestFit:
    def test_as_first_layer(self, model, bank, images):
        layer = StyleAugmentation(model, bank, p=0.5, gate=None, seed=1)
        net = segmenter(layer)
        net.compile("sgd", "mse", jit_compile=False)
        net.trainable = False
        net.trainable = True
        assert len(net.trainable_weights) == 2  # the head's alone
        assert model.trainable_weights  # of the model that it was made of, as before
        before = [layer.codes.numpy(), *layer.network.get_weights()]
        history = net.fit(images, images, batch_size=2, epochs=2, verbose=0).history
        assert set(history) == {"loss"}  # and none of the network's own
        assert min(history["loss"]) > 0
        assert layer.counts == {"seen": 12, "stylized": 6, "gated": 0}
        for old, new in zip(before, [layer.codes.numpy(), *layer.network.get_weights()]):
            np.testing.assert_array_equal(old, new)
        # Evaluation and prediction see the images as they are.
        expected = net.get_layer("head")(images)
        np.testing.assert_allclose(net.predict(images, verbose=0), expected, atol=1e-5)
        net.evaluate(images, images, verbose=0)
        assert layer.counts["seen"] == 12

    def test_a_model_that_is_told_nothing_changes_no_image(self, model, bank, images, caplog):
        layer = always(model, bank, name="augment")
        net = segmenter(layer)
        for _ in range(2):
            expected = net.get_layer("head")(images)
            np.testing.assert_allclose(net(images), expected, atol=1e-5)
        assert caplog.text.count("augment: the model") == 1
        assert layer.counts["seen"] == 0
        assert np.abs(net(images, training=True) - expected).max() > 1e-3

    def test_in_a_sequential_model_and_keras_pipeline(self, model, bank, images):
        layer = always(model, bank.codes[:1])
        chain = keras.Sequential([layer, keras.layers.Rescaling(2.0)])
        expected = 2 * model.stylize(images, bank.codes[:1])
        np.testing.assert_allclose(chain(images, training=True), expected, atol=1e-5)
        np.testing.assert_allclose(chain.predict(images, verbose=0), 2 * images, atol=1e-5)
        pipeline = keras.layers.Pipeline([keras.layers.Rescaling(0.5), layer])
        out = next(iter(tf.data.Dataset.from_tensor_slices(images).batch(6).map(pipeline)))
        np.testing.assert_allclose(out, model.stylize(images / 2, bank.codes[:1]), atol=1e-5)


class TestSaving:
    def test_needs_neither_preset_nor_scans_and_names_none(self, model, tmp_path, images):
        folder = tmp_path / "styles-of-patient-x"
        folder.mkdir()
        for i in range(2):
            write_png(image(30 + i, (24, 24)), folder / f"{i}.png")
        options = {"p": 0.75, "strength": (0.2, 0.9), "gate": -0.5}
        layer = StyleAugmentation(model, folder, seed=11, name="augment", **options)
        net, first = segmenter(layer), layer(images).numpy()
        layer(images)
        expected = layer(images, seed=(5, 6)).numpy()
        net.save(tmp_path / "net.keras")
        with zipfile.ZipFile(tmp_path / "net.keras") as archive:
            assert "patient-x" not in archive.read("config.json").decode()
        for file in folder.iterdir():
            file.unlink()
        again = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
        loaded = again.get_layer("augment")
        assert (loaded.p, loaded.strength, loaded.gate) == (0.75, (0.2, 0.9), -0.5)
        assert loaded.counts["seen"] == 18
        # Draws begin again, as those of Keras's layers.
        np.testing.assert_allclose(loaded(images), first, atol=1e-5)
        np.testing.assert_allclose(loaded(images, seed=(5, 6)), expected, atol=1e-5)
        assert not loaded.trainable_weights

    def test_a_configuration_alone_does_not_stylize(self, model, images):
        layer = always(model, "batch")
        config = json.loads(json.dumps(layer.get_config()))
        copy = StyleAugmentation.from_config(config)
        np.testing.assert_array_equal(copy(images, training=False), images)
        with pytest.raises(ArgumentError, match="holds no weights and no styles"):
            copy(images)
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(copy(images, seed=(1, 2)), layer(images, seed=(1, 2)))


class TestErrors:
    def test_arguments(self, model, bank):
        for options, message in (
            ({"strength": (0.9, 0.1)}, r"strength: must be \(low, high\)"),
            ({"value_range": (1, 1)}, "value_range: black must lie below white"),
            ({"styles": np.zeros((2, 3))}, "codes: need the shape"),
        ):
            with pytest.raises(ArgumentError, match=message):
                StyleAugmentation(model, **{"styles": bank, **options})

    def test_styles_of_another_model(self, model, bank):
        with pytest.raises(WeightsError, match="9 columns, those of the model 2 and 64"):
            StyleAugmentation(model, np.ones((2, 2, 9)))
        with pytest.raises(WeightsError, match="another encoder"):
            StyleAugmentation(small_model("relu1_1", seed=1), bank)

    def test_images(self, model, bank):
        for images, options, message in (
            (np.zeros((1, 16, 16, 1), np.uint8), {}, "say what is black and white"),
            (np.zeros((1, 10, 16, 1)), {"gate": 0.5}, "at least 11 rows"),
            (np.zeros((16, 16, 1)), {"styles": "batch"}, "needs a batch"),
        ):
            with pytest.raises(ArgumentError, match=message):
                always(model, **{"styles": bank, **options})(images)


class TestToneTransfer:
    def test_any_source(self, tone, images, tmp_path):
        pair = images[:2] * np.float32([0.4, 1.0])[:, None, None, None]
        expected = np.stack([tone.stylize(a, b) for a, b in (pair, pair[::-1])])
        tone.save(tmp_path / "mine.keras")
        for source in (str(tmp_path / "mine.keras"), tone.save_to_preset(tmp_path / "p")):
            np.testing.assert_allclose(always(source, "batch")(pair), expected, atol=5e-3)
        with pytest.raises(InputFileError, match="no such model file"):
            StyleAugmentation(tmp_path / "none.keras")
