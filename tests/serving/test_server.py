from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.models import SIGNATURES
from tfstyle.errors import ArgumentError, InputFileError, ServingError
from tfstyle.export import Servable
from tfstyle.serving import Batching, Client, EmbeddedServer, Limits, ServerInfo, serve
from tfstyle.serving.server import batching_parameters, model_server_config
from tfstyle.serving.status import clean_message
from tfstyle.serving.versions import ServedModel, models_of_config

ROOT = Path(__file__).parents[2]
GOOD = np.full((1, 8, 8, 1), 0.5, np.float32)


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
        proto = value if isinstance(value, TensorProto) else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(proto)
    return request


def refused(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    return caught.value.code().name, caught.value.details()


# -- protocol ------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", ["", "serving_default", "stylize"])
def test_predict_with_the_plain_stubs(stubs, model, random, signature):
    content = random.random((2, 13, 21, 1), dtype=np.float32)
    style = random.random((1, 20, 9, 1), dtype=np.float32)
    request = predict_request({"content": content, "style": style}, signature_name=signature)
    response = stubs[0].Predict(request, timeout=20)
    assert response.model_spec.name == "stylize"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == (signature or "serving_default")
    assert set(response.outputs) == {"generated"}
    np.testing.assert_allclose(
        tf.make_ndarray(response.outputs["generated"]),
        model.stylize(content, style),
        rtol=0,
        atol=1e-5,
    )


def test_inputs_as_typed_fields(stubs):
    proto = tf.make_tensor_proto(GOOD)
    fields = type(proto)()
    fields.dtype = proto.dtype
    fields.tensor_shape.CopyFrom(proto.tensor_shape)
    fields.float_val.extend(GOOD.ravel().tolist())
    by_field = stubs[0].Predict(predict_request({"content": fields, "style": fields}), timeout=20)
    by_bytes = stubs[0].Predict(predict_request(), timeout=20)
    np.testing.assert_array_equal(
        tf.make_ndarray(by_field.outputs["generated"]),
        tf.make_ndarray(by_bytes.outputs["generated"]),
    )


def test_explicit_version_and_output_filter(stubs):
    request = predict_request(version=1)
    request.output_filter.append("generated")
    assert set(stubs[0].Predict(request, timeout=20).outputs) == {"generated"}


@pytest.mark.parametrize(
    ("spec", "code", "details"),
    [
        ({"name": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"name": "other"}, "NOT_FOUND", "Servable not found for request: Latest(other)"),
        ({"version": 2}, "NOT_FOUND", "Servable not found for request: Specific(stylize, 2)"),
        (
            {"version_label": "stable"},
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: stable",
        ),
        (
            {"signature_name": "other"},
            "FAILED_PRECONDITION",
            'Serving signature key "other" not found.',
        ),
        (
            {"signature_name": "__saved_model_init_op"},
            "FAILED_PRECONDITION",
            'Serving signature key "__saved_model_init_op" not found.',
        ),
    ],
)
def test_model_spec_errors_as_tensorflow_serving_words_them(stubs, spec, code, details):
    assert refused(stubs[0].Predict, predict_request(**spec)) == (code, details)


def test_missing_model_spec(stubs):
    prediction, models = stubs
    missing = ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert refused(prediction.Predict, predict_pb2.PredictRequest()) == missing
    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    assert refused(prediction.GetModelMetadata, metadata) == missing
    status = get_model_status_pb2.GetModelStatusRequest()
    assert refused(models.GetModelStatus, status) == missing


def tensor(shape, dtype=tf.float32, content=b"", unknown=False):
    proto = tf.make_tensor_proto(np.float32(0))
    proto.Clear()
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.unknown_rank = unknown
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    proto.tensor_content = content
    return proto


@pytest.mark.parametrize(
    ("inputs", "details"),
    [
        ({"content": GOOD}, "Missing but required: {style}"),
        ({"content": GOOD, "style": GOOD, "other": GOOD}, "Sent extra: {other}"),
        ({"content": GOOD, "x": GOOD}, "Sent extra: {x}. Missing but required: {style}."),
        (
            {"content": GOOD.astype(np.float64), "style": GOOD},
            "content: expected float32 (?, ?, ?, 1), received float64 (1, 8, 8, 1)",
        ),
        ({"content": GOOD, "style": GOOD.astype(np.uint8)}, "style: expected float32"),
        ({"content": GOOD[0], "style": GOOD}, "received float32 (8, 8, 1)"),
        ({"content": np.zeros((1, 8, 8, 3), np.float32), "style": GOOD}, "(1, 8, 8, 3)"),
        ({"content": GOOD[:0], "style": GOOD}, "content: is empty"),
        ({"content": GOOD, "style": GOOD[:, :0]}, "style: is empty"),
        ({"content": GOOD, "style": np.concatenate([GOOD] * 2)}, "style: must hold one image"),
        ({"content": GOOD * np.nan, "style": GOOD}, "content : Tensor had NaN values"),
        ({"content": GOOD, "style": GOOD * np.inf}, "style : Tensor had Inf values"),
        (
            {"content": tensor((1, 8, 8, 1), content=b"123"), "style": GOOD},
            "parsing error: content",
        ),
        (
            {"content": tensor((1, -1, 8, 1)), "style": GOOD},
            "content: its shape is not fully given",
        ),
        ({"content": tensor((), unknown=True), "style": GOOD}, "content: its shape is not fully"),
        ({"content": tensor((1, 30_000, 1, 1)), "style": GOOD}, "content: image side 30000"),
        ({"content": GOOD, "style": tensor((9, 200, 200, 1))}, "style: 360000 pixels"),
        # Few bytes that claim a shape of many terabytes.
        ({"content": tensor((2**40, 1, 1, 1)), "style": GOOD}, "content: 1099511627776 pixels"),
    ],
)
def test_bad_inputs_name_the_input(stubs, inputs, details):
    code, received = refused(stubs[0].Predict, predict_request(inputs))
    assert code == "INVALID_ARGUMENT"
    assert details in received
    # The server goes on.
    assert stubs[0].Predict(predict_request(), timeout=20).outputs


@pytest.mark.parametrize(
    ("strength", "details"),
    [
        (np.float32(1.5), "strength: must lie in [0, 1]"),
        (np.float32(np.nan), "strength: must lie in [0, 1]"),
        (np.float32([0.1, 0.2]), "strength: must be one value, or one for each content"),
        (np.float32([]), "strength: must be one value, or one for each content"),
        (np.float64(0.5), "strength: expected float32 of any shape, received float64 ()"),
        (np.zeros(100_001, np.float32), "strength: 100001 pixels"),
    ],
)
def test_bad_strength(stubs, strength, details):
    inputs = {"content": GOOD, "style": GOOD, "strength": np.asarray(strength)}
    request = predict_request(inputs, signature_name="stylize_strength")
    code, received = refused(stubs[0].Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert details in received


def test_bad_output_filter(stubs):
    request = predict_request()
    request.output_filter.append("other")
    code, details = refused(stubs[0].Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("output tensor alias not found in signature: other")
    request = predict_request()
    request.output_filter.extend(["generated", "generated"])
    expected = ("INVALID_ARGUMENT", "duplicate output tensor alias: generated")
    assert refused(stubs[0].Predict, request) == expected


def test_long_details_are_cut(stubs):
    inputs = {"content": GOOD, "style": GOOD, **{f"{'x' * 100}{i}": GOOD for i in range(200)}}
    code, details = refused(stubs[0].Predict, predict_request(inputs))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("input size does not match signature: 202!=2")
    assert len(details) <= 1024


def test_message_over_the_limit(stubs):
    inputs = {"content": np.zeros((1, 600, 600, 1), np.float32), "style": GOOD}
    code, details = refused(stubs[0].Predict, predict_request(inputs))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in details


def test_metadata(stubs, saved_model):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "stylize"
    request.metadata_field.append("signature_def")
    response = stubs[0].GetModelMetadata(request, timeout=20)
    assert (response.model_spec.name, response.model_spec.version.value) == ("stylize", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) >= SIGNATURES
    info = signatures.signature_def["stylize"].inputs["content"]
    assert [d.size for d in info.tensor_shape.dim] == [-1, -1, -1, 1]


def test_metadata_errors(stubs):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "stylize"
    code, details = refused(stubs[0].GetModelMetadata, request)
    assert code == "INVALID_ARGUMENT"
    assert "at least one metadata_field" in details
    request.metadata_field.append("other")
    expected = ("INVALID_ARGUMENT", "Metadata field other is not supported")
    assert refused(stubs[0].GetModelMetadata, request) == expected
    request.metadata_field[0] = "signature_def"
    request.model_spec.name = "other"
    expected = ("NOT_FOUND", "Servable not found for request: Latest(other)")
    assert refused(stubs[0].GetModelMetadata, request) == expected


def test_status(stubs):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "stylize"
    (status,) = stubs[1].GetModelStatus(request, timeout=20).model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.status.error_code == 0
    request.model_spec.version.value = 1
    assert len(stubs[1].GetModelStatus(request, timeout=20).model_version_status) == 1
    request.model_spec.version.value = 5
    expected = ("NOT_FOUND", "Could not find version 5 of model stylize")
    assert refused(stubs[1].GetModelStatus, request) == expected
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "other"
    expected = ("NOT_FOUND", "Could not find any versions of model other")
    assert refused(stubs[1].GetModelStatus, request) == expected


def test_what_is_not_offered(stubs):
    for method, request in (
        (stubs[0].Classify, classification_pb2.ClassificationRequest()),
        (stubs[0].Regress, regression_pb2.RegressionRequest()),
        (stubs[0].MultiInference, inference_pb2.MultiInferenceRequest()),
    ):
        code, details = refused(method, request)
        assert code == "UNIMPLEMENTED"
        assert "tensorflow_model_server" in details


def test_health(server):
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "tensorflow.serving.PredictionService"):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert refused(check, health_pb2.HealthCheckRequest(service="other"))[0] == "NOT_FOUND"


def test_a_client_in_the_style_of_the_documentation(server, model, random):
    """TensorFlow Serving's example clients: plain stubs, make_tensor_proto, a future."""
    content = random.random((1, 12, 12, 1), dtype=np.float32)
    channel = grpc.insecure_channel(server.address)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "stylize"
    request.model_spec.signature_name = "serving_default"
    request.inputs["content"].CopyFrom(tf.make_tensor_proto(content, shape=content.shape))
    request.inputs["style"].CopyFrom(tf.make_tensor_proto(content, shape=content.shape))
    result = stub.Predict.future(request, 20.0).result()
    values = np.array(tf.make_ndarray(result.outputs["generated"]))
    channel.close()
    np.testing.assert_allclose(values, model.stylize(content, content), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ("content : Tensor had NaN values\n\t [[{{node CheckNumerics}}]]", None),
        ("Graph execution error:\n\ncontent : Tensor had NaN values\n\t [[x]]", None),
        ("{{function_node __f_1}} {{function_node g}} content : Tensor had NaN values", None),
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: content : Tensor had NaN values\n"
            "\t [[{{node a}}]]\n  (1) INVALID_ARGUMENT: b",
            None,
        ),
        (
            "assertion failed: [style: is empty; its shape is] [1 0]",
            "style: is empty; its shape is [1 0]",
        ),
        ("", ""),
    ],
)
def test_tensorflows_messages_are_made_readable(message, clean):
    assert clean_message(message) == ("content : Tensor had NaN values" if clean is None else clean)


# -- life, with a servable that loads in no time -----------------------------------------------


NUMBERS = np.ones((1, 2), np.float32)
SUM = {"x": NUMBERS, "amount": np.float32(1)}


def start_sum(sum_folder, **options):
    return EmbeddedServer(sum_folder, port=0, warm_up=False, poll_seconds=0, **options)


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


def sum_request(**inputs):
    return predict_request({**SUM, **inputs}, name="sum")


def test_requests_beyond_the_queue_are_refused(sum_folder, monkeypatch):
    limits = Limits(running=1, waiting=1)
    gate = Gate(monkeypatch)
    with (
        start_sum(sum_folder, limits=limits) as server,
        Client(server.address, "sum") as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        first = stub.Predict.future(sum_request(), timeout=20)
        assert gate.entered.acquire(timeout=20)
        # Of two more one finds the place to wait in, whichever the server sees first.
        others = [stub.Predict.future(sum_request(), timeout=20) for _ in range(2)]
        deadline = time.monotonic() + 20
        while not any(call.done() for call in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        waiting, refused = sorted(others, key=lambda call: call.done())
        assert refused.exception().code().name == "RESOURCE_EXHAUSTED"
        # Status has places of its own.
        assert client.status() == {2: "AVAILABLE"}
        gate.opened.set()
        assert first.result().outputs["y"].dtype
        assert waiting.result().outputs["y"].dtype


def test_deadline_that_passes_while_waiting(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    with (
        start_sum(sum_folder, limits=Limits(running=1)) as server,
        Client(server.address, "sum") as client,
    ):
        with pytest.raises(ServingError, match=r"no answer within 0\.5 s") as caught:
            client.predict(SUM, timeout=0.5)
        assert caught.value.code == "DEADLINE_EXCEEDED"
        gate.opened.set()
        np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])


def test_a_client_that_cancels_frees_its_place(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    with (
        start_sum(sum_folder, limits=Limits(running=1, waiting=1)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        first = stub.Predict.future(sum_request(), timeout=20)
        assert gate.entered.acquire(timeout=20)
        for _ in range(5):
            stub.Predict.future(sum_request(), timeout=20).cancel()
        gate.opened.set()
        assert first.result().outputs["y"].dtype
        assert stub.Predict(sum_request(), timeout=20).outputs["y"].dtype


def test_stop_lets_requests_in_progress_finish(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    server = start_sum(sum_folder, rest_port=0).start()
    url = f"http://{server.rest_address}/v1/models/sum:predict"
    answers = []
    body = {"inputs": {"x": [[1.0, 1.0]], "amount": [1.0]}}
    rest = threading.Thread(target=lambda: answers.append(requests.post(url, json=body)))
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = stub.Predict.future(sum_request(), timeout=20)
        rest.start()
        assert gate.entered.acquire(timeout=20)
        assert gate.entered.acquire(timeout=20)
        stopping = threading.Thread(target=server.stop, kwargs={"grace": 15})
        stopping.start()
        time.sleep(0.3)
        assert stopping.is_alive()
        gate.opened.set()
        assert set(call.result().outputs) == {"y"}
        rest.join(20)
        assert answers[0].json() == {"outputs": [[3.0, 3.0]]}
        stopping.join(20)
        assert not stopping.is_alive()


def test_unexpected_failure_is_internal_and_the_server_goes_on(sum_folder, monkeypatch, caplog):
    with start_sum(sum_folder) as server, Client(server.address, "sum") as client:
        with monkeypatch.context() as patch:
            patch.setattr(Servable, "run", lambda *a, **k: 1 / 0)
            with pytest.raises(ServingError, match="INTERNAL: internal error"):
                client.predict(SUM)
        assert "ZeroDivisionError" in caplog.text
        np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])


def test_requests_are_joined_and_answered_one_by_one(sum_folder, monkeypatch):
    gate = Gate(monkeypatch)
    with start_sum(
        sum_folder, limits=Limits(running=1), batching=Batching(8, timeout=0.0)
    ) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            calls = [
                stub.Predict.future(sum_request(x=np.float32([[i, 2 * i]])), timeout=20)
                for i in range(6)
            ]
            bad = stub.Predict.future(sum_request(x=np.float32([[-1, 2]])), timeout=20)
            assert gate.entered.acquire(timeout=20)
            gate.opened.set()
            for i, call in enumerate(calls):
                y = tf.make_ndarray(call.result().outputs["y"])
                np.testing.assert_array_equal(y, [[2 * i + 1, 4 * i + 1]])
            assert bad.exception().code().name == "INVALID_ARGUMENT"
            assert bad.exception().details() == "x: must be at least 0"
        sizes = ":tensorflow:serving:batching_session:processed_batch_size"
        page = server.metrics.page()
        runs = int(re.search(rf"^{sizes}_count{{}} (\d+)$", page, re.M)[1])
        assert runs < 8
        assert f"{sizes}_sum{{}} 7" in page or f"{sizes}_sum{{}} 7.0" in page


def test_no_request_is_lost_while_versions_change(sum_folder, tmp_path):
    folder = tmp_path / "sum"
    shutil.copytree(sum_folder / "1", folder / "1")
    problems, answers = [], {2.0: 0, 3.0: 0}
    done = threading.Event()

    def work(address):
        with Client(address, "sum", retries=0) as client:
            while not done.is_set():
                try:
                    (y,) = {float(v) for v in client.predict(SUM)["y"].ravel()}
                    answers[y] += 1
                except Exception as error:
                    problems.append(error)

    with EmbeddedServer(folder, port=0, poll_seconds=0.05) as server:
        threads = [threading.Thread(target=work, args=(server.address,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        with Client(server.address, "sum") as client:
            for version, wanted in ((2, {1: "END", 2: "AVAILABLE"}), (None, {1: "AVAILABLE"})):
                if version:
                    shutil.copytree(sum_folder / "2", tmp_path / "new")
                    (tmp_path / "new").rename(folder / "2")
                else:
                    shutil.rmtree(folder / "2")
                deadline = time.monotonic() + 30
                while not wanted.items() <= client.status().items():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        done.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert min(answers.values()) > 0


def test_reload_over_the_protocol(sum_folder, tmp_path):
    for name in ("sum", "other"):
        shutil.copytree(sum_folder / "1", tmp_path / name / "1")

    def config(*names):
        request = model_management_pb2.ReloadConfigRequest()
        for name in names:
            entry = request.config.model_config_list.config.add()
            entry.name, entry.model_platform = name, "tensorflow"
            entry.base_path = str(tmp_path / name)
            entry.version_labels["stable"] = 1
        return request

    with (
        EmbeddedServer(tmp_path / "sum", port=0, poll_seconds=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        assert reload(config("sum", "other"), timeout=20).status.error_code == 0
        with Client(server.address, "other", version_label="stable") as client:
            np.testing.assert_array_equal(client.predict(SUM)["y"], [[2, 2]])
        twice = config("sum", "sum")
        assert refused(reload, twice)[0] == "INVALID_ARGUMENT"
        assert set(server.models) == {"sum", "other"}


def test_start_and_stop(sum_folder):
    server = start_sum(sum_folder)
    for attribute in ("port", "rest_port"):
        with pytest.raises(ServingError, match="not running"):
            getattr(server, attribute)
    server.stop()  # nothing to stop
    assert server.start() is server
    assert server.address == f"127.0.0.1:{server.port}"
    assert server.rest_address is None
    with pytest.raises(ServingError, match="already listens"):
        server.start()
    first = server.address
    server.stop()
    server.stop()
    with (
        Client(first, retries=0) as client,
        pytest.raises(ServingError, match="no server can be reached"),
    ):
        client.status()
    with server, Client(server.address, "sum") as client:  # and again
        assert client.status() == {2: "AVAILABLE"}


def test_port_taken(server, sum_folder):
    with pytest.raises(ServingError, match=f"127.0.0.1:{server.port} cannot be listened on"):
        EmbeddedServer(sum_folder, port=server.port).start()
    with pytest.raises(ServingError, match=f"127.0.0.1:{server.rest_port} cannot be listened on"):
        EmbeddedServer(sum_folder, port=0, rest_port=server.rest_port).start()


def test_several_models(sum_folder):
    models = {"a": sum_folder, "b": sum_folder}
    with EmbeddedServer(models, port=0, warm_up=False) as server:
        for name in models:
            with Client(server.address, name) as client:
                assert client.status() == {2: "AVAILABLE"}
                assert client.predict(SUM)["y"].shape == (1, 2)


def test_models_config_file(sum_folder, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "sum" base_path: "{sum_folder}" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    with EmbeddedServer(file, port=0) as server:
        for choice, factor in (({}, 2), ({"version": 1}, 1), ({"version_label": "stable"}, 1)):
            with Client(server.address, "sum", **choice) as client:
                np.testing.assert_array_equal(client.predict(SUM)["y"], NUMBERS * factor + 1)
        # Warmed up with the records that the export wrote.
        assert f'model_path="{sum_folder / "1"}",status="OK"' in server.metrics.page()


def test_warns_when_not_on_loopback(sum_folder, monkeypatch, caplog):
    import tfstyle.serving.server as module

    bind = module._bind
    monkeypatch.setattr(module, "_bind", lambda server, _, port: bind(server, "127.0.0.1", port))
    with EmbeddedServer(sum_folder, host="0.0.0.0", port=0, warm_up=False):
        assert "without encryption or authentication" in caplog.text


@pytest.mark.parametrize("port", [-1, 65536, "8500", True])
def test_bad_port(sum_folder, port):
    with pytest.raises(ArgumentError, match="port"):
        EmbeddedServer(sum_folder, port=port)
    with pytest.raises(ArgumentError, match="rest_port"):
        EmbeddedServer(sum_folder, rest_port=port)
    with pytest.raises(ArgumentError, match="port"):
        serve(sum_folder, port=port)


@pytest.mark.parametrize("field", [field.name for field in fields(Limits)])
def test_bad_limits(field):
    with pytest.raises(ArgumentError, match=field):
        Limits(**{field: -1})


def test_bad_poll_seconds(sum_folder):
    with pytest.raises(ArgumentError, match="poll_seconds"):
        EmbeddedServer(sum_folder, poll_seconds=-1)


def test_damaged_model_ends_the_start(tmp_path):
    folder = tmp_path / "stylize" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"not a graph")
    with pytest.raises(InputFileError, match="cannot be loaded as a SavedModel"):
        EmbeddedServer(tmp_path, port=0).start()


# -- serve() -------------------------------------------------------------------------------


def test_serve_in_a_thread(sum_folder):
    stop, ready, infos = threading.Event(), threading.Event(), []

    def on_ready(info):
        infos.append(info)
        ready.set()

    thread = threading.Thread(
        target=serve,
        args=(sum_folder,),
        kwargs={
            "port": 0,
            "rest_port": 0,
            "backend": "embedded",
            "on_ready": on_ready,
            "stop": stop,
        },
    )
    thread.start()
    try:
        assert ready.wait(30)
        (info,) = infos
        assert info == ServerInfo("embedded", info.address, {"sum": sum_folder}, info.rest_address)
        for target in (info.address, f"http://{info.rest_address}"):
            with Client(target, "sum") as client:
                np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_serve_arguments(sum_folder, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="backend"):
        serve(sum_folder, backend="other")
    with pytest.raises(ArgumentError, match="grace"):
        serve(sum_folder, grace=-1)
    with pytest.raises(InputFileError, match="holds no model"):
        serve(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match="tensorflow_model_server is not on PATH"):
        serve(sum_folder, backend="tensorflow_model_server")


def start_process(models, *options, path=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.Popen(
        [sys.executable, "-m", "tfstyle.serving", str(models), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_ends_cleanly_on_signals(sum_folder, number):
    process = start_process(sum_folder, "--port=0", "--rest-port=0", "--backend=embedded")
    try:
        info = json.loads(process.stdout.readline())
        assert info["backend"] == "embedded"
        assert info["models"] == {"sum": str(sum_folder)}
        with Client(info["address"], "sum", retries=0) as client:
            np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])
            url = f"http://{info['rest_address']}/v1/models/sum"
            assert requests.get(url, timeout=20).status_code == 200
            process.send_signal(number)
            _, log = process.communicate(timeout=120)
            assert process.returncode == 0, log
            assert f"{signal.Signals(number).name} received, stopping" in log
            assert "embedded server stopped" in log
            assert "Traceback" not in log
            with pytest.raises(ServingError):
                client.status()
    finally:
        process.kill()
        process.communicate()


def test_process_with_no_model(tmp_path):
    process = start_process(tmp_path / "missing")
    _, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: " in log
    assert "missing: is not a folder" in log
    assert "Traceback" not in log


FAKE = """#!{python}
import json, pathlib, signal, socket, sys
record = pathlib.Path({record!r})
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
for name in flags:
    if name.endswith("_file"):
        pathlib.Path(flags[name]).read_text()
facts = {{"flags": flags, "config": pathlib.Path(flags["model_config_file"]).read_text()}}
record.write_text(json.dumps(facts))
if {mode!r} == "fails":
    sys.exit(3)
def terminate(number, frame):
    facts["signal"] = number
    record.write_text(json.dumps(facts))
    if {mode!r} == "obeys":
        sys.exit(0)
signal.signal(signal.SIGTERM, terminate)
servers = [
    socket.create_server(("127.0.0.1", int(flags[name])))
    for name in ("port", "rest_api_port")
    if name in flags
]
if servers:
    while True:
        signal.pause()
"""


@pytest.fixture
def fake(tmp_path):
    """Puts a stand-in for tensorflow_model_server in a folder, which is to be the PATH."""

    def make(mode):
        folder, record = tmp_path / "bin", tmp_path / "record.json"
        folder.mkdir()
        script = folder / "tensorflow_model_server"
        script.write_text(FAKE.format(python=sys.executable, record=str(record), mode=mode))
        script.chmod(0o755)
        return folder, record

    return make


def test_tensorflow_model_server_is_started_and_terminated(sum_folder, fake):
    folder, record = fake("obeys")
    process = start_process(sum_folder, "--port=0", "--rest-port=0", "--batch=4", path=folder)
    try:
        info = json.loads(process.stdout.readline())
        assert info["backend"] == "tensorflow_model_server"
        facts = json.loads(record.read_text())
        assert set(facts["flags"]) == {
            "allow_version_labels_for_unavailable_models",
            "batching_parameters_file",
            "enable_batching",
            "file_system_poll_wait_seconds",
            "model_config_file",
            "monitoring_config_file",
            "port",
            "rest_api_port",
        }
        assert info["address"] == f"127.0.0.1:{facts['flags']['port']}"
        assert info["rest_address"] == f"127.0.0.1:{facts['flags']['rest_api_port']}"
        config = text_format.Parse(facts["config"], model_server_config_pb2.ModelServerConfig())
        (entry,) = config.model_config_list.config
        assert entry.name == "sum"
        assert entry.base_path == str(sum_folder)
        assert entry.model_platform == "tensorflow"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        assert json.loads(record.read_text())["signal"] == signal.SIGTERM
        assert "listens on all interfaces" in log
        assert not Path(facts["flags"]["model_config_file"]).exists()
    finally:
        process.kill()
        process.communicate()


def run_with_fake(sum_folder, folder, monkeypatch, **options):
    monkeypatch.setenv("PATH", str(folder))
    serve(sum_folder, port=0, **options)


def test_tensorflow_model_server_that_ends_by_itself(sum_folder, fake, monkeypatch):
    folder, record = fake("fails")
    with pytest.raises(ServingError, match="ended by itself with exit status 3"):
        run_with_fake(sum_folder, folder, monkeypatch)
    assert record.exists()


def test_tensorflow_model_server_that_hangs_is_killed(sum_folder, fake, monkeypatch, caplog):
    folder, record = fake("hangs")
    stop = threading.Event()
    run_with_fake(
        sum_folder, folder, monkeypatch, grace=0.5, stop=stop, on_ready=lambda info: stop.set()
    )
    assert json.loads(record.read_text())["signal"] == signal.SIGTERM
    assert "is killed" in caplog.text


def test_embedded_backend_leaves_tensorflow_model_server_alone(sum_folder, fake, monkeypatch):
    folder, record = fake("obeys")
    stop, infos = threading.Event(), []

    def on_ready(info):
        infos.append(info)
        stop.set()

    run_with_fake(sum_folder, folder, monkeypatch, backend="embedded", stop=stop, on_ready=on_ready)
    assert [info.backend for info in infos] == ["embedded"]
    assert not record.exists()


def test_port_of_another_program_is_not_shared(sum_folder, fake, monkeypatch):
    folder, record = fake("obeys")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("PATH", str(folder))
        with pytest.raises(ServingError, match=f"port {port} is taken"):
            serve(sum_folder, port=port)
    assert not record.exists()


def test_signal_handlers_are_given_back(sum_folder):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop = threading.Event()
    serve(sum_folder, port=0, backend="embedded", stop=stop, on_ready=lambda _: stop.set())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_config_says_what_is_served(tmp_path):
    models = {
        'na"me': ServedModel('na"me', tmp_path / 'a "b"\\c'),
        "b": ServedModel("b", tmp_path, latest=2, labels={"stable": 3}),
        "c": ServedModel("c", tmp_path, latest=None),
        "d": ServedModel("d", tmp_path, specific=(4, 5)),
    }
    text = model_server_config(models)
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert models_of_config(config) == models


def test_batching_parameters():
    text = batching_parameters(Batching(4, timeout=0.003))
    assert text == "max_batch_size { value: 4 }\nbatch_timeout_micros { value: 3000 }\n"
