"""What pipelines are given, and the words of their errors. No Beam."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import image
from tfstyle.beam.run import FAILED, _failure, _find_all, name_results
from tfstyle.data import ScanFiles, write_png
from tfstyle.errors import OutputError, WeightsError, WorkerError
from tfstyle.runs.sources import Source


def name_of(text: str) -> Source:
    return Source(text, ScanFiles((text,), "png"), text, ".png", PurePosixPath(text))


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a-2", FAILED]), min_size=1, max_size=3).map("/".join),
        max_size=12,
    )
)
def test_no_result_lies_in_the_place_or_inside_of_another(stems):
    named = [
        source.stem for _, source in name_results([(Path("/in"), name_of(one)) for one in stems])
    ]
    assert len(set(named)) == len(named)
    assert FAILED not in named
    for one in named:
        assert not any(other.startswith(one + "/") for other in named)


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


def test_each_input_is_done_once_and_has_a_name_of_its_own(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/deep/x.png", "other/c/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(image(1, (8, 8)), tmp_path / name)
    inputs = [tmp_path / one for one in ("a/x.png", "b/x.png", "a/x.png", "c", "other/c")]
    found, damaged = _find_all(inputs, tmp_path / "out")
    sources = [source for _, source in found]
    assert not damaged
    assert [source.name for source in sources] == [
        "x.png",
        str(tmp_path / "b" / "x.png"),
        "c/deep/x.png",
        "c-2/x.png",
    ]
    assert [source.stem for source in sources] == ["x", "x-2", "c/deep/x", "c-2/x"]
