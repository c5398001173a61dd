"""The client, blocking and for asyncio, with the development server at the other end."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from tests.models import SIGNATURES
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.serving import AsyncClient, Client, DevelopmentServer, Limits

GOOD = np.full((8, 8), 0.5)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "style"), [((1, 40), (30, 1)), ((3, 15, 22, 1), (1, 11, 12, 1))]
)
def test_round_trip_equals_the_model_in_process(client, model, random, content, style):
    content, style = random.random(content), random.random(style)
    generated = client.stylize(content, style)
    assert (generated.dtype, generated.shape) == (np.float32, content.shape)
    batch = content.reshape((-1, *content.shape[-3:-1], 1)) if content.ndim > 2 else content
    own = style.reshape((-1, *style.shape[-3:-1], 1)) if style.ndim > 2 else style
    same(generated, model.stylize(batch, own).reshape(content.shape))
    assert generated.flags.writeable


def record(client, monkeypatch):
    """Signature and batch sizes of every request that a client sends from now on."""
    sent, predict = [], client.predict

    def recorded(inputs, signature, **options):
        sent.append((signature, {n: len(v) for n, v in inputs.items() if np.ndim(v)}))
        return predict(inputs, signature, **options)

    monkeypatch.setattr(client, "predict", recorded)
    return sent


def test_large_batches_go_in_several_requests(server, model, random, monkeypatch):
    content = random.random((5, 16, 18, 1), dtype=np.float32)
    styles = random.random((5, 8, 9, 1), dtype=np.float32)
    with Client(server.address, max_request_pixels=2 * 16 * 18) as client:
        sent = record(client, monkeypatch)
        same(client.stylize(content, styles), model.stylize(content, styles))
        assert sent == [("stylize", {"content": n, "style": n}) for n in (2, 2, 1)]
        sent.clear()
        same(client.stylize(content, styles[0]), model.stylize(content, styles[:1]))
        assert sent == [("stylize", {"content": n, "style": 1}) for n in (2, 2, 1)]


def test_the_servers_limit_is_found_and_remembered(client, model, random, monkeypatch):
    # 4 x 30 000 pixels are over the server's 100 000.
    content = random.random((4, 120, 250, 1), dtype=np.float32)
    code = client.encode_style(content[0])
    sent = record(client, monkeypatch)
    for sizes in ([4, 2, 2], [2, 2]):
        same(client.stylize(content, code), model.stylize(content, content[:1]))
        assert [size["content"] for _, size in sent] == sizes
        sent.clear()


def test_the_limit_of_a_message(models_folder, model, random):
    content = random.random((3, 100, 100, 1), dtype=np.float32)
    with (
        DevelopmentServer(models_folder, port=0, limits=Limits(message_bytes=50_000)) as server,
        Client(server.address) as client,
    ):
        same(client.stylize(content, GOOD), model.stylize(content, GOOD))
        with pytest.raises(ServingError, match="larger than max"):
            client.stylize(random.random((200, 200)), GOOD)  # one image: not halved for ever


def test_codes_and_blends(client, model, random):
    strength, content, styles = (
        0.5,
        random.random((14, 12)),
        [random.random((9, 8)), random.random((7, 7))],
    )
    code = client.encode_style(styles[1])
    assert code.shape == (1, 2, 3)
    generated = client.stylize(content, code, strength)
    same(generated, model.stylize(content, styles[1], strength))
    same(generated, client.stylize(content, styles[1], strength))
    # Blends are averages of what is generated.
    one, other = (model.stylize(content, style, strength) for style in styles)
    for weights, share in ((None, 0.5), ([3, 1], 0.75)):
        found = client.stylize(content, [styles[0], code], strength, style_weights=weights)
        same(found, share * one + (1 - share) * other)


def test_wrong_values_are_not_sent():
    """No server is there."""
    for content, style, options, message in (
        (GOOD * 2000, GOOD, {}, r"content: values lie in \[1000, 1000\], not in \[0, 1\]"),
        (GOOD, np.zeros((2, 8, 8, 1)), {}, "style: batch of 2 for 1 contents"),
        (GOOD, [GOOD], {"style_weights": [1, 2]}, "style_weights: need 1"),
        (GOOD, GOOD, {"timeout": 0}, "timeout: must be a number of seconds above 0"),
    ):
        with Client("127.0.0.1:1") as client, pytest.raises(ArgumentError, match=message):
            client.stylize(content, style, **options)


def test_wrong_settings():
    for argument, values in (
        ("target", ["grpc://", "http://127.0.0.1:8501", 8500]),
        ("retries", [-1, 1.5]),
        ("headers", [{"a": 1}]),
    ):
        for value in values:
            with pytest.raises(ArgumentError, match=f"{argument}: must"):
                Client(**{argument: value})
    with pytest.raises(ArgumentError, match="version_label"):
        Client(version=1, version_label="stable")


def test_status_and_metadata(client):
    assert client.status() == {1: "AVAILABLE"}
    image, signatures = "float32 (?, ?, ?, 1)", client.metadata()
    assert set(signatures) == SIGNATURES
    assert signatures["stylize"] == {
        "inputs": {"content": image, "style": image},
        "outputs": {"generated": image},
    }
    assert signatures["stylize_strength"]["inputs"]["strength"] == "float32 of any shape"
    assert signatures["encode_style"]["outputs"] == {"code": "float32 (?, 2, 3)"}


def test_unknown_model_and_version(server):
    with Client(server.address, "nothing") as client:
        with pytest.raises(ServingError, match="does not have the model 'nothing'") as caught:
            client.stylize(GOOD, GOOD)
        assert caught.value.code == "NOT_FOUND"
    label, said = "a b/c", "Unrecognized servable version label: a b/c"
    with (
        Client(server.address, version_label=label) as client,
        pytest.raises(ServingError, match=said),
    ):
        client.stylize(GOOD, GOOD)


def test_no_server():
    with Client("127.0.0.1:1", retries=1) as client:
        with pytest.raises(ServingError, match=r"127\.0\.0\.1:1: no server can be reached"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match=r"no server answered within 0\.2 s"):
            client.wait_until_ready(0.2)


@contextmanager
def answering(answer, credentials=None):
    """A PredictionService and ModelService that answer every call by a function."""
    calls = []

    def handle(request, context):
        calls.append(dict(context.invocation_metadata()))
        return answer(len(calls), context)

    handler = grpc.unary_unary_rpc_method_handler(
        handle, response_serializer=lambda response: response.SerializeToString()
    )
    methods = {"Predict": handler, "GetModelStatus": handler}
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    for service in ("PredictionService", "ModelService"):
        handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", methods)
        server.add_generic_rpc_handlers([handler])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", calls
    finally:
        server.stop(None).wait()


def available(*_):
    response = get_model_status_pb2.GetModelStatusResponse()
    response.model_version_status.add(version=4, state=30)
    return response


def failing(code, times):
    def answer(number, context):
        if number <= times:
            context.abort(getattr(grpc.StatusCode, code), "why")
        response = predict_pb2.PredictResponse()
        response.outputs["y"].CopyFrom(tf.make_tensor_proto(np.zeros(3, np.float32)))
        return response

    return answer


def test_unavailable_is_tried_again():
    with answering(failing("UNAVAILABLE", 2)) as (address, calls), Client(address) as client:
        image = np.zeros((1, 700, 700, 1), np.float32)  # far above gRPC's own buffer for retries
        assert client.predict({"content": image})["y"].shape == (3,)
        assert len(calls) == 3


def test_retries_end():
    for code, retries, attempts, message in (
        ("UNAVAILABLE", 2, 3, "no server can be reached"),
        ("INVALID_ARGUMENT", 2, 1, "why"),  # nothing else is tried again
    ):
        with (
            answering(failing(code, 99)) as (address, calls),
            Client(address, retries=retries) as client,
            pytest.raises(ServingError, match=message) as caught,
        ):
            client.predict({})
        assert caught.value.code == code
        assert len(calls) == attempts


def test_deadline_covers_all_attempts():
    def slow(number, context):
        if number > 1:
            time.sleep(1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "starting")

    with answering(slow) as (address, _), Client(address) as client:
        with pytest.raises(ServingError, match=r"no answer within 0\.5 s") as caught:
            client.predict({}, timeout=0.5)
        assert caught.value.code == "DEADLINE_EXCEEDED"


def test_headers():
    with (
        answering(available) as (address, calls),
        Client(address, headers={"Authorization": "Bearer x"}) as client,
    ):
        assert client.status() == {4: "AVAILABLE"}
        assert calls[0]["authorization"] == "Bearer x"


def test_credentials():
    # gRPC's credentials for local connections stand for TLS, which needs certificates.
    with answering(available, grpc.local_server_credentials()) as (address, _):
        credentials = grpc.local_channel_credentials()
        for target in (address, f"grpcs://{address}"):
            with Client(target, credentials=credentials) as client:
                assert client.status() == {4: "AVAILABLE"}
    with (
        answering(available) as (address, calls),
        Client(f"grpcs://{address}", retries=0) as client,  # no TLS at the other end
        pytest.raises(ServingError) as caught,
    ):
        client.status(timeout=20)
    assert caught.value.code == "UNAVAILABLE"
    assert calls == []


def test_coroutines(server, model, random):
    contents = [random.random((10 + i, 12)) for i in range(6)]
    style = random.random((9, 9))

    async def work():
        async with AsyncClient(server.address) as client:
            await client.wait_until_ready()
            assert await client.status() == {1: "AVAILABLE"}
            assert set(await client.metadata()) == SIGNATURES
            code = await client.encode_style(style)
            results = await asyncio.gather(*(client.stylize(c, code) for c in contents))
            with pytest.raises(ServingError, match="refused the request"):
                await client.predict({"content": np.zeros((1, 8, 8, 1), np.float32)})
            with pytest.raises(ArgumentError, match="content: holds NaN"):
                await client.stylize(GOOD * np.nan, code)
        with pytest.raises(ServingError, match="closed"):
            await client.status()
        return results

    for content, generated in zip(contents, asyncio.run(work()), strict=True):
        same(generated, model.stylize(content, style))


def test_coroutines_run_at_the_same_time_and_end_with_the_client():
    arrived, released = threading.Event(), threading.Event()
    together = threading.Barrier(2, arrived.set)

    def hang(number, context):
        together.wait(20)  # broken where one call waits for the other
        released.wait(30)
        context.abort(grpc.StatusCode.INTERNAL, "late")

    async def work(address):
        client = AsyncClient(address)
        calls = [asyncio.ensure_future(client.status(timeout=60)) for _ in range(2)]
        assert await asyncio.to_thread(arrived.wait, 20)
        await client.close()
        for call in calls:
            with pytest.raises(ServingError, match=r"CANCELLED|closed"):
                await call

    with answering(hang) as (address, _):
        asyncio.run(work(address))
        released.set()
