"""``tfstyle stylize --server`` and the options of ``tfstyle serve``."""

import json

import numpy as np

import tfstyle.serving
from tfstyle.data import read_scan, write_png
from tfstyle.serving import ServerInfo


def picture(path, seed, shape=(20, 24)):
    write_png(np.random.default_rng(seed).random(shape), path)
    return path


def test_served_pictures_are_the_models(server, model, tmp_path, run):
    content = picture(tmp_path / "content.png", 1)
    style = picture(tmp_path / "style.png", 2, (16, 16))
    target = tmp_path / "served.png"
    words = ["stylize", content, "--style", style, "--strength", "0.5", "--json", "-o", target]
    words += ["--server", f"grpc://{server.address}", "--server-header", "authorization: Bearer x"]
    status, out, _ = run(*words)
    assert (status, json.loads(out)["scans"][0]["files"]) == (0, [str(target)])
    images = [read_scan(path).pixels[0] / 255 for path in (content, style, target)]
    expected = model.stylize(images[0], images[1], 0.5)
    np.testing.assert_allclose(images[2], expected, rtol=0, atol=1 / 255)


def test_bad_server_options(tmp_path, run):
    content = picture(tmp_path / "content.png", 1)
    output = ["-o", tmp_path / "o.png", "--server"]
    for words, status, message in (
        (["127.0.0.1:1", "--server-header", "nocolon"], 2, "must be NAME:VALUE"),
        (["127.0.0.1:1", "--server-ca", "/no/such.pem"], 1, "/no/such.pem: cannot be read"),
        (["http://127.0.0.1:8501"], 2, "gRPC port"),
    ):
        found, _, err = run("stylize", content, "--style", content, *output, *words)
        assert found == status
        assert message in err


def test_serve_passes_its_options_on_and_says_what_it_started(monkeypatch, run, tmp_path):
    calls = []

    def serve(*arguments, on_ready, backend):
        calls.append((*arguments, backend))
        on_ready(ServerInfo("docker", "127.0.0.1:1", {"stylize": tmp_path}))

    monkeypatch.setattr(tfstyle.serving, "serve", serve)
    words = ["--models", "m", "--port", 1, "--backend", "docker"]
    status, out, err = run("serve", *words)
    assert (status, err) == (0, "tfstyle: loading the models of m\n")
    assert "Serving stylize at 127.0.0.1:1 (gRPC)" in out
    assert "Server: TensorFlow Serving in Docker." in out
    status, out, _ = run("serve", "--json")
    facts = {"address": "127.0.0.1:1", "backend": "docker", "models": {"stylize": str(tmp_path)}}
    assert (status, json.loads(out)) == (0, facts)
    assert calls == [("m", 1, "docker"), ("saved_models", 8500, "auto")]
