"""Commands that are killed before a file operation, and given again."""

import json
from pathlib import Path

import pytest

from tests.process import python

pytestmark = [pytest.mark.slow, pytest.mark.integration]
SCRIPT = Path(__file__).with_name("killed_commands.py")


@pytest.mark.parametrize("command", ["train", "stylize", "augment", "export"])
def test_killed_commands_resume(command):
    printed = python(SCRIPT, command, 2).splitlines()
    rows = [json.loads(line) for line in printed if line.startswith("{")]
    assert [row["killed"] for row in rows] == [-9] * 2
    for row in rows:
        # An export is there as a whole or not at all.
        assert row["again"] == 0 or (command == "export" and row["begun"])
        assert row["same"]
        assert row["redone"] == row["rest"] == []
    if command != "export":
        assert any(row["begun"] for row in rows)
