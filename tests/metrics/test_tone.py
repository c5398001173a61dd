"""The tone error against its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import metrics
from tfstyle.errors import ArgumentError


def reference(y_true, y_pred, hu, mask, least=50):
    """The definition, pixel by pixel."""
    found, counted = {}, []
    for row in np.ndindex(hu.shape):
        if mask[row]:
            limits = (-300, -20, 100, 300)
            name = metrics.TISSUES[sum(hu[row] >= limit for limit in limits)]
            found.setdefault(name, []).append(abs(float(y_pred[row]) - float(y_true[row])))
            counted.append(found[name][-1])
    means = {
        k: np.mean(found[k]) if len(found.get(k, ())) >= least else np.nan for k in metrics.TISSUES
    }
    return {**means, "balanced": np.nanmean(list(means.values())), "all": np.mean(counted)}


def example(seed=0, size=40):
    rng = np.random.default_rng(seed)
    hu = rng.choice([-900, -301, -300, -21, -20, 99, 100, 299, 300, 2000], (size, size))
    return rng.random(hu.shape), rng.random(hu.shape), hu, rng.random(hu.shape) < 0.7


class TestFunction:
    def test_definition(self):
        y_true, y_pred, hu, mask = example()
        expected = reference(y_true, y_pred, hu, mask)
        found = metrics.tone_error(y_true, y_pred, hu, mask)
        assert found == pytest.approx(expected, abs=1e-6)
        assert list(found) == [*metrics.TISSUES, "balanced", "all"]
        again = metrics.tone_error(*(x[..., None] for x in (y_true, y_pred, hu, mask)))
        assert again == found

    @pytest.mark.parametrize(("pixels", "there"), [(49, False), (50, True)])
    def test_few_pixels_are_absent(self, pixels, there):
        hu = np.full((40, 40), 50.0)
        hu.ravel()[:pixels] = 900
        y_true = np.zeros(hu.shape)
        found = metrics.tone_error(y_true, np.where(hu > 300, 0.8, 0.2), hu)
        assert np.isfinite(found["bone"]) == there
        # A rare tissue weighs as much as a common one.
        assert found["balanced"] == pytest.approx(0.5 if there else 0.2)
        assert np.isnan([found["lung"], found["fat"], found["contrast"]]).all()

    def test_only_the_mask_counts(self):
        y_true, y_pred, hu, mask = example()
        hu = hu.astype(np.float32)
        expected = metrics.tone_error(y_true, y_pred, hu, mask)
        y_pred[~mask], hu[~mask] = 1.0 - y_true[~mask], np.nan
        assert metrics.tone_error(y_true, y_pred, hu, mask) == pytest.approx(expected, nan_ok=True)
        empty = metrics.tone_error(y_true, y_pred, hu, np.zeros(hu.shape, bool))
        assert np.isnan(list(empty.values())).all()

    def test_batches_are_image_by_image(self):
        examples = [example(seed) for seed in range(3)]
        batch = [np.stack(x)[..., None] for x in zip(*examples)]
        batch[3][1] = False
        found = {k: v.numpy() for k, v in metrics.tone_errors(*batch).items()}
        for name, values in found.items():
            assert values[0] == pytest.approx(metrics.tone_error(*examples[0])[name])
            assert np.isnan(values[1])
            assert values[2] == pytest.approx(metrics.tone_error(*examples[2])[name])

    @pytest.mark.parametrize(("jit", "sizes"), [(False, (20, 33)), (True, (20,))])
    def test_in_a_graph_of_any_size(self, jit, sizes):
        spec = tf.TensorSpec((None, None, None, 1))
        graph = tf.function(metrics.tone_errors, input_signature=[spec] * 3, jit_compile=jit)
        for size in sizes:
            y_true, y_pred, hu, _ = example(0, size)
            found = graph(*(x[None, ..., None].astype(np.float32) for x in (y_true, y_pred, hu)))
            expected = metrics.tone_error(y_true, y_pred, hu)
            assert {k: float(v[0]) for k, v in found.items()} == pytest.approx(
                expected, abs=1e-6, nan_ok=True
            )

    def test_bad_input(self):
        good = dict(zip(("y_true", "y_pred", "hu", "mask"), example()))
        for change, message in (
            ({"y_true": np.full((40, 40), 40.0)}, "y_true: values lie in"),
            ({"y_pred": np.zeros((40, 41))}, "y_true, y_pred, hu and mask: must have one shape"),
            ({"hu": np.full((40, 40), 0.3)}, "hu: must be in Hounsfield units"),
        ):
            with pytest.raises(ArgumentError, match=message):
                metrics.tone_error(**{**good, **change})


class TestMetric:
    def batch(self, count=5):
        examples = [example(seed) for seed in range(count)]
        y_true, y_pred, hu, mask = (np.stack(x)[..., None] for x in zip(*examples))
        packed = np.concatenate([y_true, hu, mask], axis=-1).astype(np.float32)
        scores = np.array([metrics.tone_error(*x)["balanced"] for x in examples])
        return packed, y_pred.astype(np.float32), scores

    def test_weights_and_masks(self):
        packed, y_pred, scores = self.batch(3)
        metric = metrics.ToneError()
        metric.update_state(packed, y_pred, [0.0, 1.0, 3.0])
        assert float(metric.result()) == pytest.approx(0.25 * scores[1] + 0.75 * scores[2])
        by_mask = metrics.ToneError()
        by_mask.update_state(packed[..., :2], y_pred, packed[..., 2:])
        assert float(by_mask.result()) == pytest.approx(scores.mean(), abs=1e-6)

    def test_images_without_tissue_are_left_out_and_broken_ones_are_not(self):
        packed, y_pred, scores = self.batch(3)
        metric, broken = metrics.ToneError(), y_pred.copy()
        broken[1] = np.nan
        metric.update_state(packed, broken)
        assert float(metric.result()) == np.inf
        packed[1, ..., 2] = 0
        metric.reset_state()
        metric.update_state(packed, y_pred)
        assert float(metric.result()) == pytest.approx(scores[[0, 2]].mean(), abs=1e-6)

    def test_config_and_bad_channels(self):
        metric = metrics.ToneError(name="mine")
        assert keras.metrics.deserialize(keras.metrics.serialize(metric)).name == "mine"
        with pytest.raises(ArgumentError, match=r"y_true: must be \(B, H, W, 2\)"):
            metric.update_state(np.zeros((1, 9, 9, 4)), np.zeros((1, 9, 9, 1)))
