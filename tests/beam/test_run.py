"""The words of a pipeline's errors. No Beam."""

from __future__ import annotations

import pytest

from tfstyle.beam.run import _failure
from tfstyle.errors import OutputError, WeightsError, WorkerError


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "Traceback …\n  raise OutputError(target, …)\nRuntimeError: tfstyle.errors."
            "OutputError: /out/a.png: cannot be written (No space left on device). "
            "[while running 'Work']\n",
            OutputError,
            "/out/a.png: cannot be written (No space left on device).",
        ),
        (
            "tfstyle.errors.WeightsError: m.keras: is another.\n",
            WeightsError,
            "m.keras: is another.",
        ),
        ("Traceback …\nOSError: no job server\n", WorkerError, "OSError: no job server"),
        ("", WorkerError, "the pipeline failed"),
    ],
)
def test_the_error_of_a_worker_comes_back_as_what_it_was(text, kind, message):
    error = _failure(text)
    assert type(error) is kind
    assert message in str(error)
