"""The limits as settings."""

import os

import pytest

from tests.process import python
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import Limits, check, limited, limits, variable


def test_environment_changes_a_limit_and_nothing_else(monkeypatch):
    for text, value in (("7", 7), ("3k", 3 * 1024), ("2 MiB", 2 * 2**20), ("1t", 2**40)):
        monkeypatch.setenv("TFSTYLE_LIMIT_FILES", text)
        assert limits() == Limits(files=value)
    for text in ("", "-1", "many", "1.5", "1e9"):
        monkeypatch.setenv("TFSTYLE_LIMIT_FILES", text)
        with pytest.raises(ArgumentError, match="TFSTYLE_LIMIT_FILES: must be a whole number"):
            limits()


def test_limited_holds_in_child_processes_and_ends():
    with limited(frames=5):
        assert limits().frames == 5
        assert python("-c", "import tfstyle.limits as x; print(x.limits().frames)") == "5\n"
    assert limits() == Limits()
    assert variable("frames") not in os.environ
    with pytest.raises(ArgumentError, match="there is no 'pixels'; there are picture_pixels, "):
        limited(pixels=5).__enter__()


def test_message_names_file_limit_and_the_way_out():
    check("a.png", "picture_pixels", 2**20, "a picture of 1024 x 1024 pixels")
    with (
        limited(picture_pixels=1000),
        pytest.raises(
            InputFileError,
            match=r"^a\.png: a picture of 40 x 40 pixels, above the limit of 1000 "
            r"\(picture_pixels\)\. .* set TFSTYLE_LIMIT_PICTURE_PIXELS to 1600 or more\.$",
        ),
    ):
        check("a.png", "picture_pixels", 1600, "a picture of 40 x 40 pixels")
