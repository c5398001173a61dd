"""The structure term in the graph against its definition in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfstyle import metrics


def pairs(size=(40, 37)):
    """Images with flat, clipped and textured parts, and what might be made of them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    content = np.stack([rng.uniform(0.1, 0.9, size) for _ in range(3)])
    content[0] = np.clip(0.5 + 0.7 * np.sin(x / 5) * np.cos(y / 7), 0, 1)
    content[1, :, :18] = 0.5
    content[1, :, 28:] = 1.0
    generated = np.clip(content**1.5 * 0.8 + rng.normal(0, 0.05, content.shape), 0, 1)
    return content[..., None].astype(np.float32), generated[..., None].astype(np.float32)


def reference(content, generated, masks=(None,) * 9):
    return [metrics.structure_similarity(*triple) for triple in zip(content, generated, masks)]


def test_equals_the_definition():
    content, generated = pairs()
    scores = metrics.structure_scores(content, generated)
    np.testing.assert_allclose(scores, reference(content, generated), atol=2e-5)
    assert np.ptp(scores) > 0.01
    masks = np.zeros(content.shape, bool)
    masks[:, 9:30, 12:25] = True
    scores = metrics.structure_scores(content, generated, masks)
    np.testing.assert_allclose(scores, reference(content, generated, masks), atol=2e-5)


@pytest.mark.parametrize(("jit", "sizes"), [(False, [(40, 37), (11, 30)]), (True, [(11, 30)])])
def test_in_a_graph_of_any_size(jit, sizes):
    spec = tf.TensorSpec((None, None, None, 1))
    graph = tf.function(metrics.structure_scores, input_signature=[spec, spec], jit_compile=jit)
    for size in sizes:
        content, generated = pairs(size)
        np.testing.assert_allclose(
            graph(content, generated), reference(content, generated), atol=2e-5
        )


def test_images_without_structure():
    flat = np.full((2, 20, 20, 1), 0.5, np.float32)
    other = np.random.default_rng(0).random(flat.shape).astype(np.float32)
    np.testing.assert_array_equal(metrics.structure_scores(flat, other), [1, 1])
    assert np.isnan(metrics.structure_scores(flat, other, empty=float("nan"))).all()
    np.testing.assert_array_equal(metrics.structure_scores(flat, other, empty=0.0), [0, 0])


def test_metric():
    """The mean over pairs that can be measured, over batches, with weights and masks."""
    content, generated = pairs()
    content[1] = 0.5
    single = np.array(reference(content, generated))
    assert np.isnan(single).tolist() == [False, True, False]
    metric = metrics.StructureSimilarity()
    update = tf.function(metric.update_state)
    update(content[:2], generated[:2])
    update(content[2:], generated[2:])
    assert float(metric.result()) == pytest.approx(np.nanmean(single), rel=1e-4)
    metric.reset_state()
    update(content, generated, np.array([1.0, 1.0, 0.0], np.float32))
    assert float(metric.result()) == pytest.approx(single[0], rel=1e-4)
    metric.reset_state()
    masks = np.zeros(content.shape, bool)
    masks[:, 9:30, 12:25] = True
    metric.update_state(content, generated, masks)
    expected = np.nanmean(reference(content, generated, masks))
    assert float(metric.result()) == pytest.approx(expected, rel=1e-4)
