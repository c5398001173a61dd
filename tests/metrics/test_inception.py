"""Inception scores by their equations, and the classifier behind them."""

import keras
import numpy as np
import pytest

from tfstyle import metrics
from tfstyle.errors import ArgumentError
from tfstyle.metrics import inception


def probabilities(shape, seed=0):
    p = np.random.default_rng(seed).random(shape) ** 3
    return p / p.sum(-1, keepdims=True)


class TestScores:
    def test_equations(self):
        p = probabilities((4, 3, 5))
        total = 0.0
        for content in p:
            marginal = content.mean(0)
            for image in content:
                total += np.sum(image * np.log(image / marginal)) / 12
        assert metrics.conditional_inception_score(p) == pytest.approx(total)
        marginal = p.mean((0, 1))
        expected = np.mean(np.sum(p * np.log(p / marginal), axis=-1))
        assert metrics.inception_score(p) == pytest.approx(expected)
        sure = np.broadcast_to(np.eye(3), (5, 3, 3))  # every content in three styles; 0 · log 0
        assert metrics.conditional_inception_score(sure) == pytest.approx(np.log(3))

    def test_bad_input(self):
        with pytest.raises(ArgumentError, match="at least 2 styles"):
            metrics.conditional_inception_score(probabilities((4, 1, 3)))


def small_inception(size, weights):
    """Stands in for Inception-V3, which takes half a minute to trace for training."""
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(4, 3, 4),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def domains(count=8, size=40):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = 0.4 * rng.random((count, size, size, 1)) + 0.6 * labels[:, None, None, None]
    return images.astype(np.float32), labels


class TestClassifier:
    def test_learns_domains_and_is_saved(self, monkeypatch, tmp_path):
        monkeypatch.setattr(inception, "_inception", small_inception)
        keras.utils.set_random_seed(0)
        classifier = metrics.DomainClassifier(["dark", "bright"], size=75, weights=None)
        images, labels = domains()
        loss = "sparse_categorical_crossentropy"
        classifier.compile(keras.optimizers.Adam(3e-2), loss, jit_compile=False)
        history = classifier.fit(images, labels, epochs=30, batch_size=4, verbose=0).history
        assert history["loss"][-1] < 0.5 * history["loss"][0]
        p = classifier.predict(images, verbose=0)
        assert p.shape == (8, 2)
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
        assert (p.argmax(-1) == labels).all()
        assert metrics.inception_score(p) > 0.3
        classifier.save(tmp_path / "domains.keras")
        again = metrics.DomainClassifier.load(tmp_path / "domains.keras")
        assert (again.domains, again.pretrained) == (["dark", "bright"], False)
        np.testing.assert_allclose(again(images), p, atol=1e-5)

    @pytest.mark.parametrize("pretrained", [False, True])
    def test_statistics_of_pretrained_weights_stay(self, monkeypatch, pretrained):
        monkeypatch.setattr(inception, "_inception", small_inception)
        classifier = metrics.DomainClassifier(
            ["a", "b"], size=75, weights=None, pretrained=pretrained
        )
        norm = classifier.inception.layers[1]
        before = norm.moving_mean.numpy()
        classifier(domains()[0], training=True)
        assert np.array_equal(norm.moving_mean, before) is pretrained

    def test_preprocessing_is_inceptions(self):
        classifier = metrics.DomainClassifier(["dark", "bright"], size=75, weights=None)
        x = np.random.default_rng(1).random((2, 75, 75, 1)).astype(np.float32)
        rgb = keras.applications.inception_v3.preprocess_input(np.repeat(x * 255, 3, -1))
        features = classifier.inception(rgb, training=False)
        np.testing.assert_allclose(classifier(x), classifier.head(features), atol=1e-5)
