"""The U-Net: architecture, any size, training on phantoms, files, export."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.data import LABELS, scan_to_unit, spine_phantom
from tfstyle.errors import ArgumentError
from tfstyle.segmentation import UNet


def small(**options):
    keras.utils.set_random_seed(3)
    return UNet(**{"classes": 3, "depth": 2, "width": 4, "dropout": 0.0, **options})


def noise(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


class TestArchitecture:
    def test_the_papers_network(self):
        """Figure 1: channels 64 to 1024, and the parameters that follow from it."""
        unet = UNet(classes=2)
        channels = (64, 128, 256, 512, 1024)
        count, inputs = 0, 1
        for c in channels:
            count += (9 * inputs + 1) * c + (9 * c + 1) * c
            inputs = c
        for c in channels[-2::-1]:
            count += (4 * 2 * c + 1) * c  # up-convolution from 2c
            count += (9 * 2 * c + 1) * c + (9 * c + 1) * c
        assert unet.count_params() == count + (64 + 1) * 2
        assert unet.stride == 16

    @pytest.mark.parametrize("normalization", ["batch", "group"])
    def test_gradients_reach_every_weight(self, normalization):
        unet = small(normalization=normalization, groups=2)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(unet(noise((2, 16, 12, 1)), training=True)))
        for weight, gradient in zip(
            unet.trainable_weights, tape.gradient(loss, unet.trainable_weights)
        ):
            assert gradient is not None, weight.path
            assert np.isfinite(gradient.numpy()).all(), weight.path
        kinds = {type(layer) for block in unet.down for layer in block.norms if layer}
        expected = {
            "batch": keras.layers.BatchNormalization,
            "group": keras.layers.GroupNormalization,
        }
        assert kinds == {expected[normalization]}

    def test_dropout_at_the_end_of_the_contracting_path_alone(self):
        unet = small(dropout=0.5)
        x = noise((1, 16, 16, 1))
        np.testing.assert_array_equal(unet(x), unet(x))
        assert np.abs(unet(x, training=True) - unet(x, training=True)).max() > 0
        assert len(unet.drops) == 2

    def test_logits_and_probabilities(self):
        logits, x = small(), noise((2, 8, 8, 1))
        other = small(output="probabilities")
        other.set_weights(logits.get_weights())
        np.testing.assert_allclose(other(x), tf.nn.softmax(logits(x)), atol=1e-6)
        np.testing.assert_allclose(logits.probabilities(x), other(x), atol=1e-6)
        np.testing.assert_allclose(other.probabilities(x), other(x), atol=1e-6)

    def test_bad_arguments(self):
        for options, message in (
            ({"normalization": "group", "groups": 3}, "groups: 3 does not divide"),
            ({"output": "sigmoid"}, "output"),
        ):
            with pytest.raises(ArgumentError, match=message):
                small(**options)


class TestAnySize:
    def test_padded_by_reflection_and_cropped_back(self):
        unet = small()
        assert unet.segment(noise((1, 1))).shape == (1, 1)
        x = noise((1, 10, 13, 1))
        extended = np.pad(x, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="reflect")
        np.testing.assert_allclose(unet(x), unet(extended)[:, :10, :13], atol=1e-6)

    def test_segment_is_the_largest_score(self):
        unet, x = small(), noise((5, 12, 10, 1))
        masks = unet.segment(x, batch_size=2)
        assert masks.shape == x.shape
        np.testing.assert_array_equal(masks[..., 0], np.argmax(unet(x), axis=-1))
        assert len(np.unique(masks)) > 1


def vertebrae(count, size=64):
    """Phantom slices and their vertebrae and cords as classes 1 and 2."""
    phantoms = [spine_phantom(seed, size) for seed in range(count)]
    images = np.concatenate([scan_to_unit(p.scan, "bone") for p in phantoms]).astype(np.float32)
    labels = np.concatenate([p.mask for p in phantoms])
    bone = np.isin(labels, [LABELS["vertebral_body"], LABELS["posterior_elements"]])
    return images, (bone + 2 * (labels == LABELS["canal"])).astype(np.uint8)


@pytest.mark.slow
def test_learns_phantoms():
    images, masks = vertebrae(4)
    keras.utils.set_random_seed(0)
    unet = UNet(classes=3, depth=2, width=8, normalization="batch", dropout=0.0)
    options = {"dice": 1.0, "class_weights": {2: 2.0}, "jit_compile": False}
    unet.compile_default(learning_rate=5e-3, **options)
    before = unet.evaluate(images, masks, verbose=0, return_dict=True)
    assert set(before) == {"loss", "pixel_accuracy", "mean_iou", "dice"}
    steps = np.tile(np.arange(4), 120)  # 120 steps over the same four images
    unet.fit(images[steps], masks[steps], batch_size=4, verbose=0)
    after = unet.evaluate(images, masks, verbose=0, return_dict=True)
    assert after["loss"] < 0.1 * before["loss"]
    found = tfstyle.metrics.dice_by_class(masks, unet.segment(images)[..., 0], 3)
    assert (found > 0.9).all()


def test_loaded_it_goes_on(tmp_path):
    unet = small()
    unet.compile_default(class_weights=[0.5, 1.0, 2.0], jit_compile=False)
    unet.train_on_batch(noise((1, 8, 8, 1)), np.ones((1, 8, 8), np.uint8))
    unet.save(tmp_path / "unet.keras")
    again = UNet.load(tmp_path / "unet.keras")
    assert again.loss.class_weights == [0.5, 1.0, 2.0]
    assert int(again.optimizer.iterations.numpy()) == 1
