"""The benchmark's PyTorch step is the same step."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def test_first_losses_agree(tmp_path):
    pytest.importorskip("torch", reason="the extra `benchmarks` is not installed")
    path = Path(__file__).parents[2] / "benchmarks" / "training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    example = tmp_path / "example.npz"
    benchmark.example("vgg16", 32, 2, example)
    losses = []
    for name in ("torch", "tfstyle"):
        worker = benchmark.start(name, "vgg16", example, 1)
        try:
            losses.append(worker.ask()[1])
        finally:
            worker.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
