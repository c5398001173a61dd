from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.models import image
from tfstyle.convert.graph import chosen_signature, plain_graph
from tfstyle.errors import ArgumentError, InputFileError


def run(graph, **inputs):
    outputs = graph.function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["serving_default", "stylize", "encode_style"], "stylize"),
        (["serving_default", "segment"], "segment"),
        (["serving_default"], "serving_default"),
        (["serving_default", "segment", "run"], None),
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
        with pytest.raises(ArgumentError, match=r"must be one of those of .*: run, segment"):
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


def test_checks_and_calls_are_gone(saved_model):
    graph = plain_graph(saved_model, "stylize")
    assert graph.dropped == {"Assert": 7}
    found = {node.op for node in graph.frozen()[0].node}
    assert not found & {"Assert", "CheckNumerics", "MirrorPad", "ReadVariableOp"}
    assert not [name for name in found if "PartitionedCall" in name]


def test_sizes_are_known_throughout(saved_model):
    graph = plain_graph(saved_model, "stylize", 32)
    assert {n: s.shape.as_list() for n, s in graph.inputs.items()} == {
        "content": [1, 32, 32, 1],
        "style": [1, 32, 32, 1],
    }
    assert graph.function.structured_outputs["generated"].shape.as_list() == [1, 32, 32, 1]


def test_damaged_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InputFileError, match="cannot be loaded"):
        plain_graph(tmp_path)
