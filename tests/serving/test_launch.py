"""``serve``: how it tells that it is ready, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tfstyle.errors import ArgumentError, InputFileError, ServingError
from tfstyle.serving import Client, serve

ROOT = Path(__file__).parents[2]
SUM = {"x": np.ones((1, 2), np.float32), "amount": np.float32(1)}


def test_wrong_arguments(sum_folder, tmp_path):
    for options, message in (({"grace": -1}, "grace: must"), ({"port": -1}, "port: must")):
        with pytest.raises(ArgumentError, match=message):
            serve(sum_folder, **options)
    with pytest.raises(InputFileError, match="has no model"):
        serve(tmp_path)


@pytest.mark.parametrize("how", ["event", "signal"])
def test_its_end(sum_folder, caplog, how):
    caplog.set_level("INFO")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop, seen = threading.Event(), []

    def ready(server):
        with Client(server.address, "sum") as client:
            seen.append(client.status())
        stop.set() if how == "event" else signal.raise_signal(signal.SIGINT)

    serve(sum_folder, 0, on_ready=ready, stop=stop)
    assert seen == [{2: "AVAILABLE"}]
    assert ("SIGINT received, stopping" in caplog.text) == (how == "signal")
    assert "development server stopped" in caplog.text
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.integration
def test_the_command_ends_cleanly_on_sigterm(sum_folder):
    words = ["--models", str(sum_folder), "--port=0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfstyle", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        info = json.loads(process.stdout.readline())
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
