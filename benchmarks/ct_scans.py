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
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tfstyle.data import Scan, body_mask, read_scans
from tfstyle.data.scan import upright
from tfstyle.errors import InputFileError

#: CT in the packages: id, package and file. Each is another patient.
PACKAGED = {
    "chest_crop": ("pydicom", "CT_small.dcm"),  # GE
    "head_base": ("pydicom", "J2K_pixelrep_mismatch.dcm"),  # Hitachi, gantry tilted
    "head": ("pydicom-data", "693_J2KR.dcm"),  # CQ500
    "spine_crop": ("pydicom-data", "bad_sequence.dcm"),  # Siemens
    "pancreas": ("pydicom-data", "explicit_VR-UN.dcm"),  # NIH Pancreas-CT
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


def load_scans(data: str | Path | None, packages: bool = True) -> dict[str, ScanRecord]:
    """All scans by id, in a fixed order.

    Args:
        data: Folder with one folder a scan, or None for the packages alone.
        packages: Whether to add the CT of pydicom and pydicom-data.

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
                records[name] = _record(scan, name, folder.name)
    for name, (package, file) in PACKAGED.items() if packages else ():
        (scan,) = _read(_packaged(package) / file)
        records[name] = _record(scan, name, name, packaged=True)
    return records


def _read(path: Path) -> list[Scan]:
    scans = [scan for scan in read_scans(path) if scan.units == "HU"]
    if not scans:
        raise InputFileError(path, "holds no CT in Hounsfield units.")
    return scans


def _packaged(package: str) -> Path:
    if package == "pydicom":
        import pydicom

        return Path(pydicom.__file__).parent / "data" / "test_files"
    spec = find_spec("data_store")
    if spec is None or not spec.submodule_search_locations:
        raise InputFileError(package, "is not installed; install it: pip install pydicom-data.")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def oriented(scan: Scan, volume: np.ndarray) -> np.ndarray:
    """A volume on the grid of a scan with slices upward, rows to the back, columns to the left."""
    up = -1 if scan.affine is not None and scan.affine[2, 0] < 0 else 1
    return upright(scan, volume)[::up]


def _record(scan: Scan, name: str, group: str, packaged: bool = False) -> ScanRecord:
    hu = np.ascontiguousarray(oriented(scan, scan.pixels).clip(*HU_RANGE), np.int16)
    body = np.stack([body_mask(one, scan.spacing[1:]) for one in hu])
    return ScanRecord(name, group, hu, body, scan.spacing, packaged)
