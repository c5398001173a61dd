"""Metrics under MirroredStrategy, in a process that has two devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_replicas.py")


@pytest.mark.integration
def test_replicas_add_up():
    root = SCRIPT.parents[2]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all agree" in done.stdout
