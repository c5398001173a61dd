"""The layer test: what every layer and model of the package has to bear, as those of Keras do."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Case:
    """A layer or model under test."""

    make: Callable[[], keras.layers.Layer]
    inputs: Sequence[np.ndarray]  # float32 (B, H, W, C)
    pack: Callable = itemgetter(0)  # makes the call's argument of them, or a tuple of several
    half: float = 0.02  # largest difference of results in mixed half precision

    def call(self, layer, arrays):
        """The layer's result for arrays, tensors or symbols."""
        packed = self.pack([*arrays])
        return layer(*packed) if isinstance(packed, tuple) else layer(packed)

    def made_like(self, layer):
        """Another one with the weights of a layer."""
        other = self.make()
        run(other, self)  # built
        other.set_weights(layer.get_weights())
        return other


def run(layer, case: Case, arrays=None) -> list[np.ndarray]:
    """Results of a call, flat."""
    return values(case.call(layer, case.inputs if arrays is None else arrays))


def values(outputs) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def assert_close(found, expected, atol=1e-5):
    for one, other in zip(found, expected, strict=True):
        one, other = one.astype(np.float64), other.astype(np.float64)
        np.testing.assert_allclose(one, other, rtol=0, atol=atol * max(1.0, np.abs(other).max()))


def functional(layer, case: Case) -> keras.Model:
    """A functional model around it that does not know batch, height and width."""
    symbols = [keras.Input((None, None, array.shape[-1])) for array in case.inputs]
    return keras.Model(symbols, case.call(layer, symbols))


def config(layer, case: Case) -> None:
    """Its configuration is JSON, and with its weights makes one that gives the same."""
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(serialized)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    run(again, case)  # built
    again.set_weights(layer.get_weights())
    assert_close(run(again, case), run(layer, case))


def symbolic(layer, case: Case) -> None:
    """In a functional model: shapes, summary, clone, prediction."""
    expected = run(layer, case)
    model = functional(layer, case)
    for symbol, value in zip(keras.tree.flatten(model.output), expected):
        assert symbol.shape[0] is None
        assert symbol.shape[1:][-1:] == value.shape[1:][-1:]
        assert all(a in (None, b) for a, b in zip(symbol.shape, value.shape))
        assert keras.backend.standardize_dtype(symbol.dtype) == value.dtype.name
    lines: list[str] = []
    model.summary(print_fn=lines.append, expand_nested=True)
    assert layer.name in "\n".join(lines)
    given = [*case.inputs] if len(case.inputs) > 1 else case.inputs[0]
    assert_close(values(model.predict(given, verbose=0)), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_close(values(clone(given)), expected)


def unknown_sizes(layer, case: Case) -> None:
    """One graph for all sizes gives what eager calls give."""
    specs = [tf.TensorSpec((None, None, None, a.shape[-1])) for a in case.inputs]
    graph = tf.function(
        lambda *tensors: case.call(layer, tensors), input_signature=specs, autograph=False
    )
    for arrays in (case.inputs, [array[:1, :-4, :-8] for array in case.inputs]):
        assert_close(values(graph(*map(tf.constant, arrays))), run(layer, case, arrays))


def half_precision(layer, case: Case) -> None:
    """The same results but for rounding, in a dtype of the policy."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        other = case.made_like(layer)
        found = run(other, case)
    finally:
        keras.config.set_dtype_policy("float32")
    # Some give float32 under any policy.
    assert {value.dtype.name for value in found} <= {"float32", other.compute_dtype}
    assert_close(found, run(layer, case), case.half)


CHECKS = (config, symbolic, unknown_sizes, half_precision)


def check_export(case: Case, folder) -> None:
    """A model exports before its first call, with open sizes, and gives the same."""
    model = case.make()
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(str(folder))
    found = loaded.serve(case.pack([tf.constant(array) for array in case.inputs]))
    assert_close(values(found), run(model, case))
