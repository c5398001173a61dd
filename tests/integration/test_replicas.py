"""Gradients and losses of a batch do not depend on the number of devices that share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def printed(script: str) -> list[dict]:
    """What a script prints as JSON, one object a line."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_replicas_equal_one():
    rows = printed("two_replicas.py")
    assert len(rows) == 3
    for found in rows:
        assert len(found["errors"]) > 0
        assert max(found["errors"]) <= 1e-5
        assert found["alone"]["paired_loss"] > 0
        assert found["together"] == pytest.approx(found["alone"], rel=1e-5, abs=1e-7)


def test_tone_transfer_on_two_replicas():
    (found,) = printed("tone_replicas.py")
    assert found["two"]["replicas"] == 2
    assert found["two"]["errors"] == pytest.approx(found["one"]["errors"], rel=1e-4)
    assert found["cosine"] > 0.9999
    assert found["length"] == pytest.approx(1, abs=1e-3)
