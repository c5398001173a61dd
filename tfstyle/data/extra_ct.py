"""Real CT slices that packages of the registry carry."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from tfstyle.data import Scan, read_scans
from tfstyle.errors import InputFileError

log = logging.getLogger(__name__)

#: 512x512 CT slices in HU among pydicom-data's files.
FILES = ("693_UNCI.dcm", "693_J2KR.dcm", "explicit_VR-UN.dcm", "eCT_Supplemental.dcm")


def extra_ct() -> list[Scan]:
    """CT slices out of the package pydicom-data; empty where it is not installed.

    Returns:
        Scans in HU; a file that the installed version lacks is passed over and logged.
    """
    spec = find_spec("data_store")
    if spec is None or not spec.submodule_search_locations:
        log.warning("pydicom-data is not installed: its CT slices are left out")
        return []
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    scans = []
    for name in FILES:
        try:
            scans += [scan for scan in read_scans(folder / name) if scan.units == "HU"]
        except InputFileError as error:
            log.warning("left out: %s", error)
    return scans
