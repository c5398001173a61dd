"""Segmentation metrics: functions by hand, Keras metrics against functions and against Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import metrics
from tfstyle.errors import ArgumentError

TRUTH = np.array([[0, 0, 0, 1], [1, 1, 2, 2]])
PREDICTION = np.array([[0, 0, 1, 1], [1, 0, 2, 2]])


def scores(mask, classes=4, seed=0):
    """Logits whose largest is the mask's class."""
    noise = np.random.default_rng(seed).normal(size=(*mask.shape, classes))
    return (noise + 10 * np.eye(classes)[mask]).astype(np.float32)


class TestFunctions:
    def test_by_hand(self):
        matrix = metrics.confusion_matrix(TRUTH, PREDICTION, 4)
        np.testing.assert_array_equal(
            matrix, [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
        )
        assert metrics.pixel_accuracy(TRUTH, PREDICTION, 4) == 6 / 8
        iou = metrics.iou_by_class(TRUTH, PREDICTION, 4)
        np.testing.assert_allclose(iou, [2 / 4, 2 / 4, 1, np.nan])
        assert metrics.mean_iou(TRUTH, PREDICTION, 4) == pytest.approx(2 / 3)
        dice = metrics.dice_by_class(TRUTH, PREDICTION, 4)
        np.testing.assert_allclose(dice, [4 / 6, 4 / 6, 1, np.nan])
        assert metrics.dice(TRUTH, PREDICTION, 4, target_classes=[1, 2]) == pytest.approx(5 / 6)
        one = np.array([0, 0, 0, 1])  # of a class that the truth does not have
        assert metrics.mean_iou(np.zeros(4, int), one, 3) == pytest.approx((3 / 4 + 0) / 2)

    def test_floats_are_scores_and_integers_are_classes(self):
        for prediction in (PREDICTION, PREDICTION[..., None], scores(PREDICTION)):
            assert metrics.pixel_accuracy(TRUTH, prediction, 4) == 6 / 8
        assert metrics.pixel_accuracy(TRUTH[..., None], scores(PREDICTION), 4) == 6 / 8

    def test_ignored_pixels(self):
        truth = np.where(TRUTH == 1, 255, TRUTH)
        assert metrics.pixel_accuracy(truth, PREDICTION, 4, ignore_class=255) == 4 / 5
        assert metrics.mean_iou(truth, PREDICTION, 4, ignore_class=255) == pytest.approx(
            (2 / 3 + 0 + 1) / 3
        )

    def test_bad_input(self):
        for truth, prediction, message in (
            (TRUTH, PREDICTION[:1], "do not fit"),
            (TRUTH + 3, PREDICTION, "y_true: must hold whole numbers from 0 to 3"),
        ):
            with pytest.raises(ArgumentError, match=message):
                metrics.mean_iou(truth, prediction, 4)


PAIRS = [
    (metrics.Dice, metrics.dice),
    (metrics.MeanIoU, metrics.mean_iou),
    (metrics.PixelAccuracy, metrics.pixel_accuracy),
]


class TestMetrics:
    @pytest.mark.parametrize(("metric", "function"), PAIRS)
    def test_all_pixels_together(self, metric, function):
        rng = np.random.default_rng(0)
        truth, prediction = rng.integers(0, 4, (2, 3, 6, 5))
        metric = metric(4)
        for i in range(3):  # batches of different content
            given = prediction[i : i + 1]
            metric.update_state(
                truth[i : i + 1, ..., None].astype(np.float32), scores(given) if i else given
            )
        assert float(metric.result()) == pytest.approx(function(truth, prediction, 4), rel=1e-6)
        metric.reset_state()
        metric.update_state(truth, truth)
        assert float(metric.result()) == 1

    def test_like_keras(self):
        rng = np.random.default_rng(1)
        truth, prediction = rng.integers(0, 3, (2, 2, 8, 8))
        theirs = keras.metrics.MeanIoU(5)
        theirs.update_state(truth, prediction)
        ours = metrics.MeanIoU(5)
        ours.update_state(truth, prediction)
        assert float(ours.result()) == pytest.approx(float(theirs.result()), rel=1e-6)

    def test_choice_of_classes_and_ignored_pixels(self):
        metric = metrics.Dice(4, target_classes=[1, 2], ignore_class=255)
        truth = TRUTH.copy()
        truth[0, 0] = 255
        metric.update_state(truth[None], PREDICTION[None])
        assert float(metric.result()) == pytest.approx(5 / 6)
        np.testing.assert_allclose(metric.by_class(), [2 / 4, 4 / 6, 1, np.nan])
        assert np.isnan(float(metrics.Dice(4).result()))

    def test_weights(self):
        metric = metrics.PixelAccuracy(4)
        wrong = np.where(TRUTH == 0, 1, 0)
        both = np.stack([TRUTH, TRUTH]), np.stack([TRUTH, wrong])
        metric.update_state(*both, sample_weight=[3.0, 1.0])
        assert float(metric.result()) == pytest.approx(3 / 4)
        metric.reset_state()
        pixels = np.stack([np.ones_like(TRUTH), np.zeros_like(TRUTH)])
        metric.update_state(*both, sample_weight=pixels)
        assert float(metric.result()) == 1

    def test_more_pixels_than_float32_counts(self):
        metric = metrics.PixelAccuracy(2)
        zeros = np.zeros((5, 2048, 2048), np.uint8)  # 21 million in one cell, in one batch
        metric.update_state(zeros, zeros)
        assert float(keras.ops.sum(metric.total_cm)) == zeros.size

    def test_config(self):
        options = {"target_classes": [1, 3], "ignore_class": 9, "name": "mine"}
        for first in (metrics.Dice(4, **options), metrics.PixelAccuracy(3)):
            config = keras.saving.serialize_keras_object(first)
            again = keras.saving.deserialize_keras_object(config)
            assert again.get_config() == first.get_config()

    def test_inside_xla(self):
        metric = metrics.Dice(4)
        update = tf.function(metric.update_state, jit_compile=True)
        update(tf.constant(TRUTH), tf.constant(PREDICTION))
        update(tf.constant(TRUTH), tf.constant(scores(PREDICTION)))
        assert float(metric.result()) == pytest.approx(metrics.dice(TRUTH, PREDICTION, 4))
