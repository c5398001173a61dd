import pytest
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfstyle.convert.graph import chosen_signature, plain_graph
from tfstyle.errors import ArgumentError, InputFileError


def test_signature_where_none_is_named(tmp_path):
    for names, chosen in (
        (["serving_default", "stylize", "encode_style"], "stylize"),
        (["serving_default", "segment"], "segment"),
        (["serving_default"], "serving_default"),
        (["serving_default", "segment", "run"], None),
    ):
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


def test_damaged_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InputFileError, match="cannot be loaded"):
        plain_graph(tmp_path, "stylize")
