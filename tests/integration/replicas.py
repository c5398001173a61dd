"""Trains or augments on one and on two virtual CPUs; prints what came of it, as JSON.

python replicas.py style_transfer|tone_transfer|style_augmentation
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.models import image, small_model
from tfstyle import StyleAugmentation, StyleBank
from tfstyle.data import spine_phantom
from tfstyle.tone import ToneEncoder, ToneTransfer, ViewPool

SIZE = 16


def mirrored(replicas: int) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def style_step(replicas: int) -> tuple[list[np.ndarray], dict]:
    """Gradients by variable, summed over the replicas, and the history, of one step of fit."""
    with mirrored(replicas).scope():
        model = small_model("relu1_2")
        # After one step the momentum is the gradient, apart from its sign.
        model.compile(
            optimizer=keras.optimizers.SGD(1.0, momentum=0.5),
            content_layers=("relu1_1",),
            style_layers=("image",),
            histogram_weight=0.5,
            paired_weight=2.0,
            tv_weight=0.1,
            jit_compile=False,
        )
    data = {
        "content": image(1, (5, SIZE, SIZE, 1)),
        "style": image(2, (5, SIZE, SIZE, 1)),
        "paired": np.array([1, 1, 1, 0, 0], np.float32),
    }
    batches = tf.data.Dataset.from_tensor_slices(data).batch(5)
    history = model.fit(batches, shuffle=False, verbose=0).history
    gradients = [-keras.ops.convert_to_numpy(m) for m in model.optimizer.momentums]
    return gradients, {name: values[0] for name, values in history.items()}


def style_transfer() -> dict:
    (expected, alone), (found, together) = map(style_step, (1, 2))
    errors = [
        float(np.linalg.norm(one - other) / np.linalg.norm(one))
        for one, other in zip(expected, found, strict=True)
    ]
    return {"errors": errors, "alone": alone, "together": together}


def tone_steps(strategy: tf.distribute.Strategy) -> tuple[dict, np.ndarray]:
    """Count of replicas and errors, and by how much each weight moved."""
    keras.utils.set_random_seed(0)
    scan = spine_phantom(size=64, slices=2, seed=0).scan
    # Replicas weigh alike, so that as many pairs must count in each: all are CT.
    pool = ViewPool({"phantom": (scan.pixels, scan.spacing)}, size=32, views=6)
    groups = pool.dataset(batch_size=2, images=6, not_ct_share=0)
    with strategy.scope():
        model = ToneTransfer(encoder=ToneEncoder(dropout=0.0, name="encoder"))
        model.compile(optimizer=keras.optimizers.SGD(0.05))
    before = [w.copy() for w in model.get_weights()]
    history = model.fit(groups, steps_per_epoch=1, epochs=2, shuffle=False, verbose=0).history
    moved = [a - b for a, b in zip(model.get_weights(), before) if a.dtype == np.float32]
    facts = {"replicas": strategy.num_replicas_in_sync, "errors": history["tone_error"]}
    return facts, np.concatenate([m.ravel() for m in moved])


def tone_transfer() -> dict:
    one, a = tone_steps(tf.distribute.OneDeviceStrategy("CPU:0"))
    two, b = tone_steps(mirrored(2))
    cosine, length = a @ b / np.sqrt((a @ a) * (b @ b)), np.sqrt((b @ b) / (a @ a))
    return {"one": one, "two": two, "cosine": float(cosine), "length": float(length)}


def segmenter(layer=None):
    """A model of one convolution, behind the augmentation."""
    inputs = keras.Input((SIZE, SIZE, 1))
    x = inputs if layer is None else layer(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x))
    model.compile("sgd", "mse", jit_compile=False)
    return model


def style_augmentation() -> dict:
    """Fits with the layer in the model, in the pipeline, and in both halves of the scope."""
    strategy, network = mirrored(2), small_model("relu1_1")
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
    return found


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(json.dumps(globals()[sys.argv[1]]()))
