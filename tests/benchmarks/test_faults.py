"""Every command is killed once, in the middle of its file operations, and given again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def test_killed_commands_go_on(tmp_path):
    output = tmp_path / "faults.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--runs=0", "--points=1", "--disks=0", "--output", output],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    assert len(result["rows"]) == 4
    for name, facts in result["summary"]["file operations"].items():
        assert facts["status"] == {"-9": 1}, name
        for key in (
            "broken files",
            "reruns that failed",
            "reruns with work done twice",
            "reruns that differ",
            "reruns with temporary files",
        ):
            assert facts[key] == 0, (name, key, result["rows"])
    assert sum(row["finished_before"] for row in result["rows"]) > 0
