"""Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python(*words: object, status: int = 0, cwd: Path | None = None) -> str:
    """What Python prints, given these words; it finds tfstyle and the tests."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout
