"""The segmentation loss by hand and against Keras."""

import keras
import numpy as np
import pytest

from tfstyle.errors import ArgumentError
from tfstyle.segmentation import SegmentationLoss, balanced_class_weights

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 3, (2, 4, 5)).astype(np.uint8)
LOGITS = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
CROSS = -np.log(np.take_along_axis(P, TRUTH[..., None].astype(int), -1))[..., 0]


@pytest.mark.parametrize("truth", [TRUTH, TRUTH[..., None].astype(np.float32)])
def test_cross_entropy(truth):
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(TRUTH, LOGITS)
    assert float(SegmentationLoss()(truth, LOGITS)) == pytest.approx(float(expected), rel=1e-6)
    assert float(SegmentationLoss(from_logits=False)(truth, P)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_class_weights_and_ignored_pixels():
    weights = np.array([0.5, 1.0, 3.0])[TRUTH]
    loss = SegmentationLoss({0: 0.5, 2: 3.0})
    assert float(loss(TRUTH, LOGITS)) == pytest.approx(np.mean(weights * CROSS), rel=1e-5)
    truth = TRUTH.copy()
    truth[0] = 255
    loss = SegmentationLoss([0.5, 1.0, 3.0], ignore_class=255)
    expected = (weights * CROSS)[1].sum() / CROSS.size
    assert float(loss(truth, LOGITS)) == pytest.approx(expected, rel=1e-5)


def test_dice_term():
    t = np.eye(3)[TRUTH]
    overlap, sizes = (P * t).sum((1, 2)), P.sum((1, 2)) + t.sum((1, 2))
    dice = ((2 * overlap + 1) / (sizes + 1))[:, 1:].mean(-1)
    expected = CROSS.mean() + 0.7 * (1 - dice).mean()
    assert float(SegmentationLoss(dice=0.7)(TRUTH, LOGITS)) == pytest.approx(expected, rel=1e-5)
    sure = 50.0 * np.eye(3, dtype=np.float32)[TRUTH]
    assert float(SegmentationLoss(dice=1.0)(TRUTH, sure)) == pytest.approx(0, abs=1e-6)


def test_ignored_pixels_have_no_dice():
    truth = TRUTH.copy()
    truth[:, 2:] = 255
    other = LOGITS.copy()
    other[:, 2:] = RNG.normal(size=other[:, 2:].shape)
    loss = SegmentationLoss(dice=1.0, ignore_class=255)
    assert float(loss(truth, LOGITS)) == pytest.approx(float(loss(truth, other)), rel=1e-6)


def test_config():
    loss = SegmentationLoss({1: 2.0}, dice=0.5, from_logits=False, ignore_class=9)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    assert again.class_weights == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"class_weights": [1] * 4}, "4 given for 3 classes"), ({"dice": -1}, "dice")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        SegmentationLoss(**options)(TRUTH, LOGITS)


def test_balanced_class_weights():
    masks = [np.array([[0, 0, 0], [0, 0, 1]]), np.array([0, 1, 255])]
    weights = balanced_class_weights(masks, 3, ignore_class=255)
    assert weights == pytest.approx([8 / (2 * 6), 8 / (2 * 2), 1.0])
    pixels = np.array([0] * 6 + [1] * 2)
    assert np.mean(np.array(weights)[pixels]) == pytest.approx(1)
    with pytest.raises(ArgumentError, match="0 to 2"):
        balanced_class_weights([np.array([3])], 3)
    with pytest.raises(ArgumentError, match="no pixel"):
        balanced_class_weights([], 3)
