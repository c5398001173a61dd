"""Another name of :mod:`tfstyle.runs.training`."""

from tfstyle.runs.training import *  # noqa: F403
