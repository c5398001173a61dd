"""The script of the guide on several machines, as two processes on the loopback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tfstyle
from tests.models import image
from tests.process import ROOT
from tfstyle.data import write_png

SCRIPT = ROOT / "training" / "several_machines.py"
SMALLER = {
    "batch_size=8 * machines": "batch_size=machines",
    '"crop": 128': '"crop": 16',
    '("bone", "soft_tissue", "lung")': '("range",)',
    "steps_per_epoch=100": "steps_per_epoch=1",
    "epochs=50": "epochs=40",
}


def smaller_script(folder: Path) -> Path:
    """The script with steps of a pair, an epoch each, and a picture to train on beside it."""
    text = SCRIPT.read_text()
    for ours, smaller in SMALLER.items():
        assert ours in text
        text = text.replace(ours, smaller)
    (folder / "script.py").write_text(text)
    write_png(image(1, (24, 24)), folder / "scans.png")
    return folder / "script.py"


def start(script: Path, *words: Path) -> list[subprocess.Popen]:
    """Two workers of one cluster."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, script, *words],
                env={**environment, "TF_CONFIG": json.dumps(config)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return workers


@pytest.mark.slow
def test_two_machines_train_one_model_and_resume(tmp_path):
    script, folder = smaller_script(tmp_path), tmp_path / "run"
    chief, worker = start(script, tmp_path / "scans.png", folder)
    try:
        deadline = time.monotonic() + 600
        while not (folder / "backup" / "training_metadata.json").exists():
            assert time.monotonic() < deadline
            assert chief.poll() is None, chief.communicate()
            time.sleep(0.01)
        worker.kill()
        chief.communicate(timeout=600)
        assert worker.wait() == -signal.SIGKILL
        assert chief.returncode != 0  # the chief does not continue alone
        assert not (folder / "preset").exists()
        chief, worker = start(script, tmp_path / "scans.png", folder)
        printed, messages = chief.communicate(timeout=600)
        assert (chief.returncode, worker.wait()) == (0, 0), messages
    finally:
        for process in (chief, worker):
            process.kill()
            process.communicate()
    epochs = [int(number) for number in re.findall(r"Epoch (\d+)/40", printed)]
    assert epochs[0] > 1
    assert epochs == list(range(epochs[0], 41))
    before, after = (
        tfstyle.StyleTransfer.from_preset(name).stylize(image(1, (24, 24)), image(2, (24, 24)))
        for name in ("vgg16_ct_shallow", str(folder / "preset"))
    )
    assert np.isfinite(after).all()
    assert not np.allclose(before, after, atol=1e-3)
