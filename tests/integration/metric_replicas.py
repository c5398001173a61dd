"""Prints every metric on two virtual CPUs and on one as JSON, one line a metric."""

from __future__ import annotations

import json

import keras
import numpy as np
import tensorflow as tf

from tfstyle import metrics

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
content = rng.random((4, 40, 40, 1)).astype(np.float32)
generated = np.clip(content + rng.normal(0, 0.1, content.shape), 0, 1).astype(np.float32)
masks = rng.integers(0, 3, (4, 40, 40)).astype(np.uint8)
other = rng.integers(0, 3, (4, 40, 40)).astype(np.uint8)
hu = (2000 * content - 1000).astype(np.float32)

CASES = [
    (lambda: metrics.LPIPS(weights=None), (content, generated)),
    (metrics.StructureSimilarity, (content, generated)),
    (metrics.ToneError, (np.concatenate([content, hu], axis=-1), generated)),
    (lambda: metrics.Dice(3), (masks, other)),
    (lambda: metrics.PixelAccuracy(3), (masks, other)),
]
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
for make, values in CASES:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        metric = make()
    data = tf.data.Dataset.from_tensor_slices(values).batch(4)
    for batch in strategy.experimental_distribute_dataset(data):
        tf.function(lambda batch: strategy.run(metric.update_state, batch))(batch)  # noqa: B023
    alone = make()
    alone.update_state(*values)
    row = {"metric": metric.name, "two": float(metric.result()), "one": float(alone.result())}
    print(json.dumps(row))
