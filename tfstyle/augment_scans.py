"""Another name of :mod:`tfstyle.runs.augment`."""

from tfstyle.runs.augment import *  # noqa: F403
