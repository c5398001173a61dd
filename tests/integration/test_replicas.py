"""Gradients and losses of a batch do not depend on the number of devices that share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_replicas.py")
ROOT = SCRIPT.parents[2]


# The first three pairs are marked "paired", so the shares of the replicas differ in that too; a
# batch of five is 3 + 2.
@pytest.mark.parametrize(("mode", "batches"), [("plain", (4, 5)), ("compiled", (5,))])
def test_two_replicas_equal_one(mode, batches):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), mode, *map(str, batches)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(batches)
    for found in map(json.loads, lines):
        assert len(found["errors"]) > 0
        assert max(found["errors"]) <= 1e-5
        assert found["alone"]["paired_loss"] > 0
        assert found["together"] == pytest.approx(found["alone"], rel=1e-5, abs=1e-7)


def test_tone_transfer_on_two_replicas():
    script = SCRIPT.with_name("tone_replicas.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["two"]["replicas"] == 2
    assert found["two"]["errors"] == pytest.approx(found["one"]["errors"], rel=1e-4)
    assert found["cosine"] > 0.9999
    assert found["length"] == pytest.approx(1, abs=1e-3)
