"""What C and C++ libraries print on stderr."""

from __future__ import annotations

import logging
import os

import pytest

from tfstyle._private.logs import held_stderr


def test_stderr_is_held_back_until_an_error(capfd, caplog):
    caplog.set_level(logging.WARNING, "tfstyle")

    def fail():
        with held_stderr():
            os.write(2, b"out of memory\n")
            raise RuntimeError

    with held_stderr():
        os.write(2, b"created a delegate\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError):
        fail()
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "out of memory\nafter it\n"
