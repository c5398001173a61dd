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
#: Of any handle, so that it is passed on in its full width.
Handle = type("Handle", (ctypes.c_void_p,), {})
#: Functions that give something else than a handle.
RESULTS = {
    "TF_GetCode": ctypes.c_int,
    "TF_Message": ctypes.c_char_p,
    "TF_TensorData": ctypes.c_void_p,
    "TF_TensorByteSize": ctypes.c_size_t,
}


class Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t))


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
    """The few calls of the C API that serving needs; what they allocate stays till the end."""

    def __init__(self, folder: Path):
        self.c = TensorFlow()
        self.status, self.graph = self.c.TF_NewStatus(), self.c.TF_NewGraph()
        tags, meta_graph = (ctypes.c_char_p * 1)(b"serve"), self.c.TF_NewBuffer()
        options = self.c.TF_NewSessionOptions()
        self.session = self.c.TF_LoadSessionFromSavedModel(
            options, None, str(folder).encode(), tags, 1, self.graph, meta_graph, self.status
        )
        self.check()
        content = ctypes.cast(meta_graph, ctypes.POINTER(Buffer)).contents
        stored = ctypes.string_at(content.data, content.length)
        self.signatures = MetaGraphDef.FromString(stored).signature_def

    def check(self) -> None:
        assert self.c.TF_GetCode(self.status) == 0, self.c.TF_Message(self.status).decode()

    def output(self, tensor_name: str) -> Output:
        operation, index = tensor_name.split(":")
        handle = self.c.TF_GraphOperationByName(self.graph, operation.encode())
        assert handle, f"the graph has no operation {operation}"
        return Output(handle.value, int(index))

    def tensor(self, array: np.ndarray) -> Handle:
        dims, size = (ctypes.c_int64 * array.ndim)(*array.shape), ctypes.c_size_t(array.nbytes)
        tensor = self.c.TF_AllocateTensor(TF_FLOAT, dims, array.ndim, size)
        ctypes.memmove(self.c.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The values of a signature's only output, flat."""
        signature, count = self.signatures[name], len(inputs)
        feeds = (Output * count)(*(self.output(signature.inputs[key].name) for key in inputs))
        tensors = (Handle * count)(*map(self.tensor, inputs.values()))
        (info,) = signature.outputs.values()
        fetches, values = (Output * 1)(self.output(info.name)), (Handle * 1)()
        given, fetched = (feeds, tensors, count), (fetches, values, 1)
        self.c.TF_SessionRun(self.session, None, *given, *fetched, None, 0, None, self.status)
        self.check()
        data, size = self.c.TF_TensorData(values[0]), self.c.TF_TensorByteSize(values[0])
        return np.frombuffer(ctypes.string_at(data, size), np.float32)


@pytest.fixture(scope="module")
def session(saved_model):
    return Session(saved_model)


@pytest.mark.parametrize(
    ("signature", "content", "style"),
    [("stylize", (2, 27, 38), (1, 21, 16)), ("serving_default", (1, 1, 1), (1, 1, 1))],
)
def test_generates_what_python_does(session, model, random, signature, content, style):
    content = random.random((*content, 1), dtype=np.float32)
    style = random.random((*style, 1), dtype=np.float32)
    generated = session.run(signature, {"content": content, "style": style})
    expected = model.stylize(content, style)
    np.testing.assert_allclose(generated.reshape(content.shape), expected, rtol=0, atol=5e-5)
