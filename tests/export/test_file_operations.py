"""SavedModels that reach for files: found wherever they can run, refused unless allowed."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.op_def_pb2 import OpList
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import prediction_log_pb2

from tfstyle import cli
from tfstyle.convert.graph import plain_graph
from tfstyle.errors import InputFileError
from tfstyle.export import Servable
from tfstyle.export.file_operations import (
    FILE_OPERATIONS,
    file_operations,
    is_file_operation,
)
from tfstyle.export.servable import WARM_UP_FILE, read_meta_graph
from tfstyle.limits import limited
from tfstyle.serving import EmbeddedServer

VECTOR = tf.TensorSpec([None], tf.float32, name="x")


class Module(tf.Module):
    """A variable, and one function in which a test does what it likes."""

    def __init__(self, body):
        self.gain = tf.Variable(2.0)
        self.body = body

    @tf.function(input_signature=[VECTOR])
    def serve(self, x):
        return {"y": self.body(x) * self.gain}

    @tf.function(input_signature=[VECTOR])
    def unserved(self, x):
        tf.io.write_file("unserved", "x")
        return x


def export(folder: Path, body, *, also_unserved: bool = False, table=None) -> Path:
    module = Module(body)
    module.table = table
    signatures = {"serving_default": module.serve}
    if not also_unserved:
        module.unserved = None
    tf.saved_model.save(module, str(folder / "model" / "1"), signatures=signatures)
    return folder / "model" / "1"


def reads(x):
    return x + tf.cast(tf.strings.length(tf.io.read_file("secret")), tf.float32)


def writes(x):
    tf.io.write_file("written", tf.io.serialize_tensor(x))
    return x


def calls_python(x):
    return tf.reshape(tf.py_function(lambda v: v, [x], tf.float32), tf.shape(x))


def prints(x):
    tf.print(x, output_stream="file://printed")
    return x


def reads_in_a_branch(x):
    return tf.cond(tf.reduce_sum(x) > 1e30, lambda: reads(x), lambda: x)


def reads_in_a_loop(x):
    return tf.while_loop(lambda i, v: i < 1, lambda i, v: (i + 1, reads(v)), (0, x))[1]


def reads_a_data_set(x):
    lines = tf.data.TextLineDataset("secret").map(tf.strings.length)
    return x + tf.cast(lines.reduce(0, lambda a, b: a + b), tf.float32)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (reads, ["ReadFile"]),
        (writes, ["WriteFile"]),
        (calls_python, ["EagerPyFunc"]),
        (prints, ["PrintV2"]),
        (reads_in_a_branch, ["ReadFile"]),
        (reads_in_a_loop, ["ReadFile"]),
        (reads_a_data_set, ["TextLineDataset"]),
    ],
)
def test_refused_by_server_and_converter(tmp_path, monkeypatch, body, found):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("12345")
    path = export(tmp_path, body)
    assert file_operations(read_meta_graph(path)) == found
    message = rf"1: this SavedModel can reach for files .*\({found[0]}\) and is refused.*--allow-"
    with pytest.raises(InputFileError, match=message):
        Servable("model", 1, path)
    with (
        pytest.raises(InputFileError, match="and is refused"),
        EmbeddedServer({"model": path.parent}, port=0),
    ):
        pass
    with pytest.raises(InputFileError, match=message):
        plain_graph(path, "serving_default")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "secret"]


def test_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("12345")
    path = export(tmp_path, reads)
    x = np.array([1.0], np.float32)
    servable = Servable("model", 1, path, allow_file_ops=True)
    assert servable.run("serving_default", {"x": x})["y"] == 12
    servable.close()
    with EmbeddedServer({"model": path.parent}, port=0, allow_file_ops=True) as server:
        assert server.port
    assert plain_graph(path, "serving_default", allow_file_ops=True).outputs == ("y",)


def test_ordinary_models_pass(tmp_path):
    """With variables to save and to restore, and a table to fill."""
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), default_value=0.0
    )
    path = export(tmp_path, lambda x: x + table.lookup(tf.constant("a")), table=table)
    meta_graph = read_meta_graph(path)
    for objects in (False, True):
        assert file_operations(meta_graph, objects=objects) == []
    functions = meta_graph.graph_def.library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert {"RestoreV2", "SaveV2"} <= operations  # they are there, but not within reach
    servable = Servable("model", 1, path)
    x = np.array([1.0], np.float32)
    assert servable.run("serving_default", {"x": x})["y"] == 4
    servable.close()
    assert plain_graph(path, "serving_default").outputs == ("y",)


def test_function_that_is_not_served(tmp_path, monkeypatch):
    """The session loader cannot reach it, ``tf.saved_model.load`` can."""
    monkeypatch.chdir(tmp_path)
    path = export(tmp_path, lambda x: x, also_unserved=True)
    assert file_operations(read_meta_graph(path)) == []
    assert file_operations(read_meta_graph(path), objects=True) == ["WriteFile"]
    Servable("model", 1, path).close()
    with pytest.raises(InputFileError, match="WriteFile"):
        plain_graph(path, "serving_default")
    assert not Path("unserved").exists()


def changed(path: Path, change) -> Path:
    file = path / "saved_model.pb"
    model = SavedModel.FromString(file.read_bytes())
    change(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())
    return path


def add(nodes, name: str, op: str, *inputs: str, text: str | None = None):
    node = nodes.add(name=name, op=op)
    node.input.extend(inputs)
    if text is not None:
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(text))
    return node


def write_beside(nodes) -> str:
    add(nodes, "evil/name", "Const", text="evil.txt")
    return add(nodes, "evil", "WriteFile", "evil/name", "evil/name").name


def by_control_input(meta):
    write_beside(meta.graph_def.node)
    outputs = meta.signature_def["serving_default"].outputs
    name = outputs["y"].name.partition(":")[0]
    next(n for n in meta.graph_def.node if n.name == name).input.append("^evil")


def by_initialisation(meta):
    meta.signature_def["__saved_model_init_op"].outputs[
        "__saved_model_init_op"
    ].name = write_beside(meta.graph_def.node)


def by_old_initialisation(meta):
    meta.collection_def["legacy_init_op"].node_list.value.append(write_beside(meta.graph_def.node))


def by_restoring(meta):
    restore = meta.saver_def.restore_op_name.partition(":")[0]
    name = write_beside(meta.graph_def.node)
    next(n for n in meta.graph_def.node if n.name == restore).input.append(f"^{name}")


def by_function_that_restores(meta):
    restore = next(
        f for f in meta.graph_def.library.function if any(n.op == "RestoreV2" for n in f.node_def)
    )
    add(restore.node_def, "evil/name", "Const", text="evil.txt")
    add(restore.node_def, "evil", "WriteFile", "evil/name:output:0", "evil/name:output:0")
    restore.control_ret["evil"] = "evil"


@pytest.mark.parametrize(
    "change",
    [
        by_control_input,
        by_initialisation,
        by_old_initialisation,
        by_restoring,
        by_function_that_restores,
    ],
)
def test_hidden_ways(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    path = changed(export(tmp_path, lambda x: x), change)
    with pytest.raises(InputFileError, match=r"\(WriteFile\) and is refused"):
        Servable("model", 1, path)
    assert not Path("evil.txt").exists()


def test_variables_of_another_place(tmp_path):
    """The graph that restores may read the folder it is given and no other."""

    def elsewhere(meta):
        add(meta.graph_def.node, "other", "Const", text="/somewhere/else/variables")
        restore = meta.saver_def.restore_op_name.partition(":")[0]
        node = next(n for n in meta.graph_def.node if n.name == restore)
        saver = meta.saver_def.filename_tensor_name.partition(":")[0]
        inputs = ["other" if name.partition(":")[0] == saver else name for name in node.input]
        assert inputs != list(node.input)
        del node.input[:]
        node.input.extend(inputs)

    path = changed(export(tmp_path, lambda x: x), elsewhere)
    with pytest.raises(InputFileError, match=r"\(RestoreV2\)"):
        Servable("model", 1, path)


def test_graph_that_runs_in_circles(tmp_path):
    def circle(meta):
        function = meta.graph_def.library.function[0]
        add(function.node_def, "again", function.signature.name)
        add(meta.graph_def.node, "a", "Identity", "b")
        add(meta.graph_def.node, "b", "Identity", "a")
        meta.signature_def["serving_default"].outputs["y"].name = "a:0"

    assert file_operations(read_meta_graph(changed(export(tmp_path, lambda x: x), circle))) == []


#: Names of inputs and attributes that say a path or an address.
SUSPICIOUS = re.compile(r"file|path|(^|_)dir|url|prefix|address|descriptor|host$", re.I)
HARMLESS = {
    # in memory, or not what the name says
    "CTCBeamSearchDecoder", "ExperimentalSetStatsAggregatorDataset", "SetStatsAggregatorDataset",
    "TensorSliceDataset", "ShardedFilename", "ShardedFilespec",
}  # fmt: skip


def registered() -> OpList:
    buffer = pywrap_tf_session.TF_GetAllOpList()
    return OpList.FromString(pywrap_tf_session.TF_GetBuffer(buffer))


def test_every_operation_with_a_path_is_known():
    """A TensorFlow with new operations of this kind makes this fail, to be looked at."""
    missing = []
    for op in registered().op:
        arguments = [*(arg.name for arg in op.input_arg), *(attr.name for attr in op.attr)]
        if any(SUSPICIOUS.search(name) for name in arguments) and op.name not in HARMLESS:
            missing.append(op.name)
    missing = [
        name
        for name in missing
        if not is_file_operation(name) and not name.startswith(("Cudnn", "RiscSort"))
    ]
    assert missing == []


def test_no_name_is_misspelt():
    """All but those that come and go with packages and versions are registered."""
    known = {op.name for op in registered().op}
    optional = {"InitializeTRTResource", "RemoteFusedGraphExecute", "Rpc", "TryRpc"}
    optional |= {name for name in FILE_OPERATIONS if name.startswith("Experimental")}
    assert FILE_OPERATIONS - known <= optional | {"DatasetFromGraph", "DebugIdentityV2"}


@pytest.mark.parametrize("name", ["AddV2", "ReadVariableOp", "AssignVariableOp", "Profile", "Pack"])
def test_harmless_names(name):
    assert not is_file_operation(name)


@pytest.mark.parametrize("name", ["IO>FileRead", "ReadFileV9", "MyRecordDataset"])
def test_likely_names(name):
    assert is_file_operation(name)


@pytest.mark.parametrize("command", [["serve"], ["convert", "m", "--to", "onnx", "-o", "x.onnx"]])
def test_option_of_the_commands(command):
    assert cli._parser().parse_args([*command, "--allow-file-ops"]).allow_file_ops
    assert not cli._parser().parse_args(command).allow_file_ops


def test_warm_up_record_that_claims_a_terabyte(tmp_path):
    """TensorFlow's reader would take the memory first and end the process."""
    path = export(tmp_path, lambda x: x)
    (path / "assets.extra").mkdir()
    records = path / "assets.extra" / WARM_UP_FILE
    records.write_bytes(struct.pack("<Q", 2**40) + struct.pack("<I", 0x3F3BA4B8) + b"abc" * 8)
    servable = Servable("model", 1, path)
    with pytest.raises(InputFileError, match="longer than the file"):
        servable.warm_up()
    servable.close()


def test_warm_up_tensor_that_claims_a_terabyte(tmp_path):
    path = export(tmp_path, lambda x: x)
    (path / "assets.extra").mkdir()
    log = prediction_log_pb2.PredictionLog()
    proto = log.predict_log.request.inputs["x"]
    proto.CopyFrom(tf.make_tensor_proto(np.float32(1)))
    for size in (2**20, 2**20):
        proto.tensor_shape.dim.add().size = size
    with tf.io.TFRecordWriter(str(path / "assets.extra" / WARM_UP_FILE)) as writer:
        writer.write(log.SerializeToString())
    servable = Servable("model", 1, path)
    with pytest.raises(InputFileError, match=r"tensor of 4398046511104 bytes, .*\(file_bytes\)"):
        servable.warm_up()
    servable.close()


def test_large_or_damaged_graph(tmp_path):
    path = export(tmp_path, lambda x: x)
    with limited(file_bytes=1000), pytest.raises(InputFileError, match=r"saved_model\.pb: .*1000"):
        Servable("model", 1, path)
    shutil.rmtree(path / "variables")
    with pytest.raises(InputFileError, match="cannot be loaded"):
        Servable("model", 1, path)
