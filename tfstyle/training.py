"""Another name of :mod:`tfstyle.runs`, for scripts that still use it."""

from tfstyle.runs import Backup, environment, fit_resumable

__all__ = ["Backup", "environment", "fit_resumable"]
