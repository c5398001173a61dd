from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.models import image
from tfstyle.convert.graph import chosen_signature, plain_graph
from tfstyle.errors import ArgumentError, InputFileError


def save(folder, function, *specs):
    module = tf.Module()
    traced = tf.function(function, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"run": traced})
    return folder


def run(graph, **inputs):
    outputs = graph.function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def operations(graph):
    return Counter(node.op for node in graph.frozen()[0].node)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["serving_default", "stylize", "encode_style"], "stylize"),
        (["serving_default", "segment"], "segment"),
        (["serving_default"], "serving_default"),
        (["run"], "run"),
        (["serving_default", "segment", "run"], None),
        ([], None),
    ],
)
def test_signature_where_none_is_named(tmp_path, names, chosen):
    model = SavedModel()
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    for name in [*names, "__saved_model_init_op"]:
        graph.signature_def[name].method_name = "tensorflow/serving/predict"
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    if chosen is None:
        with pytest.raises(ArgumentError, match=r"must be one of those of .*: (run, s|it)"):
            chosen_signature(tmp_path)
    else:
        assert chosen_signature(tmp_path) == chosen


@pytest.mark.parametrize("size", [None, 32])
def test_gives_what_the_signature_gives(saved_model, servable, size):
    graph = plain_graph(saved_model, "stylize", size)
    content, style = image(1, (1, 32, 32, 1)), image(2, (1, 32, 32, 1)) ** 2
    if size is None:
        content = image(1, (2, 31, 45, 1))
    expected = servable.run("stylize", {"content": content, "style": style})["generated"]
    found = run(graph, content=content, style=style)
    assert set(found) == {"generated"}
    np.testing.assert_allclose(found["generated"], expected, rtol=0, atol=2e-5)


def test_checks_and_costly_forms_are_gone(saved_model):
    graph = plain_graph(saved_model, "stylize")
    assert graph.dropped == {"Assert": 7}
    found = operations(graph)
    assert not set(found) & {"Assert", "CheckNumerics", "MirrorPad", "ReadVariableOp", "MatMul"}
    assert not [name for name in found if "PartitionedCall" in name]


def test_sizes_are_known_throughout(saved_model):
    graph = plain_graph(saved_model, "stylize", 32)
    assert {n: s.shape.as_list() for n, s in graph.inputs.items()} == {
        "content": [1, 32, 32, 1],
        "style": [1, 32, 32, 1],
    }
    assert graph.function.structured_outputs["generated"].shape.as_list() == [1, 32, 32, 1]


@pytest.mark.parametrize(
    ("axes", "joined"),
    [([[2], [0]], True), ([[1], [0]], False), ([[2], [1]], False), ([[1, 2], [0, 1]], False)],
)
def test_tensordot_becomes_a_matrix_product_where_it_is_one(tmp_path, axes, joined):
    a, b = tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None])
    save(tmp_path, lambda a, b: {"y": tf.tensordot(a, b, axes)}, a, b)
    graph = plain_graph(tmp_path, "run")
    left = np.random.default_rng(0).random((2, 4, 4), dtype=np.float32)
    right = np.random.default_rng(1).random((4, 4), dtype=np.float32)
    expected = np.tensordot(left, right, axes)
    np.testing.assert_allclose(run(graph, a=left, b=right)["y"], expected, rtol=1e-5)
    assert (operations(graph)["BatchMatMulV2"] == 1) is joined
    assert (operations(graph)["MatMul"] == 0) is joined


@pytest.mark.parametrize(
    ("paddings", "mode", "sliced"),
    [
        ([[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT", True),
        ([[0, 0], [0, 0], [1, 1], [0, 0]], "REFLECT", True),
        ([[0, 0], [2, 2], [1, 1], [0, 0]], "REFLECT", False),
        ([[0, 0], [0, 1], [1, 1], [0, 0]], "REFLECT", False),
        ([[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC", False),
    ],
)
def test_reflection_by_one_pixel_becomes_slices(tmp_path, paddings, mode, sliced):
    spec = tf.TensorSpec([None, None, None, 2])
    save(tmp_path, lambda x: {"y": tf.pad(x, paddings, mode=mode)}, spec)
    graph = plain_graph(tmp_path, "run")
    for size in ((1, 3, 4, 2), (2, 7, 5, 2)):
        x = np.random.default_rng(0).random(size, dtype=np.float32)
        kind = {"REFLECT": "reflect", "SYMMETRIC": "symmetric"}[mode]
        np.testing.assert_array_equal(run(graph, x=x)["y"], np.pad(x, paddings, mode=kind))
    assert (operations(graph)["MirrorPad"] == 0) is sliced


@pytest.mark.parametrize(
    ("take", "axes"),
    [
        (lambda x: x[..., None], 1),
        (lambda x: x[:, None], 1),
        (lambda x: x[None], 1),
        (lambda x: x[..., None, :], 1),
        (lambda x: x[:, None, ...], 1),
        (lambda x: x[:, None, None], 2),
        (lambda x: x[..., None, :, None], 2),
        (lambda x: x[None, :, None, ..., None, None], 4),
        (lambda x: x[:, 1:, None], 0),
        (lambda x: x[:, ::2, None], 0),
        (lambda x: x[0, :, None], 0),
    ],
)
def test_slice_that_only_adds_axes(tmp_path, take, axes):
    spec = tf.TensorSpec([None, None, None], name="x")
    save(tmp_path, lambda x: {"y": take(x)}, spec)
    graph = plain_graph(tmp_path, "run")
    x = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    np.testing.assert_array_equal(run(graph, x=x)["y"], take(x))
    assert operations(graph)["ExpandDims"] == axes


def test_damaged_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InputFileError, match="cannot be loaded"):
        plain_graph(tmp_path)


def test_unknown_signature_names_those_there_are(saved_model):
    with pytest.raises(ArgumentError, match=r"'nothing'.*stylize_strength"):
        plain_graph(saved_model, "nothing")


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_bad_size(saved_model, size):
    with pytest.raises(ArgumentError, match="size"):
        plain_graph(saved_model, size=size)
