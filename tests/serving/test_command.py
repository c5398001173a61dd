"""``tfstyle stylize --server`` and the options of ``tfstyle serve`` and ``tfstyle export``."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import tfstyle.serving
from tfstyle import cli
from tfstyle.data import read_scan, write_png
from tfstyle.serving import Batching, ServerInfo


@pytest.fixture(autouse=True)
def _logging_as_before():
    """The command sets up logging for a process of its own; other tests get theirs back."""
    logger = logging.getLogger("tfstyle")
    before = logger.level, logger.propagate, logger.handlers
    yield
    logging.captureWarnings(False)
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:]
    for name in cli.NOISY:
        logging.getLogger(name).removeFilter(cli._critical)


def picture(path, seed, shape=(20, 24)):
    write_png(np.random.default_rng(seed).random(shape), path)
    return str(path)


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_served_pictures_are_the_models(server, model, tmp_path, capsys, scheme):
    content = picture(tmp_path / "content.png", 1)
    styles = [picture(tmp_path / f"style{i}.png", 2 + i, (16, 16)) for i in range(2)]
    address = server.rest_address if scheme == "http://" else server.address
    options = ["--style-weights", "3", "1", "--strength", "0.5", "--json"]
    words = ["stylize", content, "--style", styles[0], "--style", styles[1], *options]
    target = tmp_path / "served.png"
    header = ["--server-header", "authorization: Bearer x"]
    status = cli.main([*words, "-o", str(target), "--server", f"{scheme}{address}", *header])
    assert status == 0
    assert json.loads(capsys.readouterr().out)["scans"][0]["files"] == [str(target)]
    images = [read_scan(path).pixels[0] / 255 for path in (content, *styles, target)]
    expected = model.stylize(images[0], images[1:3], 0.5, style_weights=[3, 1])
    np.testing.assert_allclose(images[3], expected, rtol=0, atol=1 / 255)


def test_bad_server_options(tmp_path, capsys):
    content = picture(tmp_path / "content.png", 1)
    words = ["stylize", content, "--style", content, "-o", str(tmp_path / "o.png")]
    words += ["--server", "127.0.0.1:1"]
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--server-header", "nocolon"])
    assert caught.value.code == 2
    assert "must be NAME:VALUE" in capsys.readouterr().err
    assert cli.main([*words, "--server-ca", "/no/such.pem"]) == 1
    assert "/no/such.pem: is no file" in capsys.readouterr().err


def test_serve_passes_its_options_on(monkeypatch, capsys, tmp_path):
    calls = []

    def serve(*arguments, on_ready, **options):
        calls.append((arguments, options))
        models = {"stylize": tmp_path}
        on_ready(ServerInfo("embedded", "127.0.0.1:1", models, "127.0.0.1:2"))

    monkeypatch.setattr(tfstyle.serving, "serve", serve)
    words = ["--models", "m.config", "--port", "1", "--rest-port", "2", "--batch", "4"]
    assert cli.main(["serve", *words, "--poll", "0.5", "--allow-file-ops"]) == 0
    out, err = capsys.readouterr()
    assert err == "tfstyle: loading the models of m.config\n"
    assert "127.0.0.1:1 (gRPC)" in out
    assert "http://127.0.0.1:2/v1/models" in out
    (arguments, options) = calls.pop()
    assert arguments == ("m.config", "127.0.0.1", 1)
    assert options == {
        "rest_port": 2,
        "backend": "auto",
        "batching": Batching(4),
        "poll_seconds": 0.5,
        "allow_file_ops": True,
    }
    assert cli.main(["serve", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rest_address"] == "127.0.0.1:2"
    assert calls[0][1]["batching"] is None
    assert calls[0][1]["rest_port"] is None
    assert calls[0][1]["allow_file_ops"] is False
