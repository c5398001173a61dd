"""What the README states as fact."""

from __future__ import annotations

import re
from pathlib import Path

from tfstyle.data import WINDOWS
from tfstyle.encoders import ENCODERS

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_windows_table_is_the_code():
    rows = re.findall(
        r"^\| `(\w+)` \| (-?[\d.]+) \| ([\d.]+) \| (-?[\d.]+) … (-?[\d.]+) \|", README, re.M
    )
    found = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    assert found == {name: (w.centre, w.width, w.lower, w.upper) for name, w in WINDOWS.items()}


def test_commands_named_are_the_commands():
    from tfstyle.cli import _parser

    actions = _parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"^\| `tfstyle (\w+)` \|", README, re.M)) == set(actions)


def test_encoders_table_is_the_code():
    rows = re.findall(r"^\| [\w, ]+ \| (`[^|]+`) \| `(\w+)` \|", README, re.M)
    found = {name: layer for names, layer in rows for name in re.findall(r"`(\w+)`", names)}
    assert found == {name: family.default_layer for name, family in ENCODERS.items()}


def test_python_examples_compile():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "README.md", "exec")
