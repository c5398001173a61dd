"""The REST API, case by case against TensorFlow Serving's documentation ("RESTful API")."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.models import SIGNATURES

GRAY = [[[[0.1], [0.9]], [[0.4], [0.6]]]]


@pytest.fixture(scope="module")
def base(server):
    return f"http://{server.rest_address}"


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        yield session


def post(session, base, body, path="/v1/models/stylize:predict"):
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return session.post(base + path, data=data, timeout=30)


def error(response, status):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    return body["error"]


# -- model status ------------------------------------------------------------------------------


def test_status_is_the_documentations_example(session, base):
    expected = {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    for path in ("/v1/models/stylize", "/v1/models/stylize/versions/1", "/V1/Models/stylize"):
        response = session.get(base + path, timeout=30)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == expected


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/half", 404, "Could not find any versions of model half"),
        ("/v1/models/stylize/versions/2", 404, "Could not find version 2 of model stylize"),
        ("/v1/models/stylize/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/stylize/versions/x", 400, "Malformed request: GET"),
        ("/v1/models/stylize/versions/" + "9" * 40, 400, "Failed to convert version"),
        ("/v1/models/%FF", 400, "Failed to decode model name"),
        ("/v1/models/a%2Fb", 404, "Could not find any versions of model a/b"),
        ("/v1/other", 400, "Malformed request: GET /v1/other"),
    ],
)
def test_status_errors(session, base, path, status, message):
    assert message in error(session.get(base + path, timeout=30), status)


# -- model metadata ----------------------------------------------------------------------------


def test_metadata(session, base):
    body = session.get(f"{base}/v1/models/stylize/metadata", timeout=30).json()
    assert body["model_spec"] == {"name": "stylize", "signature_name": "", "version": "1"}
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= SIGNATURES
    content = signatures["stylize"]["inputs"]["content"]
    assert content["dtype"] == "DT_FLOAT"
    assert [d["size"] for d in content["tensor_shape"]["dim"]] == ["-1", "-1", "-1", "1"]
    assert content["tensor_shape"]["unknown_rank"] is False
    assert signatures["stylize"]["method_name"] == "tensorflow/serving/predict"
    missing = session.get(f"{base}/v1/models/half/metadata", timeout=30)
    assert error(missing, 404) == "Servable not found for request: Latest(half)"


# -- predict -----------------------------------------------------------------------------------


def test_column_format(session, base, model, random):
    content = random.random((2, 6, 5, 1), dtype=np.float32)
    style = random.random((1, 4, 4, 1), dtype=np.float32)
    inputs = {"content": content.tolist(), "style": style.tolist()}
    for path in ("/v1/models/stylize:predict", "/v1/models/stylize/versions/1:predict"):
        response = post(session, base, {"inputs": inputs}, path)
        assert response.status_code == 200, response.text
        assert set(response.json()) == {"outputs"}
        expected = model.stylize(content, style)
        np.testing.assert_allclose(response.json()["outputs"], expected, rtol=0, atol=1e-5)


def test_row_format(session, base, model, random):
    content = random.random((2, 6, 5, 1), dtype=np.float32)
    style = random.random((2, 4, 4, 1), dtype=np.float32)
    rows = [{"content": c.tolist(), "style": s.tolist()} for c, s in zip(content, style)]
    response = post(session, base, {"signature_name": "stylize", "instances": rows})
    assert response.status_code == 200, response.text
    predictions = response.json()["predictions"]
    np.testing.assert_allclose(predictions, model.stylize(content, style), rtol=0, atol=1e-5)


def test_codes_and_a_scalar(session, base, model):
    body = {"signature_name": "encode_style", "instances": GRAY}
    code = post(session, base, body).json()["predictions"]
    inputs = {"content": GRAY, "code": code, "strength": 0.5}
    body = {"signature_name": "stylize_with_code_strength", "inputs": inputs}
    image = np.float32(GRAY)
    outputs = post(session, base, body).json()["outputs"]
    np.testing.assert_allclose(outputs, model.stylize(image, image, 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "The document is empty"),
        (b"\x00\xff garbage", 400, "JSON Parse error"),
        (b"[[[[" * 50_000, 400, "JSON Parse error"),
        ([1], 400, "Is not object"),
        ({}, 400, "Missing 'inputs' or 'instances' key"),
        ({"inputs": {"content": GRAY}}, 400, "Missing named input: style"),
        ({"inputs": GRAY}, 400, "inputs is a plain value/list"),
        ({"instances": GRAY}, 400, "expecting list of objects"),
        ({"instances": []}, 400, "No values in 'instances'"),
        ({"inputs": GRAY, "instances": GRAY}, 400, "only one of"),
        ({"signature_name": 1, "inputs": GRAY}, 400, "must be a string"),
        (
            {"signature_name": "other", "inputs": GRAY},
            400,
            'Serving signature name: "other" not found in signature def',
        ),
        ({"inputs": {"content": "text", "style": GRAY}}, 400, "content: a JSON value is not"),
        ({"inputs": {"content": [[1], [1, 2]], "style": GRAY}}, 400, "content: lists have unequal"),
        ({"inputs": {"content": [], "style": GRAY}}, 400, "content: expected float32"),
        ({"inputs": {"content": [[[]]], "style": GRAY}}, 400, "content: expected float32"),
        ({"inputs": {"content": GRAY[0], "style": GRAY}}, 400, "received float32 (2, 2, 1)"),
        (
            {"inputs": {"content": [[[[float("nan")]]]], "style": GRAY}},
            400,
            "content: holds NaN or infinite values",
        ),
        ({"inputs": {"content": GRAY, "style": GRAY * 3}}, 400, "style: must hold one image"),
        ({"inputs": {"content": [[[[0]]] * 301], "style": GRAY}}, 400, "content: image side 301"),
    ],
)
def test_bad_requests(session, base, body, status, message):
    assert message in error(post(session, base, body), status)
    # The server goes on.
    good = {"inputs": {"content": GRAY, "style": GRAY}}
    assert post(session, base, good).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/half:predict", 404, "Servable not found for request: Latest(half)"),
        (
            "/v1/models/stylize/versions/7:predict",
            404,
            "Servable not found for request: Specific(stylize, 7)",
        ),
        (
            "/v1/models/stylize/labels/stable:predict",
            400,
            "Unrecognized servable version label: stable",
        ),
        ("/v1/models/stylize:classify", 501, "Classify is not offered"),
        ("/v1/models/stylize:regress", 501, "Regress is not offered"),
        ("/v1/models/stylize:explain", 400, "Malformed request: POST"),
        ("/v1/models/stylize", 400, "Malformed request: POST"),
    ],
)
def test_bad_paths(session, base, path, status, message):
    body = {"inputs": {"content": GRAY, "style": GRAY}}
    assert message in error(post(session, base, body, path), status)


def test_other_methods_and_paths(session, base):
    url = f"{base}/v1/models/stylize:predict"
    assert "Malformed request: GET" in error(session.get(url, timeout=30), 400)
    assert "Malformed request: PUT" in error(session.put(url, timeout=30), 400)
    assert session.get(f"{base}/", timeout=30).status_code == 404
    assert session.get(f"{base}/favicon.ico", timeout=30).status_code == 404


def test_a_body_over_the_limit(session, base):
    with requests.post(
        f"{base}/v1/models/stylize:predict", data=b" " * (2**20 + 1), timeout=30
    ) as response:
        assert response.status_code == 413
    assert session.get(f"{base}/v1/models/stylize", timeout=30).status_code == 200


def test_chunked_bodies(session, base):
    text = json.dumps({"inputs": {"content": GRAY, "style": GRAY}}).encode()
    parts = (text[i : i + 10] for i in range(0, len(text), 10))
    response = session.post(f"{base}/v1/models/stylize:predict", data=parts, timeout=30)
    assert np.shape(response.json()["outputs"]) == np.shape(GRAY)


def test_a_client_in_the_style_of_the_documentation(base):
    """curl -d '{…}' -X POST http://…:predict, which sends a form's content type."""
    code = (
        "import json, sys, urllib.request as u; "
        "answer = u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(), method='POST')); "
        "print(json.load(answer)['outputs'])"
    )
    body = json.dumps({"inputs": {"content": GRAY, "style": GRAY}})
    done = subprocess.run(
        [sys.executable, "-c", code, f"{base}/v1/models/stylize:predict", body],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert np.shape(json.loads(done.stdout)) == np.shape(GRAY)


def test_metrics(session, base, server, client):
    def read():
        response = session.get(f"{base}/monitoring/prometheus/metrics", timeout=30)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        families = text_string_to_metric_families(response.text)
        return {
            (
                s.name.removesuffix("_total"),
                *(v for k, v in sorted(s.labels.items()) if k != "le"),
            ): s.value
            for f in families
            for s in f.samples
        }

    before = read()
    post(session, base, {"inputs": {"content": GRAY, "style": GRAY}})
    post(session, base, {"inputs": {"content": [[[[2e9]]]], "style": []}})
    post(session, base, {}, "/v1/models/made_up:predict")
    client.stylize(np.float32(GRAY), np.float32(GRAY))
    after = read()

    def grown(*key):
        return after.get(key, 0) - before.get(key, 0)

    count = ":tensorflow:serving:request_count"
    assert grown(count, "stylize", "OK") == 2
    assert grown(count, "stylize", "INVALID_ARGUMENT") == 1
    latency = ":tensorflow:serving:request_latency_count"
    assert grown(latency, "predict", "REST", "stylize") == 1
    assert grown(latency, "Predict", "GRPC", "stylize") == 1
    assert grown(":tensorflow:serving:runtime_latency_count", "Predict", "stylize", "TF1") == 2
    # Names that clients make up are no series of their own.
    assert not [key for key in after if "made_up" in key]


def test_keep_alive_and_pipelining(server):
    request = b"GET /v1/models/stylize HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.sendall(request * 2)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 2:
            part = connection.recv(65536)
            assert part
            received += part
