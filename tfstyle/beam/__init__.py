"""``tfstyle augment`` and ``tfstyle stylize`` as Apache Beam pipelines, for the largest sets.

The same work on each scan, done by the workers of a Beam runner: processes of this machine unless
another runner is chosen, such as Flink, Spark or Dataflow. ``docs/scale.md`` says what each needs
and what a run costs. Needs the extra ``tfstyle[beam]``.

Each name is loaded when it is first used.

Example:
    >>> from tfstyle.beam import augment_scans                                   # doctest: +SKIP
    >>> options = ["--direct_num_workers=8"]                                     # doctest: +SKIP
    >>> augment_scans(model, "ct/", "out/", bank, beam_options=options)          # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.beam.run import FAILED, augment_scans, check_options, stylize_scans

__all__ = ["FAILED", "augment_scans", "check_options", "stylize_scans"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("tfstyle.beam.run"), name)
