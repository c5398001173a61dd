"""Trains a tone transfer on one and on two virtual CPUs; prints what came out, as JSON."""

import json

import keras
import numpy as np
import tensorflow as tf

from tfstyle.data import spine_phantom
from tfstyle.tone import ToneEncoder, ToneTransfer, ViewPool


def fit(strategy: tf.distribute.Strategy) -> dict:
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
    return {
        "replicas": strategy.num_replicas_in_sync,
        "errors": history["tone_error"],
        "moved": np.concatenate([m.ravel() for m in moved]),
    }


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    one = fit(tf.distribute.OneDeviceStrategy("CPU:0"))
    two = fit(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    a, b = one.pop("moved"), two.pop("moved")
    print(
        json.dumps(
            {
                "one": one,
                "two": two,
                "cosine": float(a @ b / np.sqrt((a @ a) * (b @ b))),
                "length": float(np.sqrt((b @ b) / (a @ a))),
            }
        )
    )
