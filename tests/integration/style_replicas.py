"""Trains one step on one and on two virtual CPUs; prints the differences as JSON."""

import json

import keras
import numpy as np
import tensorflow as tf

from tests.models import image, small_model


def step(replicas: int) -> tuple[list[np.ndarray], dict]:
    """Gradients by variable, summed over the replicas, and the history, of one step of fit."""
    with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)]).scope():
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
        "content": image(1, (5, 16, 16, 1)),
        "style": image(2, (5, 16, 16, 1)),
        "paired": np.array([1, 1, 1, 0, 0], np.float32),
    }
    batches = tf.data.Dataset.from_tensor_slices(data).batch(5)
    history = model.fit(batches, shuffle=False, verbose=0).history
    gradients = [-keras.ops.convert_to_numpy(m) for m in model.optimizer.momentums]
    return gradients, {name: values[0] for name, values in history.items()}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    (expected, alone), (found, together) = map(step, (1, 2))
    errors = [
        float(np.linalg.norm(one - other) / np.linalg.norm(one))
        for one, other in zip(expected, found, strict=True)
    ]
    print(json.dumps({"errors": errors, "alone": alone, "together": together}))
