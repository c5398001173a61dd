"""``tfstyle augment`` and ``tfstyle stylize`` as Apache Beam pipelines, for the largest sets.

The same work on each scan, done by the workers of a Beam runner: processes of this machine unless
another runner is chosen, such as Flink, Spark or Dataflow. ``docs/scale.md`` says what each needs.
Needs the extra ``tfstyle[beam]``.

Example:
    >>> from tfstyle.beam import augment_scans                                   # doctest: +SKIP
    >>> options = ["--direct_num_workers=8"]                                     # doctest: +SKIP
    >>> augment_scans(model, "ct/", "out/", bank, beam_options=options)          # doctest: +SKIP
"""

from tfstyle.beam.run import augment_scans, check_options, stylize_scans

__all__ = ["augment_scans", "check_options", "stylize_scans"]
