"""Another name of :mod:`tfstyle.runs.stylize`."""

from tfstyle.runs.stylize import *  # noqa: F403
