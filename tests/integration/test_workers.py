"""One training run over two processes on the loopback, as on two machines."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import tfstyle
from tfstyle.training import TrainingRun, train

RUN = TrainingRun(
    phantoms=2,
    weights="none",
    layer="relu1_1",
    content_loss="mse",
    content_layers=("relu1_1",),
    style_layers=("image:2.5",),
    histogram_weight=0.5,
    paired_weight=0.5,
    same_place=0.5,
    windows=("bone", "soft_tissue"),
    crop=32,
    batch_size=4,
    steps=2,
    epochs=3,
    learning_rate=1e-3,
    seed=3,
)


def command(run: TrainingRun, folder) -> list[str]:
    words = [sys.executable, "-m", "tfstyle", "train", "--output", str(folder)]
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if value != field.default:
            words.append("--" + field.name.replace("_", "-"))
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def start(commands: list[list[str]]) -> list[subprocess.Popen]:
    """One process a command, which are the workers of one cluster."""
    cluster = {"worker": free_addresses(len(commands))}
    processes = []
    for index, words in enumerate(commands):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(
            subprocess.Popen(
                words,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return processes


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str, str]]:
    """Exit status, output and messages of each."""
    deadline = time.monotonic() + seconds
    try:
        results = [p.communicate(timeout=deadline - time.monotonic()) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *result) for p, result in zip(processes, results, strict=True)]


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """A run of two workers with folders of their own: killed after an epoch, and taken up again."""
    folders = [tmp_path_factory.mktemp(f"worker{index}") / "run" for index in range(2)]
    history = folders[0] / "history.json"
    commands = [command(RUN, folder) for folder in folders]
    processes = start(commands)
    deadline = time.monotonic() + 240
    while not history.exists() and time.monotonic() < deadline and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].kill()
    killed = finish(processes)
    assert history.exists(), killed
    before = json.loads(history.read_text())["loss"]
    return folders, killed, before, finish(start(commands))


def test_loss_is_that_of_one_process(run_of_two, tmp_path):
    folders, _, _, results = run_of_two
    assert [status for status, _, _ in results] == [0, 0], results
    found = json.loads((folders[0] / "history.json").read_text())
    alone = train(RUN, tmp_path / "alone")
    expected = json.loads(alone.history.read_text())
    assert set(found) == set(expected)
    for term, values in expected.items():
        # float32 sums in another order, over six steps of Adam
        np.testing.assert_allclose(found[term], values, rtol=1e-4, atol=1e-7, err_msg=term)
    images = np.random.default_rng(0).random((2, 32, 32)).astype(np.float32)
    generated = [
        tfstyle.StyleTransfer.from_preset(str(preset)).stylize(images[0], images[1])
        for preset in (folders[0] / "preset", alone.preset)
    ]
    np.testing.assert_allclose(*generated, atol=2e-3)


def test_chief_alone_writes(run_of_two):
    folders, _, _, _ = run_of_two
    assert {path.name for path in folders[0].iterdir()} == {
        "run.json",
        "history.json",
        "grids",
        "preset",
    }
    assert not folders[1].exists()


def test_a_worker_that_dies_ends_the_run_until_it_is_started_again(run_of_two):
    _, killed, before, results = run_of_two
    (status, _, messages), _ = killed
    if status != 0:  # else the chief was through before the other one was gone
        assert status == 1
        assert "another worker has stopped" in messages
        assert "Traceback" not in messages
        assert 1 <= len(before) <= RUN.epochs
        assert "Went on after epoch" in results[0][1]


def test_workers_with_other_settings_are_refused(tmp_path):
    other = dataclasses.replace(RUN, seed=4)
    chief, worker = start([command(RUN, tmp_path / "a"), command(other, tmp_path / "b")])
    try:
        _, messages = worker.communicate(timeout=120)
    finally:
        chief.kill()  # it would notice by itself some seconds later, as in the test above
        finish([chief, worker])
    assert worker.returncode == 2
    assert "worker 1 was given other settings than the chief" in messages
    assert not (tmp_path / "b").exists()
