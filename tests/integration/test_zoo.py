"""An encoder of each family trains, stylizes, and comes back from files in a new process."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.encoders import VGG16, DenseNet121, ResNet50
from tfstyle.errors import ArgumentError

from ..models import image

#: A shallow tap with the whole pattern of the family before it.
LAYERS = {VGG16: "relu2_1", ResNet50: "conv2_block1_out", DenseNet121: "pool2_pool"}


@pytest.mark.parametrize("family", LAYERS)
def test_trains_and_comes_back_from_files(family, tmp_path):
    layer, content, style = LAYERS[family], image(0, (37, 21)), image(1, (24, 40))
    keras.utils.set_random_seed(0)
    encoder = family(weights=None, depth=layer)
    model = tfstyle.StyleTransfer(encoder, layer=layer)
    frozen = [np.array(v) for v in encoder.weights[:3]]
    before = np.array(model.decoder.weights[-2])
    model.compile(
        optimizer="adam",
        content_loss="mse",
        content_layers=[layer],
        style_layers=[encoder.taps_table[0].name, layer],
        run_eagerly=True,
    )
    pairs = {"content": image(2, (2, 32, 32, 1)), "style": image(3, (2, 32, 32, 1))}
    data = tf.data.Dataset.from_tensors(pairs).repeat(2)
    history = model.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert not np.array_equal(before, model.decoder.weights[-2])
    for a, b in zip(frozen, encoder.weights):
        np.testing.assert_array_equal(a, b)
    # Untrained decoders give values far outside [0, 1]; clipped, all would be equal.
    last = model.decoder.steps[-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * 0 + 1e-3, bias * 0 + 0.2])
    generated = model.stylize(content, style)
    assert generated.shape == (37, 21)
    assert np.ptp(generated) > 1e-3
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset", half=False)
    for again in (
        tfstyle.StyleTransfer.load(tmp_path / "model.keras"),
        tfstyle.StyleTransfer.from_preset(tmp_path / "preset"),
    ):
        np.testing.assert_allclose(again.stylize(content, style), generated, atol=1e-5)


def test_deepest_tap():
    """Sizes that are not multiples of 32, extended and cropped back."""
    model = tfstyle.StyleTransfer(ResNet50(weights=None, depth=None), layer="conv5_block3_out")
    content = tf.constant(image(0, (1, 37, 70, 1)))
    extended = model._extend(content)
    assert extended.shape == (1, 64, 96, 1)
    assert model.encode(extended).shape[1:3] == (2, 3)
    generated = model.stylize(content.numpy(), image(1, (40, 33)))
    assert generated.shape == (1, 37, 70, 1)
    assert np.isfinite(generated).all()


def test_bad_input():
    shallow = {
        family: family(weights=None, depth="conv1_relu") for family in (ResNet50, DenseNet121)
    }
    model = tfstyle.StyleTransfer(shallow[ResNet50], layer="conv1_relu")
    deeper = ResNet50(weights=None, depth="conv2_block1_out")
    for make, message in (
        (lambda: tfstyle.StyleTransfer(shallow[ResNet50], layer="image"), "nothing to decode"),
        (
            lambda: tfstyle.StyleTransfer(shallow[DenseNet121], layer="pool2_pool"),
            r"'pool2_pool' lies behind 'conv1_relu'.*depth=",
        ),
        (
            lambda: model.compile(content_layers=["conv1_relu"], style_layers=["relu1_1"]),
            "unknown layer 'relu1_1' for ResNet50",
        ),
        (
            lambda: tfstyle.StyleTransfer(deeper, "conv2_block1_out", decoder=model.decoder),
            "decoder: takes 64 channels of stride 2.*256 of stride 4",
        ),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
