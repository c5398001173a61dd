"""The real CT that is measured on and trained on: HU, body masks, and who is the same patient.

    scans = load_scans("DATA")          # {"torso": ScanRecord, "head_a": ScanRecord, ...}
    groups = sorted({scan.group for scan in scans.values()})

Sources are the folders of DATA, each with a NIfTI file ``ct.nii.gz`` or DICOM, and the CT that the
packages pydicom and pydicom-data carry. A group is one patient: what is left out in a fold is left
out by group.

Decided by looking, and by the figures given here:

- ``pulmonary`` is the same scan as ``aorta``: same origin, and on the 1.4 million voxels that both
  crops have the correlation is 0.9999998. It is left out; its region lies inside the other.
- ``torso`` and ``torso_dicom`` are two patients: at T12 the aorta is 21 mm wide in one and 26 mm in
  the other, body 327 and 349 mm; one has no contrast agent and the arms up, one both otherwise.
- Of the CT files of the packages these are not taken: ``693_UNCR`` (the image of ``693_J2KR``
  uncompressed), ``693_UNCI`` and ``693_J2KI`` (the same slice after lossy compression, with rings
  around the skull), ``eCT_Supplemental`` (a perfusion map, not HU), the files of ``dicomdirtests``
  (without pixels, or 16 x 16).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.data import get_testdata_file

from tfstyle.data import Scan, body_mask, read_scans
from tfstyle.data.scan import upright
from tfstyle.errors import InputFileError

#: CT in the packages: id and file. Each is another patient.
PACKAGED = {
    "chest_crop": "CT_small.dcm",  # GE
    "head_base": "J2K_pixelrep_mismatch.dcm",  # Hitachi, gantry tilted
    "head": "693_J2KR.dcm",  # CQ500
    "spine_crop": "bad_sequence.dcm",  # Siemens
    "pancreas": "explicit_VR-UN.dcm",  # NIH Pancreas-CT
}
#: Folders of DATA that show a patient of another one; see above.
SAME = {"pulmonary": "aorta"}
#: Values are cut to what 12 bits hold: padding below air, metal above.
HU_RANGE = (-1024, 3071)


@dataclass(frozen=True, eq=False)
class ScanRecord:
    """One scan in radiological orientation: slices upward, rows to the back, columns to the left.

    Attributes:
        packaged: Whether a package carries it, so that pictures of it may be shown.
    """

    id: str
    group: str  # the patient; scans of one group are left out together
    hu: np.ndarray = field(repr=False)  # int16 (N, H, W) in HU, N at least 1
    body: np.ndarray = field(repr=False)  # bool (N, H, W), see tfstyle.data.body_mask
    spacing: tuple[float, float, float]  # mm between slices, rows and columns
    packaged: bool = False


def load_scans(data: str | Path | None) -> dict[str, ScanRecord]:
    """All scans by id, in a fixed order.

    Args:
        data: Folder with one folder a scan, or None for the packages alone.

    Raises:
        InputFileError: if `data` is missing, a folder in it holds no CT in HU, or a package is not
            installed.
    """
    records: dict[str, ScanRecord] = {}
    if data is not None:
        root = Path(data)
        folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        if not folders:
            raise InputFileError(root, "holds no folder with a scan.")
        for folder in folders:
            if folder.name in SAME and (root / SAME[folder.name]).is_dir():
                continue
            nifti = folder / "ct.nii.gz"
            scans = _read(nifti if nifti.is_file() else folder)
            for number, scan in enumerate(scans):
                name = folder.name if len(scans) == 1 else f"{folder.name}_{number}"
                records[name] = record(scan, name, folder.name)
    for name, file in PACKAGED.items():
        (scan,) = _read(packaged_file(file))
        records[name] = record(scan, name, name, packaged=True)
    return records


def _read(path: Path) -> list[Scan]:
    scans = [scan for scan in read_scans(path) if scan.units == "HU"]
    if not scans:
        raise InputFileError(path, "holds no CT in Hounsfield units.")
    return scans


def packaged_file(name: str) -> Path:
    """A file of pydicom's test data, without any download; an InputFileError if it is not there."""
    found = get_testdata_file(name, download=False)
    if found is None:
        raise InputFileError(name, "is part of pydicom-data; install it: pip install pydicom-data.")
    return Path(str(found))


def oriented(scan: Scan, volume: np.ndarray) -> np.ndarray:
    """A volume on the grid of a scan with slices upward, rows to the back, columns to the left."""
    up = -1 if scan.affine is not None and scan.affine[2, 0] < 0 else 1
    return upright(scan, volume)[::up]


def record(scan: Scan, name: str, group: str, packaged: bool = False) -> ScanRecord:
    """What is measured of a scan, in radiological orientation."""
    hu = np.ascontiguousarray(oriented(scan, scan.pixels).clip(*HU_RANGE), np.int16)
    body = np.stack([body_mask(one, scan.spacing[1:]) for one in hu])
    return ScanRecord(name, group, hu, body, scan.spacing, packaged)
