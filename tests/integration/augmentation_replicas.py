"""Prints what StyleAugmentation counts on two virtual CPUs, as JSON."""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.models import image, small_model
from tfstyle import StyleAugmentation, StyleBank

SIZE = 16


def segmenter(layer=None):
    """A model of one convolution, behind the augmentation."""
    inputs = keras.Input((SIZE, SIZE, 1))
    x = inputs if layer is None else layer(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x))
    model.compile("sgd", "mse", jit_compile=False)
    return model


def main() -> None:
    """Fits with the layer in the model, in the pipeline, and in both halves of the scope."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    network = small_model("relu1_1")
    bank = StyleBank.encode(network, [image(i, (24, 24)) * (0.3 + 0.2 * i) for i in range(4)])
    options = {"network": network, "styles": bank, "p": 0.5, "gate": None, "seed": 1}
    images = image(1, (10, SIZE, SIZE, 1))
    found = {}

    with strategy.scope():
        layer = StyleAugmentation(**options, name="augment")
        model = segmenter(layer)
    model.fit(images, images, batch_size=4, epochs=2, verbose=0)
    found["model"] = layer.counts

    # Both replicas get the same images; a draw that both make would give the same results.
    same = tf.constant(np.repeat(images[:1], 8, axis=0))

    @tf.function
    def run():
        return strategy.run(lambda: layer(same, training=True))

    one, other = (r.numpy() for r in strategy.experimental_local_results(run()))
    found["draws differ"] = bool(np.abs(one - other).max() > 1e-3)
    counts = layer.counts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path, safe_mode=True).get_layer("augment")
    found["counts are loaded"] = loaded.counts == counts
    difference = loaded(images, seed=(1, 2)) - layer(images, seed=(1, 2))
    found["loaded equal"] = float(np.abs(difference).max())

    data = tf.data.Dataset.from_tensor_slices((images, images)).batch(2, drop_remainder=True)
    with strategy.scope():
        model = segmenter()
    layer = StyleAugmentation(**options)
    model.fit(data.map(lambda x, y: (layer(x), y), num_parallel_calls=2), epochs=2, verbose=0)
    found["pipeline"] = layer.counts
    print(json.dumps(found))


if __name__ == "__main__":
    main()
