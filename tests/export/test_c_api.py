"""The export through TensorFlow's C API alone, as TensorFlow Serving and C programs load it.

``TF_LoadSessionFromSavedModel`` gives the session and the MetaGraphDef; tensor names come from
the signatures in that MetaGraphDef, and ``TF_SessionRun`` feeds and fetches them.
"""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

TF_FLOAT = 1
TF_OK = 0
#: Of any handle, so that it is passed on in its full width.
Handle = type("Handle", (ctypes.c_void_p,), {})
#: Functions that give something else than a handle.
RESULTS = {
    "TF_GetCode": ctypes.c_int,
    "TF_Message": ctypes.c_char_p,
    "TF_TensorData": ctypes.c_void_p,
    "TF_TensorType": ctypes.c_int,
    "TF_TensorByteSize": ctypes.c_size_t,
    "TF_NumDims": ctypes.c_int,
    "TF_Dim": ctypes.c_int64,
}


class Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("data_deallocator", ctypes.c_void_p),
    )


class Output(ctypes.Structure):
    _fields_ = (("oper", ctypes.c_void_p), ("index", ctypes.c_int))


class TensorFlow:
    """Functions of the C API by name."""

    def __init__(self):
        package = Path(tf.__file__).parent
        # The name of the library differs by version and platform.
        paths = [*package.glob("libtensorflow*"), *package.glob("python/*pywrap_tensorflow*")]
        for path in sorted(paths):
            if any(kind in path.name for kind in (".so", ".dylib", ".pyd")):
                self.library = ctypes.CDLL(str(path))
                if hasattr(self.library, "TF_LoadSessionFromSavedModel"):
                    return
        raise AssertionError(f"no library of {package} exports the C API; looked at {paths}")

    def __getattr__(self, name: str):
        function = getattr(self.library, name)
        function.restype = RESULTS.get(name, Handle)
        return function


class Session:
    """The few calls of the C API that serving needs."""

    def __init__(self, folder: Path, tag: str = "serve"):
        self.c = TensorFlow()
        self.status = self.c.TF_NewStatus()
        self.graph = self.c.TF_NewGraph()
        options = self.c.TF_NewSessionOptions()
        meta_graph = self.c.TF_NewBuffer()
        self.session = self.c.TF_LoadSessionFromSavedModel(
            options,
            None,
            str(folder).encode(),
            (ctypes.c_char_p * 1)(tag.encode()),
            1,
            self.graph,
            meta_graph,
            self.status,
        )
        self.c.TF_DeleteSessionOptions(options)
        try:
            self.check()
            content = ctypes.cast(meta_graph, ctypes.POINTER(Buffer)).contents
            self.meta_graph = MetaGraphDef.FromString(
                ctypes.string_at(content.data, content.length)
            )
        finally:
            self.c.TF_DeleteBuffer(meta_graph)

    def check(self) -> None:
        if self.c.TF_GetCode(self.status) != TF_OK:
            raise RuntimeError(self.c.TF_Message(self.status).decode())

    def output(self, tensor_name: str) -> Output:
        operation, index = tensor_name.split(":")
        handle = self.c.TF_GraphOperationByName(self.graph, operation.encode())
        assert handle, f"the graph has no operation {operation}"
        return Output(handle.value, int(index))

    def tensor(self, array: np.ndarray) -> Handle:
        array = np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
        dims = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
        size = ctypes.c_size_t(array.nbytes)
        tensor = self.c.TF_AllocateTensor(TF_FLOAT, dims, array.ndim, size)
        ctypes.memmove(self.c.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def array(self, tensor: Handle) -> np.ndarray:
        assert self.c.TF_TensorType(tensor) == TF_FLOAT
        shape = [self.c.TF_Dim(tensor, i) for i in range(self.c.TF_NumDims(tensor))]
        data = ctypes.string_at(self.c.TF_TensorData(tensor), self.c.TF_TensorByteSize(tensor))
        return np.frombuffer(data, np.float32).reshape(shape)

    def run(self, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        signature = self.meta_graph.signature_def[signature_name]
        feeds = [self.output(signature.inputs[name].name) for name in inputs]
        tensors = [self.tensor(array) for array in inputs.values()]
        names = sorted(signature.outputs)
        fetches = [self.output(signature.outputs[name].name) for name in names]
        values = (Handle * len(fetches))()
        self.c.TF_SessionRun(
            self.session,
            None,
            (Output * len(feeds))(*feeds),
            (Handle * len(tensors))(*tensors),
            len(feeds),
            (Output * len(fetches))(*fetches),
            values,
            len(fetches),
            None,
            0,
            None,
            self.status,
        )
        for tensor in tensors:
            self.c.TF_DeleteTensor(tensor)
        self.check()
        results = {name: self.array(value) for name, value in zip(names, values, strict=True)}
        for value in values:
            self.c.TF_DeleteTensor(value)
        return results

    def close(self) -> None:
        if self.session:
            self.c.TF_CloseSession(self.session, self.status)
            self.c.TF_DeleteSession(self.session, self.status)
        self.c.TF_DeleteGraph(self.graph)
        self.c.TF_DeleteStatus(self.status)


@pytest.fixture(scope="module")
def session(saved_model):
    session = Session(saved_model)
    yield session
    session.close()


@pytest.mark.parametrize(
    ("signature", "content", "style"),
    [("stylize", (2, 27, 38), (1, 21, 16)), ("serving_default", (1, 1, 1), (1, 1, 1))],
)
def test_generates_what_python_does(session, model, random, signature, content, style):
    content = random.random((*content, 1), dtype=np.float32)
    style = random.random((*style, 1), dtype=np.float32)
    results = session.run(signature, {"content": content, "style": style})
    assert set(results) == {"generated"}
    np.testing.assert_allclose(
        results["generated"], model.stylize(content, style), rtol=0, atol=5e-5
    )


def test_the_graph_refuses_what_is_not_gray_itself(session, random):
    content = random.random((1, 8, 8, 1), dtype=np.float32)
    broken = content.copy()
    broken[0, 3, 3] = np.nan
    with pytest.raises(RuntimeError, match="content: holds NaN"):
        session.run("stylize", {"content": broken, "style": content})
    with pytest.raises(RuntimeError, match="style: values must lie between 0 and 1; apply a w"):
        session.run("encode_style", {"style": 2000 * content - 1000})
