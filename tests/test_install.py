"""scripts/venv.sh: which Python it takes, and what it says when there is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "venv.sh"

# Stands for a Python: knows its version, may lack ensurepip, and as `-m venv` makes a copy of
# itself that notes the arguments of pip.
FAKE = """#!/bin/sh
case "$*" in
  *"import venv, ensurepip"*) exit {no_venv} ;;
  *version_info*sys.exit*|*sys.exit*version_info*) exit {wrong_version} ;;
  *'sys.executable'*) echo "{name} {version}"; exit 0 ;;
  *'sys.version_info[:2])'*) echo "{version}"; exit 0 ;;
  "-m venv"*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 0 ;;
  "-m pip --version") exit 0 ;;
  "-m pip install"*) echo "$*" >> "{calls}"; exit 0 ;;
esac
exit 9
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script with nothing on PATH but fakes and the base system's tools."""
    folder, calls = tmp_path / "bin", tmp_path / "calls.txt"
    folder.mkdir()
    for tool in ("sh", "mkdir", "cp", "rm"):
        (folder / tool).symlink_to(f"/bin/{tool}")

    def fake(name: str, version: str = "3.12", wrong: bool = False, no_venv: bool = False):
        facts = {"name": name, "version": version, "calls": calls}
        facts |= {"wrong_version": int(wrong), "no_venv": int(no_venv)}
        (folder / name).write_text(FAKE.format(**facts))
        (folder / name).chmod(0o755)

    def start(**environment: str):
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), str(tmp_path / "venv"), "dev,demo"],
            env={"PATH": str(folder), **environment},
            capture_output=True,
            text=True,
        )

    start.fake, start.calls, start.venv = fake, calls, tmp_path / "venv"
    return start


class TestVenv:
    def test_prefers_python3_and_keeps_a_working_environment(self, run):
        run.fake("python3")
        run.fake("python3.13")
        done = run()
        assert done.returncode == 0, done.stderr
        assert "with python3 3.12" in done.stderr
        assert run.calls.read_text().strip().endswith("--editable .[dev,demo]")
        again = run()
        assert again.returncode == 0
        assert "using the environment" in again.stderr
        assert len(run.calls.read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("lacks", "message"),
        [
            ({"wrong": True}, "Python 3.10, 3.11, 3.12 or 3.13 is needed"),
            ({"no_venv": True}, "apt-get install python3.12-venv"),
        ],
    )
    def test_what_is_missing_is_said(self, run, lacks, message):
        run.fake("python3", **lacks)
        done = run()
        assert done.returncode == 1
        assert message in done.stderr
        assert not run.calls.exists()
