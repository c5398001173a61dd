"""The queue with graphs that are Python functions: nothing here loads a model."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from tfstyle.errors import ArgumentError
from tfstyle.serving.scheduler import Batching, Scheduler, Task
from tfstyle.serving.status import StatusError


class Graph:
    """A servable that doubles; holds runs until it is opened, and remembers them."""

    name = "double"

    def __init__(self, opened=True):
        self.runs = []
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        if opened:
            self.opened.set()

    def run(self, signature, inputs, outputs, *, timeout=None):
        self.runs.append({name: array.shape for name, array in inputs.items()})
        self.entered.release()
        assert self.opened.wait(10)
        x = inputs["x"]
        if (x < 0).any():
            raise tf.errors.InvalidArgumentError(None, None, "x: below 0")
        return {"y": 2 * x}


class Lease:
    def __init__(self, servable):
        self.servable = servable
        self.released = 0

    def release(self):
        self.released += 1


def signature(**ranks):
    """Inputs with free sizes; None for any rank, 0 for a scalar."""
    definition = SignatureDef()
    for name, rank in {"x": 2, **ranks}.items():
        shape = definition.inputs[name].tensor_shape
        if rank is None:
            shape.unknown_rank = True
        for _ in range(rank or 0):
            shape.dim.add().size = -1
    return definition


def task(graph, x, deadline=None, **others):
    inputs = {"x": np.asarray(x, np.float32), **others}
    return Task(Lease(graph), "double", inputs, ["y"], deadline)


@pytest.fixture
def scheduler():
    made = []

    def make(*arguments, **options):
        made.append(Scheduler(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one.join()


def test_runs_one_request(scheduler):
    graph = Graph()
    one = scheduler(1, 1).submit(task(graph, [[1, 2]]), signature())
    np.testing.assert_array_equal(one.wait(None)["y"], [[2, 4]])
    assert one.lease.released == 1


def test_more_than_it_can_hold_is_refused(scheduler):
    one = scheduler(1, 1)
    with one.admit(), one.admit():
        with pytest.raises(StatusError) as caught:
            one.admit()
        assert caught.value.code == "RESOURCE_EXHAUSTED"
    with one.admit():
        pass


def start_many(scheduler, graph, inputs, definition=None, **others):
    """Holds the worker with one request while the others gather."""
    first = scheduler.submit(task(graph, [[0, 0, 0, 0, 0]]), signature())
    assert graph.entered.acquire(timeout=10)
    tasks = [
        scheduler.submit(task(graph, x, **others), definition or signature(**dict.fromkeys(others)))
        for x in inputs
    ]
    graph.opened.set()
    first.wait(None)
    return tasks


def test_what_waits_together_runs_together(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(4, timeout=0.0))
    inputs = [[[1, 2]], [[3, 4]], [[5, 6], [7, 8]], [[9, 10]]]
    tasks = start_many(one, graph, inputs)
    for done, x in zip(tasks, inputs, strict=True):
        np.testing.assert_array_equal(done.wait(None)["y"], 2 * np.float32(x))
        assert done.lease.released == 1
    assert graph.runs[1:] == [{"x": (4, 2)}, {"x": (1, 2)}]


def test_only_equal_requests_are_joined(scheduler):
    graph, other = Graph(opened=False), Graph()
    one = scheduler(1, 9, Batching(8, timeout=0.0))
    first = one.submit(task(graph, [[0]]), signature())
    assert graph.entered.acquire(timeout=10)
    tasks = [
        one.submit(task(graph, [[1, 2]]), signature()),
        one.submit(task(graph, [[1, 2, 3]]), signature()),  # another size
        one.submit(task(other, [[1, 2]]), signature()),  # another version
        one.submit(task(graph, [[4, 5]]), signature()),
    ]
    graph.opened.set()
    for done in (first, *tasks):
        assert done.wait(None)["y"].shape == done.inputs["x"].shape
    assert sorted(run["x"] for run in graph.runs[1:]) == [(1, 3), (2, 2)]
    assert other.runs == [{"x": (1, 2)}]


def test_a_scalar_of_free_rank_is_repeated(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(8, timeout=0.0))
    for done in start_many(one, graph, [[[1, 2]], [[3, 4], [5, 6]]], strength=np.float32(0.5)):
        done.wait(None)
    assert graph.runs[1:] == [{"x": (3, 2), "strength": (3,)}]


def test_one_style_for_several_contents_is_not_joined(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(8, timeout=0.0))
    style = np.ones((1, 7), np.float32)
    for done in start_many(one, graph, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], style=style):
        done.wait(None)
    assert graph.runs[1:] == [{"x": (2, 2), "style": (1, 7)}] * 2


def test_a_wanted_scalar_is_not_joined(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(8, timeout=0.0))
    definition = signature(factor=0)
    inputs = [[[1, 2]], [[3, 4]]]
    for done in start_many(one, graph, inputs, definition, factor=np.float32(2)):
        done.wait(None)
    assert graph.runs[1:] == [{"x": (1, 2), "factor": ()}] * 2


def test_a_bad_request_does_not_fail_its_neighbours(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(8, timeout=0.0))
    good, bad, fine = start_many(one, graph, [[[1, 2]], [[-1, 2]], [[3, 4]]])
    np.testing.assert_array_equal(good.wait(None)["y"], [[2, 4]])
    np.testing.assert_array_equal(fine.wait(None)["y"], [[6, 8]])
    with pytest.raises(StatusError) as caught:
        bad.wait(None)
    assert (caught.value.code, caught.value.details) == ("INVALID_ARGUMENT", "x: below 0")


def test_a_free_worker_does_not_wait_for_ever(scheduler):
    graph = Graph()
    one = scheduler(1, 9, Batching(2, timeout=0.1))
    one.submit(task(graph, [[1, 2]]), signature()).wait(None)
    assert graph.runs == [{"x": (1, 2)}]


def test_a_full_batch_does_not_wait(scheduler):
    graph = Graph()
    one = scheduler(1, 9, Batching(2, timeout=3600.0))
    tasks = [one.submit(task(graph, [[1, 2]]), signature()) for _ in range(2)]
    for done in tasks:
        done.wait(None)
    assert graph.runs == [{"x": (2, 2)}]


def test_batches_keep_to_the_limit_of_pixels(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9, Batching(8, timeout=0.0), pixels=200)
    definition = signature()
    definition.inputs["x"].tensor_shape.CopyFrom(tf.TensorShape([None, None, None, 1]).as_proto())
    first = one.submit(task(graph, [[0]]), signature())
    assert graph.entered.acquire(timeout=10)
    tasks = [one.submit(task(graph, np.ones((1, 8, 10, 1))), definition) for _ in range(4)]
    graph.opened.set()
    for done in (first, *tasks):
        done.wait(None)
    assert [run["x"] for run in graph.runs[1:]] == [(2, 8, 10, 1)] * 2


def test_deadline_while_waiting(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9)
    first = one.submit(task(graph, [[0]]), signature())
    assert graph.entered.acquire(timeout=10)
    late = one.submit(task(graph, [[1]], time.monotonic() + 0.05), signature())
    with pytest.raises(StatusError) as caught:
        late.wait(None)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    graph.opened.set()
    first.wait(None)
    one.submit(task(graph, [[2]]), signature()).wait(None)
    assert len(graph.runs) == 2  # the late one never ran
    assert late.lease.released == 1


def test_clients_that_left_are_not_served(scheduler):
    graph = Graph(opened=False)
    one = scheduler(1, 9)
    first = one.submit(task(graph, [[0]]), signature())
    assert graph.entered.acquire(timeout=10)
    left = one.submit(task(graph, [[1]]), signature())
    with pytest.raises(StatusError) as caught:
        left.wait(lambda: True)
    assert caught.value.code == "CANCELLED"
    graph.opened.set()
    first.wait(None)
    one.submit(task(graph, [[2]]), signature()).wait(None)
    assert len(graph.runs) == 2


def test_stop_answers_what_waits():
    graph = Graph(opened=False)
    one = Scheduler(1, 9)
    first = one.submit(task(graph, [[0]]), signature())
    assert graph.entered.acquire(timeout=10)
    waiting = one.submit(task(graph, [[1]]), signature())
    one.stop()
    with pytest.raises(StatusError, match="stopping"):
        waiting.wait(None)
    graph.opened.set()
    assert first.wait(None)
    one.join()
    for method in (one.admit, lambda: one.submit(task(graph, [[1]]), signature())):
        with pytest.raises(StatusError) as caught:
            method()
        assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("arguments", [{"max_batch_size": 1}, {"max_batch_size": True}])
def test_bad_batch_size(arguments):
    with pytest.raises(ArgumentError, match="max_batch_size"):
        Batching(**arguments)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_bad_timeout(timeout):
    with pytest.raises(ArgumentError, match="timeout"):
        Batching(timeout=timeout)
