"""Commands that are killed before a file operation, and given again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration]
SCRIPT = Path(__file__).with_name("killed_commands.py")


@pytest.mark.parametrize("command", ["train", "stylize", "augment", "export"])
def test_killed_commands_resume(command):
    root = str(SCRIPT.parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, SCRIPT, command, "4"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["killed"] for row in rows] == [-9] * 4
    for row in rows:
        # An export is there as a whole or not at all.
        assert row["again"] == 0 or (command == "export" and row["begun"]), done.stderr[-2000:]
        assert row["same"]
        assert row["redone"] == row["rest"] == []
    if command != "export":
        assert any(row["begun"] for row in rows)
