"""An encoder of each family trains, stylizes, and comes back from files in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.encoders import VGG16, DenseNet121, ResNet50
from tfstyle.errors import ArgumentError

from ..models import image

ROOT = Path(__file__).resolve().parents[2]
#: A shallow tap with the whole pattern of the family before it.
LAYERS = {VGG16: "relu2_1", ResNet50: "conv2_block1_out", DenseNet121: "pool2_pool"}
LOAD = """
import sys
from pathlib import Path
import numpy as np
import tfstyle
folder = Path(sys.argv[1])
given = np.load(folder / "given.npz")
results = {}
for file in sorted(folder.glob("*.keras")):
    for kind, model in (
        ("keras", tfstyle.StyleTransfer.load(file)),
        ("preset", tfstyle.StyleTransfer.from_preset(folder / file.stem)),
    ):
        results[f"{file.stem}/{kind}"] = model.stylize(
            given["content"], given["style"]
        )
np.savez(folder / "results.npz", **results)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with a model file and a preset of each, and what they generate."""
    folder = tmp_path_factory.mktemp("zoo")
    content, style = image(0, (37, 21)), image(1, (24, 40))
    np.savez(folder / "given.npz", content=content, style=style)
    expected = {}
    for family, layer in LAYERS.items():
        name = family.__name__
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
        pairs = tf.data.Dataset.from_tensors(
            {"content": image(2, (2, 32, 32, 1)), "style": image(3, (2, 32, 32, 1))}
        )
        history = model.fit(pairs.repeat(2), steps_per_epoch=2, shuffle=False, verbose=0)
        assert np.isfinite(history.history["loss"][0])
        assert not np.array_equal(before, model.decoder.weights[-2])
        for a, b in zip(frozen, encoder.weights):
            np.testing.assert_array_equal(a, b)
        # Untrained decoders give values far outside [0, 1]; clipped, all would be equal.
        last = model.decoder.steps[-1]
        last.set_weights([w * 0 for w in last.get_weights()])
        kernel, bias = last.get_weights()
        last.set_weights([kernel + 1e-3, bias + 0.2])
        expected[name] = model.stylize(content, style)
        model.save(folder / f"{name}.keras")
        model.save_to_preset(folder / name, half=False)
    return folder, expected


def test_all_come_back_in_a_new_process(trained):
    folder, expected = trained
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    results = np.load(folder / "results.npz")
    assert len(results.files) == 2 * len(LAYERS)
    for name, generated in expected.items():
        assert generated.shape == (37, 21)
        assert np.ptp(generated) > 1e-3
        for kind in ("keras", "preset"):
            np.testing.assert_allclose(results[f"{name}/{kind}"], generated, atol=1e-5)


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
            lambda: tfstyle.StyleTransfer("densenet121", layer="conv2_block1_out"),
            "unknown layer 'conv2_block1_out' for DenseNet121",
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
