"""Versions of packages, for results and reports."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

from tfstyle import __version__


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of tfstyle, Python and packages; None where one is not installed."""
    found: dict[str, str | None] = {"tfstyle": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
