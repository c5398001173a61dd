"""``tfstyle train``: its options are the fields of `TrainingRun`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from tfstyle.cli.options import IN_AND_OUT, Output, Overwrite, Reporting, flattened, strip
from tfstyle.cli.output import console, print_facts, progress
from tfstyle.runs.options import TrainingRun

EXAMPLES = """Examples:
  tfstyle train --content ct/ --style other_scanner/ --output runs/first
  tfstyle train --content ct/ --windows bone soft-tissue lung --layer relu3_1 \\
      --epochs 40 --output runs/windows
  tfstyle train --phantoms 32 --weights none --crop 64 --steps 5 --epochs 2 \\
      --output /tmp/try"""

#: The panels of the help, each with the first of its options.
PANELS = {
    "content": Group("Data", sort_key=1),
    "preset": Group("Model and losses", sort_key=2),
    "steps": Group("Schedule", sort_key=3),
}


def _hints() -> dict[str, Any]:
    """The fields of a run, each with its panel; lists take all words up to the next option."""
    found, panel = {}, IN_AND_OUT
    for name, hint in get_type_hints(TrainingRun).items():
        panel = PANELS.get(name, panel)
        several: dict[str, Any] = {"consume_multiple": 1} if "..." in str(hint) else {}
        window: dict[str, Any] = {"converter": strip} if name.endswith("windows") else {}
        found[name] = Annotated[hint, Parameter(group=panel, **several, **window)]
    return found


Run = flattened(TrainingRun, _hints())


def train(
    *,
    run: Run | None = None,  # type: ignore[valid-type]
    output: Output,
    overwrite: Overwrite = False,
    tensorboard: Annotated[bool, Parameter(group=IN_AND_OUT)] = False,
    reporting: Reporting = Reporting(),
) -> dict:
    """Train a model on your own scans.

    Trains a decoder on random pairs of content and style crops, on all devices that TensorFlow
    sees. The output folder gets run.json, history.json, grids/ and, at the end, preset/. A run that
    was interrupted in any way resumes after its last finished epoch when the same command is given
    again.

    Args:
        output: Folder of the run.
        tensorboard: Write losses for TensorBoard, too.
    """
    from tfstyle.runs import training

    settings = TrainingRun(**asdict(run) if run else {})
    before = signal.getsignal(signal.SIGINT)
    try:
        with progress(reporting, "training") as update:
            result = training.train(
                settings,
                output,
                tensorboard=tensorboard,
                overwrite=overwrite,
                extra_callbacks=[training_progress(update, settings)],
            )
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
    facts = {"preset": result.preset, "history": result.history, "steps": result.steps}
    if not reporting.json:
        out = console()
        if result.resumed_from == settings.epochs:
            out.print(f"{output} is finished already.")
        elif result.resumed_from:
            out.print(f"Resumed after epoch {result.resumed_from} of {settings.epochs}.")
        losses = {name: f"{value:.5g}" for name, value in result.losses.items()}
        print_facts(out, facts | losses)
    return facts | {"resumed_from": result.resumed_from, "losses": result.losses}


def training_progress(update: Callable, run: TrainingRun) -> Any:
    """A Keras callback that moves the bar and stops the run between two steps on Ctrl-C.

    In the middle of a step TensorFlow may lose the exception; a second Ctrl-C raises it at once.
    """
    import keras

    class Steps(keras.callbacks.Callback):
        def on_train_begin(self, logs: dict | None = None) -> None:
            self.stop = False
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, self.interrupt)

        def interrupt(self, number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if self.stop:
                raise KeyboardInterrupt
            loss = float((logs or {}).get("loss", float("nan")))
            done = self.epoch * run.steps + batch + 1
            update(done, run.epochs * run.steps, f"epoch {self.epoch + 1}, loss {loss:.4g}")

    return Steps()
