"""The process that submits a pipeline and waits for it: ``python -m tfstyle.beam.driver``.

A process of its own, because Beam's local runner waits for ever for a worker process that was
killed. Here the loss ends the process, and :mod:`tfstyle.beam.run` starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

#: Exit status where a worker process of the local runner was lost.
LOST = 75

#: In the folder ``.beam``: what went wrong.
ERROR = "error.txt"


def main(output: str, folder: str, chunks: str, launcher: str, *options: str) -> None:
    """Runs the pipeline and ends the process.

    Args:
        output: Folder of the results.
        folder: The folder ``.beam`` in it.
        chunks: Number of chunks.
        launcher: Process that is waiting; without it this one ends, with its workers.
        options: Options of the pipeline.
    """
    _end_with(int(launcher))
    threading.excepthook = _thread_failed
    try:
        _run(output, int(chunks), options)
    except BaseException:
        text = traceback.format_exc()
        print(text, file=sys.stderr)
        Path(folder, ERROR).write_text(text, encoding="utf-8")
        _exit(1)
    _exit(0)


def _run(output: str, chunks: int, options: tuple[str, ...]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from tfstyle.beam.pipeline import build

    # Runners of other machines say here where to look at the job.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pipeline = beam.Pipeline(options=PipelineOptions(list(options)))
    build(pipeline, output, chunks)
    state = pipeline.run().wait_until_finish()
    if state != "DONE":
        raise RuntimeError(f"the pipeline ended in the state {state}")


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    """What becomes of the local runner's threads when a worker process has gone."""
    threading.__excepthook__(arguments)
    if (arguments.thread and arguments.thread.name) in ("run_worker", "beam_control_read"):
        _exit(LOST)


def _end_with(launcher: int) -> None:
    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _exit(status: int) -> None:
    # Threads of a runner that waits for a lost worker would keep the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
