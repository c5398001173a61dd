"""The development server: protocol, wrong values, limits, concurrency and its end."""

import contextlib
import socket
import sys
import threading
import time
from dataclasses import fields

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from tests.minis import empty_versions
from tfstyle.errors import ArgumentError, InputFileError, ServingError
from tfstyle.export import Servable
from tfstyle.serving import Client, DevelopmentServer, Limits, resolve_models

GOOD = np.full((1, 8, 8, 1), 0.5, np.float32)
SUM = {"x": np.ones((1, 2), np.float32), "amount": np.float32(1)}


@pytest.fixture(scope="module")
def stubs(server):
    """The stubs of tensorflow-serving-api with nothing of tfstyle's client between."""
    with grpc.insecure_channel(server.address) as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


def predict_request(inputs=None, **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.pop("name", "stylize")
    if "version" in spec:
        request.model_spec.version.value = spec.pop("version")
    for key, value in spec.items():
        setattr(request.model_spec, key, value)
    for name, value in ({"content": GOOD, "style": GOOD} if inputs is None else inputs).items():
        proto = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(proto)
    return request


def refused(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize("signature", ["", "stylize"])
def test_predict_with_the_plain_stubs(stubs, model, random, signature):
    content = random.random((2, 13, 21, 1), dtype=np.float32)
    style = random.random((1, 20, 9, 1), dtype=np.float32)
    request = predict_request({"content": content, "style": style}, signature_name=signature)
    request.output_filter.append("generated")
    request.model_spec.version.value = 1
    response = stubs[0].Predict(request, timeout=20)
    spec = response.model_spec
    assert (spec.name, spec.version.value) == ("stylize", 1)
    assert spec.signature_name == (signature or "serving_default")
    assert set(response.outputs) == {"generated"}
    generated = tf.make_ndarray(response.outputs["generated"])
    np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)


def test_model_spec_errors_as_tensorflow_serving_words_them(stubs):
    for spec, code, details in (
        ({"name": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"name": "other"}, "NOT_FOUND", "Servable not found for request: Latest(other)"),
        ({"version": 2}, "NOT_FOUND", "Servable not found for request: Specific(stylize, 2)"),
        ({"version_label": "s"}, "INVALID_ARGUMENT", "Unrecognized servable version label: s"),
        ({"signature_name": "s"}, "FAILED_PRECONDITION", 'Serving signature key "s" not found.'),
    ):
        assert refused(stubs[0].Predict, predict_request(**spec)) == (code, details)


def test_health(server):
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "tensorflow.serving.PredictionService"):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert refused(check, health_pb2.HealthCheckRequest(service="other"))[0] == "NOT_FOUND"


def tensor(shape, content=b""):
    proto = tf.make_tensor_proto(np.float32(0))
    proto.Clear()
    proto.dtype = tf.float32.as_datatype_enum
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    proto.tensor_content = content
    return proto


def strength(value):
    return {"strength": np.asarray(value)}


@pytest.mark.parametrize(
    ("inputs", "details"),
    [
        ({"x": GOOD}, "Sent extra: {x}."),
        (
            {"content": GOOD.astype(np.float64)},
            "content: expected float32 (?, ?, ?, 1), received float64 (1, 8, 8, 1)",
        ),
        ({"style": np.concatenate([GOOD] * 2)}, "style: must hold one image"),
        ({"style": GOOD * 255}, "style: values must lie between 0 and 1; apply"),
        ({"content": tensor((1, 8, 8, 1), b"123")}, "parsing error: content"),
        ({"content": tensor((1, 30_000, 1, 1))}, "content: image side 30000"),
        # Few bytes that claim a shape of many terabytes.
        ({"content": tensor((2**40, 1, 1, 1))}, "content: 1099511627776 pixels"),
        (strength(np.float32(1.5)), "strength: must lie in [0, 1]"),
        (strength(np.zeros(100_001, np.float32)), "strength: 100001 pixels"),
    ],
)
def test_bad_inputs_name_the_input(stubs, inputs, details):
    signature = "stylize_strength" if "strength" in inputs else "stylize"
    inputs = {"content": GOOD, "style": GOOD, **inputs}
    request = predict_request(inputs, signature_name=signature)
    code, received = refused(stubs[0].Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert details in received
    assert "{{" not in received  # TensorFlow names the nodes of its graph
    assert stubs[0].Predict(predict_request(), timeout=20).outputs  # the server continues


class Gate:
    """Holds every run of every graph until it is opened."""

    def __init__(self, monkeypatch):
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        run = Servable.run

        def held(*args, **kwargs):
            self.entered.release()
            assert self.opened.wait(20)
            return run(*args, **kwargs)

        monkeypatch.setattr(Servable, "run", held)


def sum_request():
    return predict_request(SUM, name="sum")


@contextlib.contextmanager
def summing(sum_folder, **limits):
    """A server of sums, and a stub of it."""
    with (
        DevelopmentServer(sum_folder, port=0, limits=Limits(**limits)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield server, prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_requests_beyond_the_queue_are_refused(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    with summing(sum_folder, running=1, waiting=1) as (_, stub):
        first = stub.Predict.future(sum_request(), timeout=20)
        assert gate.entered.acquire(timeout=20)
        # Of two more one finds the place to wait in, whichever the server sees first.
        others = [stub.Predict.future(sum_request(), timeout=20) for _ in range(2)]
        deadline = time.monotonic() + 20
        while not any(call.done() for call in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        waiting, turned_away = sorted(others, key=lambda call: call.done())
        assert turned_away.exception().code().name == "RESOURCE_EXHAUSTED"
        gate.opened.set()
        assert first.result().outputs["y"].dtype
        assert waiting.result().outputs["y"].dtype


def test_unexpected_failure_is_internal_and_the_server_goes_on(sum_folder, monkeypatch, caplog):
    with summing(sum_folder) as (server, _), Client(server.address, "sum") as client:
        with monkeypatch.context() as patch:
            patch.setattr(Servable, "run", lambda *a, **k: 1 / 0)
            with pytest.raises(ServingError, match="INTERNAL: internal error"):
                client.predict(SUM)
        assert "ZeroDivisionError" in caplog.text
        np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])


def test_start_and_stop(sum_folder):
    server = DevelopmentServer(sum_folder, port=0)
    with pytest.raises(ServingError, match="not running"):
        _ = server.port
    server.stop()  # nothing to stop
    assert server.start() is server
    first = server.address
    assert first == f"127.0.0.1:{server.port}"
    with pytest.raises(ServingError, match="already listens"):
        server.start()
    server.stop()
    server.stop()
    with Client(first, retries=0) as client, pytest.raises(ServingError, match="no server can be"):
        client.status()
    with server, Client(server.address, "sum") as client:  # and again
        assert client.status() == {2: "AVAILABLE"}


def test_stop_lets_requests_in_progress_finish(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    with summing(sum_folder) as (server, stub):
        call = stub.Predict.future(sum_request(), timeout=20)
        assert gate.entered.acquire(timeout=20)
        stopping = threading.Thread(target=server.stop, kwargs={"grace": 15})
        stopping.start()
        stopping.join(0.3)
        assert stopping.is_alive()
        gate.opened.set()
        assert set(call.result().outputs) == {"y"}
        stopping.join(20)
        assert not stopping.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine")
def test_it_listens_on_one_address_alone(server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_wrong_arguments(sum_folder):
    with pytest.raises(ArgumentError, match="port: must"):
        DevelopmentServer(sum_folder, port=65536)
    for field in fields(Limits):
        with pytest.raises(ArgumentError, match=f"{field.name}: must"):
            Limits(**{field.name: 1.5})


def test_models_as_a_user_would_name_them(tmp_path, monkeypatch):
    stylize = empty_versions(tmp_path / "stylize", "1", "2")
    unet = empty_versions(tmp_path / "unet", "1")
    (tmp_path / "README.md").touch()
    (tmp_path / "empty").mkdir()
    both = {"stylize": stylize, "unet": unet}
    assert resolve_models(tmp_path) == both
    assert resolve_models(stylize) == {"stylize": stylize}
    assert resolve_models({"other_name": str(unet)}) == {"other_name": unet}
    monkeypatch.chdir(stylize)
    assert resolve_models(".") == {"stylize": stylize}


def test_folders_without_models(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="has no model"):
        resolve_models(tmp_path)
    with pytest.raises(ArgumentError, match="models: must"):
        resolve_models({"a/b": "folder"})
    for models, message in (
        ({"stylize": tmp_path / "empty"}, "is not a SavedModel"),
        (tmp_path / "missing", "is not a folder"),
        ({"stylize": tmp_path / "missing"}, "no such folder"),
        ({"stylize": empty_versions(tmp_path / "m", "1") / "1"}, "is a version folder"),
    ):
        with pytest.raises(InputFileError, match=message):
            resolve_models(models)
    (tmp_path / "m" / "2").mkdir()
    with pytest.raises(InputFileError, match=r"2: has no saved_model\.pb"):
        resolve_models(tmp_path)
