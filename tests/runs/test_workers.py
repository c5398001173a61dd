"""What TF_CONFIG says, and what is wrong with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError, WorkerError
from tfstyle.runs.workers import Worker, from_chief

TWO = {"worker": ["127.0.0.1:2222", "127.0.0.1:2223"]}


def read(config) -> Worker:
    text = config if isinstance(config, str) else json.dumps(config)
    return Worker.from_environment({"TF_CONFIG": text})


class TestPlace:
    @pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}])
    def test_alone(self, environ):
        worker = Worker.from_environment(environ)
        assert (worker.rank, worker.count, worker.is_chief) == (0, 1, True)
        assert isinstance(worker.strategy(), tf.distribute.MirroredStrategy)

    def test_a_cluster_of_one_is_alone(self):
        cluster = {"chief": ["10.0.0.1:2222"]}
        assert read({"cluster": cluster, "task": {"type": "chief", "index": 0}}).count == 1

    @pytest.mark.parametrize("index", [0, 1, "1"])
    def test_worker(self, index):
        worker = read({"cluster": TWO, "task": {"type": "worker", "index": index}})
        assert worker == Worker(int(index), 2, TWO["worker"][int(index)])
        assert worker.is_chief == (worker.rank == 0)

    def test_chief_comes_before_the_workers(self):
        cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
        places = [("chief", 0), ("worker", 0), ("worker", 1)]
        found = [read({"cluster": cluster, "task": {"type": t, "index": i}}) for t, i in places]
        assert found == [Worker(0, 3, "a:1"), Worker(1, 3, "b:1"), Worker(2, 3, "c:1")]


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {"task": {"type": "worker", "index": 0}},
        {"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}},
        {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a", "b:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:70000", "b:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}},
        {"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": TWO},
        *(
            {"cluster": TWO, "task": task}
            for task in (
                "worker",
                {"type": "worker"},
                {"type": "worker", "index": 2},
                {"type": "worker", "index": -1},
                {"type": "worker", "index": "one"},
                {"type": "chief", "index": 0},
            )
        ),
    ],
)
def test_bad_config(config):
    with pytest.raises(
        ArgumentError, match=r'^TF_CONFIG: must be {"cluster": .*, received [^\n]*$'
    ):
        read(config)


def test_bad_config_on_the_command_line(tmp_path, monkeypatch, capsys):
    from tfstyle.cli import main

    monkeypatch.setattr("tfstyle.cli.silence", lambda **_: None)  # leaves the loggers alone
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    assert main(["train", "--phantoms", "1", "--output", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("tfstyle: error: TF_CONFIG: must be")
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_tensorflow_in_use(monkeypatch):
    tf.constant(1.0) + 1.0
    config = {"cluster": TWO, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ArgumentError, match="a process of its own"):
        Worker.from_environment().strategy()


def test_lost_workers_have_one_clear_error():
    def fail(worker):
        with worker.together():
            raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: …")

    with pytest.raises(WorkerError, match="another worker has stopped"):
        fail(Worker(0, 2, "a:1"))
    with pytest.raises(tf.errors.UnavailableError):
        fail(Worker())


def test_from_chief_keeps_shapes_and_types():
    values = [np.arange(6, dtype=np.float32).reshape(2, 3), np.int64(2**40), True, 0.1]
    found = from_chief(tf.distribute.MirroredStrategy(), values)
    for value, result in zip(values, found, strict=True):
        np.testing.assert_array_equal(result, value)
        assert result.dtype == np.asarray(value).dtype
        assert result.shape == np.shape(value)
