"""Real CT slices that packages of the registry carry."""

from __future__ import annotations

import logging

from pydicom.data import get_testdata_file

from tfstyle.data import Scan, read_scans

log = logging.getLogger(__name__)

#: 512x512 CT slices in HU among pydicom-data's files.
FILES = ("693_UNCI.dcm", "693_J2KR.dcm", "explicit_VR-UN.dcm", "eCT_Supplemental.dcm")


def extra_ct() -> list[Scan]:
    """CT slices out of the package pydicom-data, in HU; those it lacks are passed over."""
    paths = {name: get_testdata_file(name, download=False) for name in FILES}
    if missing := [name for name, path in paths.items() if path is None]:
        log.warning("left out, as pydicom-data does not have them: %s", ", ".join(missing))
    scans = [scan for path in paths.values() if path for scan in read_scans(str(path))]
    return [scan for scan in scans if scan.units == "HU"]
