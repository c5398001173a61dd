"""Operations of a SavedModel that reach for files, other processes or Python.

A SavedModel is a program: whoever loads it runs its graph. Most operations compute; those named
here read or write files of the machine, open connections, call back into Python, or carry another
graph inside. Every SavedModel has some of them to save and restore its variables, which is why only
those are counted that loading or a served signature can run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tfstyle.errors import InputFileError

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef, NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

_NAMES = """
CSVDataset CSVDatasetV2 CacheDataset CacheDatasetV2 CalibrationStatisticsSaver CloseSummaryWriter
CreateSummaryDbWriter CreateSummaryFileWriter DTensorRestoreV2 DataServiceDataset
DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 DatasetFromGraph DatasetToTFRecord
DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary DecodeProtoV2
DistributedSave DumpTensor EagerPyFunc EncodeProto ExperimentalCSVDataset
ExperimentalDatasetToTFRecord ExperimentalLMDBDataset ExperimentalMatchingFilesDataset
ExperimentalSqlDataset FileSystemSetConfiguration FixedLengthRecordDataset
FixedLengthRecordDatasetV2 FixedLengthRecordReader FixedLengthRecordReaderV2
FixedUnigramCandidateSampler FlushSummaryWriter GenerateVocabRemapping ImportEvent
InitializeTRTResource InitializeTableFromTextFile InitializeTableFromTextFileV2 LMDBDataset
LMDBReader ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles
MatchingFilesDataset MergeV2Checkpoints PrintV2 PyFunc PyFuncStateless ReadFile RecordInput
RegisterDataset RegisterDatasetV2 RemoteCall RemoteFusedGraphExecute Restore RestoreSlice
RestoreV2 Rpc RpcCall RpcCheckStatus RpcClient RpcGetValue RpcServer RpcServerRegister
RpcServerStart Save SaveDataset SaveDatasetV2 SaveSlices SaveV2 Skipgram SnapshotChunkDataset
SnapshotDataset SnapshotDatasetReader SnapshotDatasetV2 SnapshotNestedDatasetReader SqlDataset
StatsAggregatorSetSummaryWriter SummaryWriter TFRecordDataset TFRecordDatasetV2 TFRecordReader
TFRecordReaderV2 TextLineDataset TextLineReader TextLineReaderV2 TryRpc WholeFileReader
WholeFileReaderV2 WriteAudioSummary WriteFile WriteGraphSummary WriteHistogramSummary
WriteImageSummary WriteRawProtoSummary WriteScalarSummary WriteSummary
"""

FILE_OPERATIONS = frozenset(_NAMES.split())

#: Operations of other packages, and names that newer TensorFlows may add.
_LIKELY = re.compile(
    r"^IO>|PyFunc|(Read|Write|Save|Load|Dump|Matching).*File|FileReader|(File|Record)Dataset"
)

#: What restores variables.
_RESTORING = frozenset({"RestoreV2", "Restore", "RestoreSlice", "DTensorRestoreV2"})

_DT_STRING = 7


def is_file_operation(name: str) -> bool:
    """Whether an operation of this name reaches beyond the graph."""
    return name in FILE_OPERATIONS or _LIKELY.search(name) is not None


def file_operations(meta_graph: MetaGraphDef, *, objects: bool = False) -> list[str]:
    """Names of the operations beyond the graph that using a SavedModel can run, sorted.

    Counted is what signatures and initialisation reach: through inputs, control inputs and
    functions. In the graph that restores variables, reading them from the model's own folder is
    not counted, anything else is. The graph that saves is never run.

    Args:
        meta_graph: Of the SavedModel.
        objects: Count also what ``tf.saved_model.load`` can run: every function that the model's
            objects have, and so the initialisation of its resources.
    """
    graph = _Graph(meta_graph.graph_def)
    starts = []
    for signature in meta_graph.signature_def.values():
        for info in (*signature.outputs.values(), *signature.inputs.values()):
            starts.append(info.name)
            starts.extend(part.name for part in info.composite_tensor.components)
            sparse = info.coo_sparse
            starts.extend(
                (
                    sparse.values_tensor_name,
                    sparse.indices_tensor_name,
                    sparse.dense_shape_tensor_name,
                )
            )
    for collection in ("saved_model_main_op", "legacy_init_op"):
        starts.extend(meta_graph.collection_def[collection].node_list.value)
    functions = list(meta_graph.object_graph_def.concrete_functions) if objects else []
    found = {node.op for node, _ in graph.reached(starts, functions) if is_file_operation(node.op)}
    saver = meta_graph.saver_def
    for node, arguments in graph.reached([saver.restore_op_name], ()):
        if not is_file_operation(node.op):
            continue
        given = _node_name(node.input[0]) if node.input else ""
        own = arguments if arguments is not None else {_node_name(saver.filename_tensor_name)}
        if node.op not in _RESTORING or given not in own:
            found.add(node.op)
    return sorted(found)


def refuse_file_operations(meta_graph: MetaGraphDef, path: Path, *, objects: bool = False) -> None:
    """Makes sure that a SavedModel only computes.

    Args:
        meta_graph: Of the SavedModel.
        path: Its folder, for the message.
        objects: See :func:`file_operations`.

    Raises:
        InputFileError: It can reach for files, other processes or Python.
    """
    found = file_operations(meta_graph, objects=objects)
    if found:
        raise InputFileError(
            path,
            "this SavedModel can reach for files or run code beyond its graph "
            f"({', '.join(found)}) and is refused. If you trust where it is from, allow it: "
            "--allow-file-ops, or allow_file_ops=True.",
        )


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


class _Graph:
    """Walks from outputs to all that has to run for them."""

    def __init__(self, graph_def: GraphDef):
        self.nodes = {node.name: node for node in graph_def.node}
        self.functions = {f.signature.name: f for f in graph_def.library.function}

    def reached(
        self, tensors: Iterable[str], functions: Iterable[str]
    ) -> Iterator[tuple[NodeDef, set[str] | None]]:
        """Nodes that some tensors or operations need, and all nodes of the functions they call.

        Yields:
            A node; and the names of its function's arguments that may be the path of the
            checkpoint, None in the graph itself.
        """
        waiting = [_node_name(tensor) for tensor in tensors if tensor]
        seen: set[str] = set()
        called = dict.fromkeys(functions, True)  # whether all their arguments come from outside
        while waiting:
            name = waiting.pop()
            node = self.nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            yield node, None
            waiting.extend(map(_node_name, node.input))
            fixed = any(self._is_text(_node_name(tensor)) for tensor in node.input)
            for function in self._calls(node):
                called[function] = called.get(function, True) and not fixed
        done: set[str] = set()
        while called:
            name, open_arguments = called.popitem()
            function = self.functions.get(name)
            if function is None or name in done:
                continue
            done.add(name)
            arguments = {argument.name for argument in function.signature.input_arg}
            for node in function.node_def:
                yield node, arguments if open_arguments else set()
                for inner in self._calls(node):
                    called.setdefault(inner, False)

    def _is_text(self, name: str) -> bool:
        """Whether a node is a text that the model brings along, such as a path."""
        node = self.nodes.get(name)
        return node is not None and node.op == "Const" and node.attr["dtype"].type == _DT_STRING

    def _calls(self, node: NodeDef) -> Iterator[str]:
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            yield from (function.name for function in value.list.func)
