from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import CODE_WIDTH, SIGNATURES
from tfstyle.errors import ArgumentError, ServingError, TfstyleError
from tfstyle.serving import AsyncClient, Client
from tfstyle.serving.status import StatusError


@pytest.fixture(params=["grpc", "rest"])
def each(request, server):
    """A client of each transport."""
    address = server.address if request.param == "grpc" else server.rest_address
    with Client(address, transport=request.param) as client:
        yield client


@pytest.mark.parametrize(
    ("content", "style"),
    [
        ((1, 1), (1, 1)),
        ((1, 40), (30, 1)),
        ((17, 33), (9, 8)),
        ((64, 48, 1), (20, 30, 1)),
        ((3, 15, 22, 1), (1, 11, 12, 1)),
        ((2, 16, 16, 1), (2, 18, 24, 1)),
        ((2, 16, 16, 1), (18, 24)),
    ],
)
def test_round_trip_equals_the_model_in_process(each, model, random, content, style):
    content, style = random.random(content), random.random(style)
    generated = each.stylize(content, style)
    assert generated.dtype == np.float32
    assert generated.shape == content.shape
    np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)


sides = st.integers(min_value=1, max_value=40)


@settings(max_examples=10, deadline=None)
@given(sizes=st.tuples(sides, sides, sides, sides), strength=st.floats(0, 1, width=32))
def test_any_size_and_strength(server, model, sizes, strength):
    random = np.random.default_rng(sizes)
    content, style = random.random(sizes[:2]), random.random(sizes[2:])
    with Client(server.address) as client:
        generated = client.stylize(content, style, strength)
    expected = model.stylize(content, style, strength)
    np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)


def test_strength_0_is_the_decoders_reconstruction(client, model, random):
    content, style = random.random((24, 20)), random.random((16, 16))
    reconstruction = model.decoder(model.encode(content[None, :, :, None].astype(np.float32)))
    expected = np.clip(np.asarray(reconstruction)[0, :, :, 0], 0, 1)
    np.testing.assert_allclose(
        client.stylize(content, style, 0.0, detail="plain"), expected, rtol=0, atol=1e-5
    )
    # Another style changes nothing then, but does at full strength.
    other = random.random((16, 16)) * 0.1
    np.testing.assert_array_equal(
        client.stylize(content, style, 0.0), client.stylize(content, other, 0.0)
    )
    full = client.stylize(content, style), client.stylize(content, other)
    assert np.abs(full[0] - full[1]).max() > 1e-4


def test_one_strength_for_each_content(each, model, random):
    content = random.random((3, 12, 14, 1), dtype=np.float32)
    style = random.random((1, 9, 9, 1), dtype=np.float32)
    strengths = np.array([0.0, 0.4, 1.0], np.float32)
    answer = each.predict(
        {"content": content, "style": style, "strength": strengths}, "stylize_strength"
    )
    for image, strength, generated in zip(content, strengths, answer["generated"], strict=True):
        expected = model.stylize(image, style[0], float(strength))
        np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)


class Recorder:
    """Stands between a client and its transport: remembers requests, answers what it is told."""

    def __init__(self, client, monkeypatch, fail=None):
        self.sizes, self.signatures, self.attempts = [], [], 0
        predict = client._transport.predict

        def record(choice, signature, inputs, outputs, timeout):
            self.attempts += 1
            if fail is not None and (error := fail(inputs)) is not None:
                raise error
            self.signatures.append(signature)
            self.sizes.append({name: len(v) for name, v in inputs.items() if v.ndim > 1})
            return predict(choice, signature, inputs, outputs, timeout)

        monkeypatch.setattr(client._transport, "predict", record)


def test_large_batches_go_in_several_requests(server, model, random, monkeypatch):
    content = random.random((5, 16, 18, 1), dtype=np.float32)
    styles = random.random((5, 8, 9, 1), dtype=np.float32)
    with Client(server.address, max_request_pixels=2 * 16 * 18) as client:
        recorder = Recorder(client, monkeypatch)
        each = client.stylize(content, styles)
        assert recorder.sizes == [{"content": n, "style": n} for n in (2, 2, 1)]
        recorder.sizes.clear()
        one = client.stylize(content, styles[0])
        # The style is sent once, then its code.
        assert recorder.sizes == [{"style": 1}, *({"content": n, "code": 1} for n in (2, 2, 1))]
        assert recorder.signatures[-4:] == ["encode_style", *["stylize_with_code"] * 3]
    np.testing.assert_allclose(each, model.stylize(content, styles), rtol=0, atol=1e-5)
    np.testing.assert_allclose(one, model.stylize(content, styles[0]), rtol=0, atol=1e-5)


def test_a_batch_size_for_servers_that_batch(server, model, random, monkeypatch):
    content = random.random((5, 8, 8, 1), dtype=np.float32)
    with Client(server.address, max_batch_size=3) as client:
        recorder = Recorder(client, monkeypatch)
        client.stylize(content, content)
    assert [sizes["content"] for sizes in recorder.sizes] == [3, 2]


@pytest.mark.parametrize(
    "error",
    [
        StatusError("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 8)"),
        StatusError("INVALID_ARGUMENT", "Task size 9 is larger than maximum input batch size 2"),
        StatusError(
            "INVALID_ARGUMENT", "content: 9 pixels are over this server's limit of 8 in one request"
        ),
    ],
)
def test_the_servers_limit_is_found_and_remembered(server, model, random, monkeypatch, error):
    content = random.random((7, 10, 12, 1), dtype=np.float32)
    with Client(server.address) as client:
        recorder = Recorder(client, monkeypatch, lambda i: error if len(i["content"]) > 2 else None)
        generated = client.stylize(content, content)
        assert [sizes["content"] for sizes in recorder.sizes] == [1] * 7
        assert recorder.attempts == 9  # 7, 3, then one by one
        client.stylize(content[:2], content[:2])
        assert recorder.attempts == 11
    np.testing.assert_allclose(generated, model.stylize(content, content), rtol=0, atol=1e-5)


def test_the_limit_of_a_real_server(each, model, random):
    # 4 x 30 000 pixels are over the server's 100 000; in gRPC and JSON.
    content = random.random((4, 120, 250, 1), dtype=np.float32).round(2)
    code = model.encode_style(content[0])
    generated = each.stylize(content, code)
    np.testing.assert_allclose(generated, model.stylize(content, code), rtol=0, atol=1e-4)


def test_one_image_too_large_is_not_tried_for_ever(server, monkeypatch, random):
    error = StatusError("RESOURCE_EXHAUSTED", "Received message larger than max")
    with Client(server.address) as client:
        recorder = Recorder(client, monkeypatch, lambda inputs: error)
        with pytest.raises(ServingError, match="larger than max"):
            client.stylize(random.random((3, 8, 8, 1)), GOOD)
    assert recorder.attempts == 2


# -- codes and blends ---------------------------------------------------------------------------


@pytest.mark.parametrize("detail", ["guided", "plain"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_codes(each, model, random, detail, strength):
    content, style = random.random((3, 14, 12, 1)), random.random((9, 8))
    code = each.encode_style(style, detail)
    np.testing.assert_allclose(code, model.encode_style(style, detail), rtol=1e-5, atol=1e-5)
    generated = each.stylize(content, code, strength, detail=detail)
    expected = model.stylize(content, style, strength, detail=detail)
    np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)


def test_blends(client, model, random):
    content, styles = random.random((14, 12)), [random.random((9, 8)), random.random((7, 7))]
    mixed = [styles[0], client.encode_style(styles[1])]
    for weights in (None, [3, 1]):
        generated = client.stylize(content, mixed, style_weights=weights)
        expected = model.stylize(content, styles, style_weights=weights)
        np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)


def test_a_model_exported_without_codes(each, model, random, monkeypatch):
    each._settings.max_request_pixels = 100
    content, style = random.random((3, 10, 10, 1), dtype=np.float32), random.random((8, 8))
    words = {
        "grpc": ("FAILED_PRECONDITION", 'Serving signature key "encode_style" not found.'),
        "rest": (
            "INVALID_ARGUMENT",
            'Serving signature name: "encode_style" not found in signature def',
        ),
    }
    error = StatusError(*words[each._settings.address.transport])
    recorder = Recorder(each, monkeypatch, lambda i: None if "content" in i else error)
    for _ in range(2):
        generated = each.stylize(content, style)
        np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)
    assert recorder.signatures == ["stylize"] * 6
    assert recorder.attempts == 7  # the second time it is not asked again


@pytest.mark.parametrize(
    ("style", "weights", "message"),
    [
        (np.full((1, 2, 5), np.nan), None, "style: is no style code"),
        (np.full((1, 2, 5), -1.0), None, "style: is no style code"),
        (np.ones((3, 2, 5)), None, "style: batch of 3 for 2 contents"),
        ([], None, "list of styles is empty"),
        ([np.zeros((4, 4))], [1, 2], "style_weights: need 1"),
        ([np.zeros((4, 4))], [0], "must not all be 0"),
        (np.zeros((4, 4)), [1], "style_weights: need a list"),
        ([np.full((4, 4), 7)], None, r"style\[0\]: values lie in"),
    ],
)
def test_bad_codes_and_weights_are_not_sent(style, weights, message):
    with Client("127.0.0.1:1") as client, pytest.raises(ArgumentError, match=message):
        client.stylize(np.zeros((2, 8, 8, 1)), style, style_weights=weights)


# -- retries ------------------------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch):
    """Pauses between attempts, not made."""
    import tfstyle.serving.client as module

    made = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    return made


def test_unavailable_is_tried_again(server, monkeypatch, pauses):
    errors = [StatusError("UNAVAILABLE", "starting"), StatusError("UNAVAILABLE", "starting"), None]
    with Client(server.address, retries=3, backoff=0.2) as client:
        recorder = Recorder(client, monkeypatch, lambda inputs: errors.pop(0))
        assert client.stylize(GOOD, GOOD).shape == GOOD.shape
    assert recorder.attempts == 3
    assert len(pauses) == 2
    assert 0.1 <= pauses[0] <= 0.2
    assert 0.2 <= pauses[1] <= 0.4


def test_retries_end(server, monkeypatch, pauses):
    error = StatusError("UNAVAILABLE", "starting")
    with Client(server.address, retries=2) as client:
        recorder = Recorder(client, monkeypatch, lambda inputs: error)
        with pytest.raises(ServingError, match="no server can be reached") as caught:
            client.stylize(GOOD, GOOD)
    assert caught.value.code == "UNAVAILABLE"
    assert recorder.attempts == 3


def test_a_pause_that_would_outlast_the_deadline_is_not_made(server, monkeypatch, pauses):
    error = StatusError("UNAVAILABLE", "starting")
    with Client(server.address, backoff=30.0) as client:
        recorder = Recorder(client, monkeypatch, lambda inputs: error)
        with pytest.raises(ServingError, match="no server can be reached"):
            client.stylize(GOOD, GOOD, timeout=5)
    assert (recorder.attempts, pauses) == (1, [])


@pytest.mark.parametrize(
    "code",
    [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "INTERNAL",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNKNOWN",
    ],
)
def test_nothing_else_is_tried_again(server, monkeypatch, pauses, code):
    with Client(server.address) as client:
        recorder = Recorder(client, monkeypatch, lambda inputs: StatusError(code, "why"))
        with pytest.raises(ServingError, match=r"why|no answer") as caught:
            client.stylize(GOOD, GOOD)
    assert caught.value.code == code
    assert (recorder.attempts, pauses) == (1, [])


def test_constant_images(client, model):
    content, style = np.full((20, 20), 0.3), np.zeros((20, 20))
    generated = client.stylize(content, style)
    np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)
    assert np.isfinite(generated).all()


def test_status_and_metadata(each):
    assert each.status() == {1: "AVAILABLE"}
    image = "float32 (?, ?, ?, 1)"
    signatures = each.metadata()
    assert set(signatures) == SIGNATURES
    assert signatures["stylize"] == {
        "inputs": {"content": image, "style": image},
        "outputs": {"generated": image},
    }
    assert signatures["stylize_strength"]["inputs"]["strength"] == "float32 of any shape"
    assert signatures["encode_style"]["outputs"] == {"code": f"float32 (?, 2, {CODE_WIDTH})"}


def test_threads_share_a_client(each, model, random):
    style = random.random((12, 12))
    contents = [random.random((10 + i, 20 - i)) for i in range(6)]
    results: dict[int, np.ndarray] = {}

    def work(index):
        results[index] = each.stylize(contents[index], style)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, content in enumerate(contents):
        expected = model.stylize(content, style)
        np.testing.assert_allclose(results[index], expected, rtol=0, atol=1e-5)


GOOD = np.full((8, 8), 0.5)


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        (np.full((8, 8), np.nan), GOOD, "content: holds NaN"),
        (GOOD, np.full((8, 8), np.inf), "style: holds NaN or infinite"),
        (GOOD * 2000, GOOD, r"content: values lie in \[1000, 1000\], not in \[0, 1\]"),
        (GOOD, GOOD * -1, r"style: values lie in \[-0.5, -0.5\], not in \[0, 1\]"),
        (np.zeros((0, 8)), GOOD, "content: is empty"),
        (np.zeros((8, 8, 3)), GOOD, r"content: shape \(8, 8, 3\)"),
        (np.zeros(8), GOOD, r"content: shape \(8,\)"),
        ("text", GOOD, "content: not a numeric array"),
        (GOOD, np.zeros((2, 8, 8, 1)), "style: batch of 2 for 1 contents"),
    ],
)
def test_bad_images_are_not_sent(content, style, message):
    # No server is there: an answer about the argument shows that nothing was sent.
    with Client("127.0.0.1:1") as client, pytest.raises(ArgumentError, match=message):
        client.stylize(content, style)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_bad_strength_is_not_sent(strength):
    with Client("127.0.0.1:1") as client, pytest.raises(ArgumentError, match="strength"):
        client.stylize(GOOD, GOOD, strength)


@pytest.mark.parametrize("value", [np.array([object()]), [[1], [1, 2]]])
def test_input_that_is_no_tensor(each, value):
    with pytest.raises(ArgumentError, match="content"):
        each.predict({"content": value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": ""},
        {"target": "http://"},
        {"target": 8500},
        {"model_name": ""},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_request_pixels": 0},
        {"max_message_bytes": 0},
        {"max_batch_size": 0},
        {"transport": "http"},
        {"transport": "rest", "target": "grpc://127.0.0.1:1"},
        {"retries": -1},
        {"retries": 1.5},
        {"backoff": 0},
        {"headers": {"a": 1}},
        {"version_label": "stable", "version": 1},
        {"client_key": __file__},
        {"ca_certificate": "/no/such/file.pem"},
    ],
)
def test_bad_settings(arguments):
    name = {"client_key": "client_certificate"}.get(*[next(iter(arguments))] * 2)
    for kind in (Client, AsyncClient):
        with pytest.raises(TfstyleError, match=name):
            kind(**arguments)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_no_server(target):
    with Client(target, retries=1, backoff=0.01) as client:
        with pytest.raises(ServingError, match=r"127\.0\.0\.1:1: no server can be reached"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match="no server can be reached"):
            client.status()
        with pytest.raises(ServingError, match=r"no server answered within 0\.2 s"):
            client.wait_until_ready(0.2)


def test_closed_client(each):
    each.wait_until_ready()
    each.close()
    each.close()
    with pytest.raises(ServingError, match="closed"):
        each.status()


def test_unknown_model_and_version(each, server):
    target, transport = each.target, each._settings.address.transport
    with Client(target, "nothing", transport=transport) as client:
        with pytest.raises(ServingError, match="does not have the model 'nothing'") as caught:
            client.stylize(GOOD, GOOD)
        assert caught.value.code == "NOT_FOUND"
        with pytest.raises(ServingError, match="Could not find any versions of model nothing"):
            client.status()
    with Client(target, transport=transport, version=9) as client:
        with pytest.raises(ServingError, match="'stylize' version 9"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match="Could not find version 9"):
            client.status()
    with (
        Client(target, transport=transport, version_label="a b/c") as client,
        pytest.raises(ServingError, match="Unrecognized servable version label: a b/c"),
    ):
        client.stylize(GOOD, GOOD)


def test_limits_of_the_server_in_plain_words(each):
    with pytest.raises(ServingError, match=r"content: image side 301 is over .* limit of 300"):
        each.stylize(np.zeros((301, 2)), GOOD)
    large = np.random.default_rng(0).random((2, 300, 500, 1), np.float32)
    with pytest.raises(ServingError, match="too large or too many requests"):
        each.predict({"content": large, "style": large})


def test_deadline(each):
    each.stylize(GOOD, GOOD)  # REST asks for the metadata once
    with pytest.raises(ServingError, match=r"no answer within 0\.001 s") as caught:
        each.stylize(np.zeros((250, 250)), GOOD, timeout=1e-3)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert each.status() == {1: "AVAILABLE"}


def test_a_model_that_does_not_stylize(client, monkeypatch):
    answer = {"mask": np.zeros(1)}
    monkeypatch.setattr(client._transport, "predict", lambda *a, **k: answer)
    with pytest.raises(ServingError, match=r"not a stylize servable.*'mask'"):
        client.stylize(GOOD, GOOD)
    with pytest.raises(ServingError, match=r"not a stylize servable.*'mask'"):
        client.encode_style(GOOD)


def test_output_filter(each):
    inputs = {"content": GOOD[None, :, :, None], "style": GOOD[None, :, :, None]}
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    assert set(each.predict(inputs, outputs=["generated"])) == {"generated"}
    with pytest.raises(ServingError, match="alias not found in signature: other"):
        each.predict(inputs, outputs=["other"])


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_plain_detail(client, model, random, strength):
    content, style = random.random((20, 24)), random.random((16, 16))
    plain = client.stylize(content, style, strength, detail="plain")
    expected = model.stylize(content, style, strength, detail="plain")
    np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-5)
    assert np.abs(plain - client.stylize(content, style, strength)).max() > 0.01


def test_unknown_detail(client):
    with pytest.raises(ArgumentError, match="detail"):
        client.stylize(GOOD, GOOD, detail="sharp")


# -- scans, coroutines, TLS, headers --------------------------------------------------------------


def test_dicom_in_and_out(client, model, tmp_path):
    import pydicom
    from pydicom.data import get_testdata_file

    from tfstyle.stylize import stylize_scans

    source = get_testdata_file("CT_small.dcm", download=False)
    options = {"window": "soft_tissue", "style_window": "bone"}
    (done,) = client.stylize_scans([source], [source], tmp_path / "served", **options)
    (local,) = stylize_scans(model, [source], [source], tmp_path / "local", **options)
    images = [pydicom.dcmread(account.files[0]) for account in (done, local)]
    assert images[0].ImageType[0] == "DERIVED"
    values = [image.pixel_array * float(image.RescaleSlope) for image in images]
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=0.5)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_coroutines(server, model, random, transport):
    address = server.address if transport == "grpc" else server.rest_address
    contents = [random.random((10 + i, 12)) for i in range(4)]
    style = random.random((9, 9))

    async def work():
        async with AsyncClient(address, transport=transport, retries=1, backoff=0.01) as client:
            await client.wait_until_ready()
            assert await client.status() == {1: "AVAILABLE"}
            assert set(await client.metadata()) == SIGNATURES
            code = await client.encode_style(style)
            results = await asyncio.gather(*(client.stylize(c, code) for c in contents))
            image = np.full((1, 8, 8, 1), 0.5, np.float32)
            answer = await client.predict({"content": image, "style": image})
            assert answer["generated"].shape == image.shape
            with pytest.raises(ServingError, match="refused the request"):
                await client.predict({"content": image})
        with pytest.raises(ServingError, match="closed"):
            await client.status()
        async with AsyncClient(
            "127.0.0.1:1", transport=transport, retries=1, backoff=0.01
        ) as nobody:
            with pytest.raises(ServingError, match="no server can be reached"):
                await nobody.status()
            with pytest.raises(ServingError, match="no server answered"):
                await nobody.wait_until_ready(0.1)
        return results

    for content, generated in zip(contents, asyncio.run(work()), strict=True):
        np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority with a certificate for 127.0.0.1 and one for a client."""
    import trustme

    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "someone@example.org")):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


class Echo:
    """A ModelService that says which headers it was called with."""

    def __init__(self):
        self.headers = {}

    def get_model_status(self, request, context):
        from tensorflow_serving.apis import get_model_status_pb2

        self.headers.update(context.invocation_metadata())
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=4, state=30)
        return response


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_and_headers_over_grpc(certificates, mutual):
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc

    read = {p.name: p.read_bytes() for p in certificates.iterdir()}
    service = model_service_pb2_grpc.ModelServiceServicer()
    echo = Echo()
    service.GetModelStatus = echo.get_model_status
    server = grpc.server(ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials(
        [(read["server.key"], read["server.pem"])], read["ca.pem"], require_client_auth=mutual
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    trust = {"ca_certificate": certificates / "ca.pem"}
    own = {
        "client_certificate": certificates / "client.pem",
        "client_key": certificates / "client.key",
    }
    settings = {**trust, **(own if mutual else {}), "headers": {"Authorization": "Bearer x"}}
    target = f"grpcs://127.0.0.1:{port}"
    try:
        with Client(target, **settings) as client:
            assert client.status() == {4: "AVAILABLE"}
        assert echo.headers["authorization"] == "Bearer x"

        async def work():
            async with AsyncClient(target, **settings) as client:
                return await client.status()

        assert asyncio.run(work()) == {4: "AVAILABLE"}
        bad = [f"grpc://127.0.0.1:{port}"] if not mutual else [target]
        for address in bad:  # no TLS; no certificate of its own
            with (
                Client(address, retries=0, **(trust if mutual else {})) as client,
                pytest.raises(ServingError) as caught,
            ):
                client.status(timeout=20)
            assert caught.value.code == "UNAVAILABLE"
    finally:
        server.stop(None)


def test_tls_and_headers_over_rest(certificates):
    import http.server
    import ssl

    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            body = b'{"model_version_status": [{"version": "4", "state": "AVAILABLE"}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = f"https://127.0.0.1:{server.server_port}"
    try:
        with Client(
            target, ca_certificate=certificates / "ca.pem", headers={"Authorization": "Bearer x"}
        ) as client:
            assert client.status() == {4: "AVAILABLE"}
        assert seen[0]["Authorization"] == "Bearer x"
        with (
            Client(target, retries=0) as client,
            pytest.raises(ServingError, match="TLS failed"),
        ):
            client.status()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (200, b"<html>", "INTERNAL", "is this a model server"),
        (401, b"who?", "UNAUTHENTICATED", "HTTP 401"),
        (403, b'{"error": "not you"}', "PERMISSION_DENIED", "not you"),
        (502, b"", "UNAVAILABLE", "HTTP 502"),
        (504, b'{"error": "slow"}', "DEADLINE_EXCEEDED", "no answer within"),
        (418, b"", "UNKNOWN", "HTTP 418"),
    ],
)
def test_what_proxies_answer(monkeypatch, status, body, code, message):
    import requests

    def request(self, method, url, **options):
        response = requests.Response()
        response.status_code, response._content, response.reason = status, body, "reason"
        return response

    monkeypatch.setattr(requests.Session, "request", request)
    with (
        Client("http://127.0.0.1:1", retries=0) as client,
        pytest.raises(ServingError, match=message) as caught,
    ):
        client.status()
    assert caught.value.code == code
