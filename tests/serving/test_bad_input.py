"""What comes from the network and is no request: the server answers or hangs up, and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import requests

from tfstyle.errors import ServingError
from tfstyle.serving import Client

GOOD = np.full((8, 8), 0.5, np.float32)


@pytest.fixture(autouse=True)
def goes_on(server):
    """After every test the server answers on both ports, and none of its threads is lost."""
    yield
    with Client(server.address) as client:
        assert client.stylize(GOOD, GOOD).shape == GOOD.shape
    url = f"http://{server.rest_address}/v1/models/stylize"
    assert requests.get(url, timeout=30).status_code == 200


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def received(connection):
    """All that the server says before it hangs up."""
    connection.settimeout(30)
    parts = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


GARBAGE = {
    "random bytes": np.random.default_rng(0).bytes(10_000),
    "zeros": bytes(10_000),
    "a TLS hello": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "HTTP/2 preface and garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("port", ["port", "rest_port"])
def test_garbage(server, port, content):
    with connect(getattr(server, port)) as connection:
        connection.sendall(content)
        with contextlib.suppress(OSError):  # the server may have hung up already
            connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    if port == "rest_port" and answer:
        assert answer.split(b" ", 2)[1] in (b"400", b"404")  # "PRI *" has the form of a request


def test_http_on_the_grpc_port(server):
    with connect(server.port) as connection:
        connection.sendall(b"GET /v1/models/stylize HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert b"AVAILABLE" not in received(connection)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", b"431"),
        (
            b"POST /v1/models/stylize:predict HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
            b"400",
        ),
        (
            b"POST /v1/models/stylize:predict HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: 99999999999\r\n\r\n",
            b"413",
        ),
        (
            b"POST /v1/models/stylize:predict HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"400",
        ),
    ],
)
def test_broken_http(server, request_bytes, status):
    with connect(server.rest_port) as connection:
        with contextlib.suppress(OSError):  # it may hang up before all is sent
            connection.sendall(request_bytes)
        answer = received(connection)
    assert answer.split(b" ", 2)[1] == status


@pytest.mark.parametrize("port", ["port", "rest_port"])
def test_half_open_connections(server, port):
    # Many that say nothing, and many that stop in the middle: others are served meanwhile.
    starts = {
        "port": b"PRI * HTTP/2.0\r\n",
        "rest_port": b"POST /v1/models/stylize:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
    }
    idle = [connect(getattr(server, port)) for _ in range(40)]
    try:
        for connection in idle[20:]:
            connection.sendall(starts[port])
        with Client(server.address) as client:
            assert client.stylize(GOOD, GOOD).shape == GOOD.shape
        with Client(f"http://{server.rest_address}") as client:
            assert client.stylize(GOOD, GOOD).shape == GOOD.shape
    finally:
        for connection in idle:
            connection.close()


CALLER = """
import sys, threading, numpy as np
from tfstyle.serving import Client
image = np.full((200, 200), 0.5)
called = threading.Barrier(5)
def call(target):
    with Client(target) as client:
        client.stylize(image, image)
        called.wait()
        while True:
            client.stylize(image, image)
for target in sys.argv[1:] * 2:
    threading.Thread(target=call, args=(target,), daemon=True).start()
called.wait()
print("busy", flush=True)
threading.Event().wait()
"""


def test_clients_that_are_killed(server):
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, server.address, f"http://{server.rest_address}"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        assert process.stdout.readline() == b"busy\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
        process.communicate()


def test_many_bad_calls_leave_all_places_free(server):
    places = server.limits.running + server.limits.waiting
    with Client(server.address, retries=0) as client:
        for _ in range(places + 5):
            for inputs in ({}, {"content": GOOD}, {"content": GOOD, "style": GOOD}):
                with pytest.raises(ServingError) as caught:
                    client.predict(inputs)
                assert caught.value.code == "INVALID_ARGUMENT"
