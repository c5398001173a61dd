from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import SIGNATURES
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.serving import Client


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
def test_round_trip_equals_the_model_in_process(client, model, random, content, style):
    content, style = random.random(content), random.random(style)
    generated = client.stylize(content, style)
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


def test_one_strength_for_each_content(client, model, random):
    content = random.random((3, 12, 14, 1), dtype=np.float32)
    style = random.random((1, 9, 9, 1), dtype=np.float32)
    strengths = np.array([0.0, 0.4, 1.0], np.float32)
    answer = client.predict(
        {"content": content, "style": style, "strength": strengths}, "stylize_strength"
    )
    for image, strength, generated in zip(content, strengths, answer["generated"], strict=True):
        expected = model.stylize(image, style[0], float(strength))
        np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)


def test_large_batches_go_in_several_requests(server, model, random, monkeypatch):
    content = random.random((5, 16, 18, 1), dtype=np.float32)
    styles = random.random((5, 8, 9, 1), dtype=np.float32)
    with Client(server.address, max_request_pixels=2 * 16 * 18) as client:
        sizes, predict = [], client.predict

        def count(inputs, *args, **kwargs):
            sizes.append((len(inputs["content"]), len(inputs["style"])))
            return predict(inputs, *args, **kwargs)

        monkeypatch.setattr(client, "predict", count)
        each = client.stylize(content, styles)
        one = client.stylize(content, styles[0])
    assert sizes == [(2, 2), (2, 2), (1, 1), (2, 1), (2, 1), (1, 1)]
    np.testing.assert_allclose(each, model.stylize(content, styles), rtol=0, atol=1e-5)
    np.testing.assert_allclose(one, model.stylize(content, styles[0]), rtol=0, atol=1e-5)


def test_constant_images(client, model):
    content, style = np.full((20, 20), 0.3), np.zeros((20, 20))
    generated = client.stylize(content, style)
    np.testing.assert_allclose(generated, model.stylize(content, style), rtol=0, atol=1e-5)
    assert np.isfinite(generated).all()


def test_status_and_metadata(client):
    assert client.status() == {1: "AVAILABLE"}
    image = "float32 (?, ?, ?, 1)"
    signatures = client.metadata()
    assert set(signatures) == SIGNATURES
    assert signatures["stylize"] == {
        "inputs": {"content": image, "style": image},
        "outputs": {"generated": image},
    }
    assert signatures["stylize_strength"]["inputs"]["strength"] == "float32 of any shape"


def test_threads_share_a_client(client, model, random):
    style = random.random((12, 12))
    contents = [random.random((10 + i, 20 - i)) for i in range(6)]
    results: dict[int, np.ndarray] = {}

    def work(index):
        results[index] = client.stylize(contents[index], style)

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


def test_input_that_is_no_tensor():
    with Client("127.0.0.1:1") as client, pytest.raises(ArgumentError, match="content"):
        client.predict({"content": np.array([object()])})


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": ""},
        {"target": 8500},
        {"model_name": ""},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_request_pixels": 0},
        {"max_message_bytes": 0},
    ],
)
def test_bad_settings(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        Client(**arguments)


def test_no_server():
    with Client("127.0.0.1:1") as client:
        with pytest.raises(ServingError, match=r"127\.0\.0\.1:1: no server can be reached"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match="no server can be reached"):
            client.status()
        with pytest.raises(ServingError, match=r"no server answered within 0\.2 s"):
            client.wait_until_ready(0.2)


def test_closed_client(server):
    client = Client(server.address)
    client.wait_until_ready()
    client.close()
    with pytest.raises(ServingError, match="closed"):
        client.status()


def test_unknown_model_and_version(server):
    with Client(server.address, "nothing") as client:
        with pytest.raises(ServingError, match="does not have the model 'nothing'"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match="Could not find any versions of model nothing"):
            client.status()
    with Client(server.address, version=9) as client:
        with pytest.raises(ServingError, match="'stylize' version 9"):
            client.stylize(GOOD, GOOD)
        with pytest.raises(ServingError, match="Could not find version 9"):
            client.status()


def test_limits_of_the_server_in_plain_words(client):
    with pytest.raises(ServingError, match=r"content: image side 301 is over .* limit of 300"):
        client.stylize(np.zeros((301, 2)), GOOD)
    with pytest.raises(ServingError, match="too large or too many requests"):
        client.predict({"content": np.zeros((2, 300, 500, 1), np.float32)})


def test_deadline(client):
    with pytest.raises(ServingError, match=r"no answer within 0\.0001 s"):
        client.stylize(np.zeros((250, 250)), GOOD, timeout=1e-4)
    assert client.status() == {1: "AVAILABLE"}


def test_a_model_that_does_not_stylize(client, monkeypatch):
    monkeypatch.setattr(client, "predict", lambda *a, **k: {"mask": np.zeros(1)})
    with pytest.raises(ServingError, match=r"not a stylize servable.*'mask'"):
        client.stylize(GOOD, GOOD)


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
