"""``tfstyle stylize --server`` and the options of ``tfstyle serve``."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

import tfstyle.serving
from tfstyle import cli
from tfstyle.data import read_scan, write_png
from tfstyle.serving import ServerInfo

pytestmark = pytest.mark.usefixtures("_logging_as_before")


def picture(path, seed, shape=(20, 24)):
    write_png(np.random.default_rng(seed).random(shape), path)
    return str(path)


@pytest.mark.parametrize("scheme", ["", "grpc://"])
def test_served_pictures_are_the_models(server, model, tmp_path, capsys, scheme):
    content = picture(tmp_path / "content.png", 1)
    style = picture(tmp_path / "style.png", 2, (16, 16))
    target = tmp_path / "served.png"
    words = ["stylize", content, "--style", style, "--strength", "0.5", "--json"]
    words += ["-o", str(target), "--server", f"{scheme}{server.address}"]
    assert cli.main([*words, "--server-header", "authorization: Bearer x"]) == 0
    assert json.loads(capsys.readouterr().out)["scans"][0]["files"] == [str(target)]
    images = [read_scan(path).pixels[0] / 255 for path in (content, style, target)]
    expected = model.stylize(images[0], images[1], 0.5)
    np.testing.assert_allclose(images[2], expected, rtol=0, atol=1 / 255)


def test_dicom_in_and_out(server, tmp_path, capsys):
    source = get_testdata_file("CT_small.dcm", download=False)
    words = ["stylize", source, "--style", source, "--style-window", "bone"]
    words += ["-o", str(tmp_path / "served"), "--server", server.address, "--json"]
    assert cli.main(words) == 0
    (file,) = json.loads(capsys.readouterr().out)["scans"][0]["files"]
    image = pydicom.dcmread(file)
    assert image.ImageType[0] == "DERIVED"
    assert image.pixel_array.std() > 0


def test_bad_server_options(tmp_path, capsys):
    content = picture(tmp_path / "content.png", 1)
    words = ["stylize", content, "--style", content, "-o", str(tmp_path / "o.png"), "--server"]
    assert cli.main([*words, "127.0.0.1:1", "--server-header", "nocolon"]) == 2
    assert "must be NAME:VALUE" in capsys.readouterr().err
    assert cli.main([*words, "127.0.0.1:1", "--server-ca", "/no/such.pem"]) == 1
    assert "/no/such.pem: cannot be read" in capsys.readouterr().err
    assert cli.main([*words, "http://127.0.0.1:8501"]) == 2
    assert "gRPC port" in capsys.readouterr().err


def test_serve_passes_its_options_on_and_says_what_it_started(monkeypatch, capsys, tmp_path):
    calls = []

    def serve(*arguments, on_ready, backend):
        calls.append((*arguments, backend))
        on_ready(ServerInfo("docker", "127.0.0.1:1", {"stylize": tmp_path}))

    monkeypatch.setattr(tfstyle.serving, "serve", serve)
    assert cli.main(["serve", "--models", "m", "--port", "1", "--backend", "docker"]) == 0
    out, err = capsys.readouterr()
    assert err == "tfstyle: loading the models of m\n"
    assert "Serving stylize at 127.0.0.1:1 (gRPC)" in out
    assert "Server: TensorFlow Serving in Docker." in out
    assert cli.main(["serve", "--json"]) == 0
    facts = {"address": "127.0.0.1:1", "backend": "docker", "models": {"stylize": str(tmp_path)}}
    assert json.loads(capsys.readouterr().out) == facts
    assert calls == [("m", 1, "docker"), ("saved_models", 8500, "auto")]
