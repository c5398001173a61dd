"""Processes that the benchmarks drive: one implementation each, one step for each line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


class Worker:
    """A process that answers every line with one line of JSON.

    Args:
        script: Python script to run.
        arguments: Its arguments.
        threads: Threads of TensorFlow and PyTorch.
    """

    def __init__(self, script: str | Path, arguments: list[str], threads: int):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, line: str = "go"):
        """Sends one line; returns what was answered."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"worker ended: {' '.join(self.process.args)}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()  # TensorFlow's own way out takes seconds
        self.process.wait()
