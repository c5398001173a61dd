"""``serve``: which server it starts, how it tells, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.process import ROOT
from tfstyle.errors import ServingError
from tfstyle.serving import Client, ServerInfo, serve
from tfstyle.serving.launch import IMAGE

SUM = {"x": np.ones((1, 2), np.float32), "amount": np.float32(1)}


# Stands for tensorflow_model_server, and for docker, which has such a server's command at its end:
# a gRPC server without services on the port that it is told.
FAKE = """#!{python}
import json, pathlib, re, signal, sys
from concurrent.futures import ThreadPoolExecutor
record, mode = pathlib.Path({record!r}), {mode!r}
calls = json.loads(record.read_text()) if record.exists() else []
record.write_text(json.dumps([*calls, sys.argv[1:]]))
if sys.argv[1] in ("image", "rm"):
    sys.exit(mode == "absent")
if mode == "fails":
    sys.exit(3)
words = " ".join(sys.argv)
config = re.search(r"source=([^,\\s]+/models.config)|--model_config_file=(\\S+)", words)
record.with_name("models.config").write_text(pathlib.Path(config[1] or config[2]).read_text())
port = re.search(r"--publish 127.0.0.1:(\\d+)|--port=(\\d+)", words)
import grpc
server = grpc.server(ThreadPoolExecutor(1))
server.add_insecure_port(f"127.0.0.1:{{port[1] or port[2]}}")
signal.signal(signal.SIGTERM, lambda *_: mode == "obeys" and sys.exit(0))
server.start()
while True:
    signal.pause()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a stand-in for a program in a folder that is alone on PATH; gives what it was told."""
    folder, record = tmp_path / "bin", tmp_path / "record.json"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(program, mode):
        script = folder / program
        script.write_text(FAKE.format(python=sys.executable, record=str(record), mode=mode))
        script.chmod(0o755)
        return lambda: json.loads(record.read_text()) if record.exists() else []

    return make


def served(models, **options):
    """What ``serve`` tells of the server that it starts, which is stopped at once."""
    stop, infos = threading.Event(), []

    def on_ready(info):
        infos.append(info)
        stop.set()

    serve(models, 0, stop=stop, on_ready=on_ready, **options)
    (info,) = infos
    return info


def base_path(tmp_path):
    """Where the stand-in was told that the model is."""
    text = (tmp_path / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (entry,) = config.model_config_list.config
    assert (entry.name, entry.model_platform) == ("sum", "tensorflow")
    return entry.base_path


def test_tensorflow_model_server_comes_first(sum_folder, fake, tmp_path):
    fake("docker", "obeys")
    calls = fake("tensorflow_model_server", "obeys")
    info = served(sum_folder)
    assert info == ServerInfo("tensorflow_model_server", info.address, {"sum": sum_folder})
    ((port, config),) = calls()
    assert port == f"--port={info.address.partition(':')[2]}"
    assert base_path(tmp_path) == str(sum_folder)
    assert not Path(config.partition("=")[2]).exists()


def test_the_image_where_docker_has_it(sum_folder, fake, tmp_path):
    calls, info = fake("docker", "obeys"), served(sum_folder)
    asked, run = calls()
    assert (info.backend, asked, run[0]) == ("docker", ["image", "inspect", IMAGE], "run")
    assert f"{info.address}:8500" in run
    assert run[run.index(IMAGE) :] == [IMAGE, "--port=8500", "--model_config_file=/models.config"]
    assert f"type=bind,source={sum_folder},target={base_path(tmp_path)},readonly" in run


@pytest.mark.parametrize("program", ["docker", "nothing"])
def test_the_development_server_else(sum_folder, fake, program):
    calls = fake(program, "absent")  # Docker does not run, or lacks the image
    assert served(sum_folder).backend == "development"
    assert all(call[0] == "image" for call in calls())


def test_a_server_that_ends_by_itself(sum_folder, fake):
    fake("tensorflow_model_server", "fails")
    with pytest.raises(ServingError, match="ended by itself with exit status 3"):
        serve(sum_folder, 0)


@pytest.mark.parametrize("program", ["docker", "tensorflow_model_server"])
def test_a_server_that_hangs_is_killed(sum_folder, fake, caplog, program):
    calls = fake(program, "hangs")
    served(sum_folder, grace=0.5)
    assert "is killed" in caplog.text
    if program == "docker":
        run, removed = calls()[-2:]
        assert removed == ["rm", "--force", run[run.index("--name") + 1]]


def test_port_of_another_program_is_not_shared(sum_folder, fake):
    calls = fake("tensorflow_model_server", "obeys")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} is taken"):
            serve(sum_folder, port)
    assert calls() == []


def test_its_end(sum_folder, caplog):
    caplog.set_level("INFO")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    seen = []

    def ready(server):
        with Client(server.address, "sum") as client:
            seen.append(client.status())
        signal.raise_signal(signal.SIGINT)

    serve(sum_folder, 0, backend="development", on_ready=ready)
    assert seen == [{2: "AVAILABLE"}]
    assert "SIGINT received, stopping" in caplog.text
    assert "development server stopped" in caplog.text
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.integration
def test_the_command_ends_cleanly_on_sigterm(sum_folder):
    words = ["--models", str(sum_folder), "--port=0", "--backend=development", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfstyle", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        info = json.loads(process.stdout.readline())
        assert info["backend"] == "development"
        assert info["models"] == {"sum": str(sum_folder)}
        with Client(info["address"], "sum", retries=0) as client:
            np.testing.assert_array_equal(client.predict(SUM)["y"], [[3, 3]])
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=120)
            assert process.returncode == 0, log
            assert "Traceback" not in log
            with pytest.raises(ServingError):
                client.status()
    finally:
        process.kill()
        process.communicate()
