"""One training run over two processes on the loopback, as on two machines.

Both read the same prepared shards, each the slices of its own pairs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import tfstyle
from tfstyle.data import WINDOWS, prepare_scans, spine_phantom, write_nifti
from tfstyle.runs.training import TrainingRun, train

RUN = TrainingRun(
    content=("to be prepared",),
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
    epochs=8,
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
    addresses = free_addresses(len(commands))
    return [start_one(words, addresses, index) for index, words in enumerate(commands)]


def start_one(words: list[str], addresses: list[str], index: int) -> subprocess.Popen:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
    return subprocess.Popen(
        words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


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
def data(tmp_path_factory):
    """Scans as files, and the same prepared."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "ct").mkdir()
    for seed in range(3):
        scan = spine_phantom(seed=seed, size=64).scan
        unit = WINDOWS["full"].to_unit(scan.pixels)
        write_nifti(unit, scan, WINDOWS["full"], folder / "ct" / f"{seed}.nii.gz")
    found = prepare_scans([folder / "ct"], folder / "prepared", shard_mb=0.001)
    assert found.shards == 3
    return folder / "ct", folder / "prepared"


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory, data):
    """A run of two workers, started again when they end badly, as a Kubernetes Job does it.

    Worker 1 is killed once there is a backup. Every attempt of each worker: exit status, output and
    messages; and what the history held at the kill.
    """
    folders = [tmp_path_factory.mktemp(f"worker{index}") / "run" for index in range(2)]
    run = dataclasses.replace(RUN, content=(str(data[1]),))
    commands = [command(run, folder) for folder in folders]
    addresses, backup = free_addresses(2), folders[0] / "backup" / "state.npz"
    attempts: list[list[tuple[int, str, str]]] = [[], []]
    running = {i: start_one(commands[i], addresses, i) for i in range(2)}
    before = None
    deadline = time.monotonic() + 400
    try:
        while running:
            assert time.monotonic() < deadline, attempts
            if before is None and backup.exists():
                running[1].kill()
                before = json.loads((folders[0] / "history.json").read_text())["loss"]
            for i, process in list(running.items()):
                if process.poll() is not None:
                    attempts[i].append((process.returncode, *process.communicate()))
                    assert len(attempts[i]) < 8, attempts
                    del running[i]
                    if process.returncode:
                        time.sleep(1)
                        running[i] = start_one(commands[i], addresses, i)
            time.sleep(0.005)
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return folders, attempts, before


def test_killed_worker_costs_no_step(run_of_two):
    folders, attempts, before = run_of_two
    assert attempts[1][0][0] == -signal.SIGKILL, attempts
    chief = attempts[0]
    assert chief[0][0] == 1, attempts  # the chief does not go on alone
    for status, _, messages in chief[:-1]:
        assert status == 1
        assert "another worker has stopped" in messages or "cannot be reached" in messages
        assert "Traceback" not in messages
    assert 1 <= len(before) < RUN.epochs
    status, output, _ = chief[-1]
    assert status == attempts[1][-1][0] == 0
    epoch = int(re.search(r"Resumed after epoch (\d+) of 8", output).group(1))
    assert epoch >= len(before) - 1  # the history is written before the backup
    assert f"steps: {RUN.steps * RUN.epochs}\n" in output
    history = json.loads((folders[0] / "history.json").read_text())
    assert all(len(values) == RUN.epochs for values in history.values())
    assert history["loss"][: len(before)] == before
    assert all(np.isfinite(values).all() for values in history.values())
    with np.load(folders[0] / "preset" / "weights.npz") as weights:
        assert all(np.isfinite(weights[key]).all() for key in weights)


def test_loss_is_that_of_one_process_on_the_scans(run_of_two, data, tmp_path):
    folders, _, _ = run_of_two
    found = json.loads((folders[0] / "history.json").read_text())
    alone = train(dataclasses.replace(RUN, content=(str(data[0]),)), tmp_path / "alone")
    expected = json.loads(alone.history.read_text())
    assert set(found) == set(expected)
    for term, values in expected.items():
        # float32 sums in another order, over sixteen steps of Adam
        np.testing.assert_allclose(found[term], values, rtol=1e-3, atol=1e-6, err_msg=term)
    images = np.random.default_rng(0).random((2, 32, 32)).astype(np.float32)
    generated = [
        tfstyle.StyleTransfer.from_preset(str(preset)).stylize(images[0], images[1])
        for preset in (folders[0] / "preset", alone.preset)
    ]
    np.testing.assert_allclose(*generated, atol=2e-3)


def test_chief_alone_writes(run_of_two):
    folders, _, _ = run_of_two
    assert {path.name for path in folders[0].iterdir()} == {
        "run.json",
        "history.json",
        "grids",
        "preset",
    }
    assert not folders[1].exists()


def test_workers_with_other_settings_are_refused(tmp_path):
    run = dataclasses.replace(RUN, content=(), phantoms=2)
    other = dataclasses.replace(run, seed=4)
    chief, worker = start([command(run, tmp_path / "a"), command(other, tmp_path / "b")])
    try:
        _, messages = worker.communicate(timeout=120)
    finally:
        chief.kill()  # it would notice by itself some seconds later, as in the test above
        finish([chief, worker])
    assert worker.returncode == 2
    assert "worker 1 was given other settings than the chief" in messages
    assert not (tmp_path / "b").exists()
