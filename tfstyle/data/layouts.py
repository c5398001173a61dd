"""What the names in a data set say: which files are label maps, and which belong to one image.

The layouts known are those of TotalSegmentator (``s0001/segmentations/``), nnU-Net and the Medical
Segmentation Decathlon (``imagesTr/case_0000``, ``labelsTr/case``), VerSe and BIDS
(``derivatives/…_seg-vert_msk``, ``…_dseg``), CTSpine1K, and folders or names with words such as
``masks`` and ``_seg``.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from tfstyle.data.dicom import DicomSeries, is_dicom
from tfstyle.data.scan import Scan
from tfstyle.errors import InputFileError

logger = logging.getLogger(__name__)

_MARK = "by tfstyle; not for diagnosis"
#: Beginning of what the headers of generated scans say: Derivation Description (0008,2111) of
#: DICOM, ``descrip`` of NIfTI, a text chunk of PNG; and of other pictures that tfstyle makes.
DESCRIPTION, PICTURE = f"Gray scale changed {_MARK}", f"Drawn {_MARK}"

#: Bytes among which :func:`is_result` looks for it; in DICOM it stands before the patient, but in
#: derived images behind a list of references of any length.
_HEAD, _REFERENCES = 2**14, 2**20

_WORDS = (
    r"labels?|labelmaps?|d?segs?|probsegs?|segmentations?|masks?|msk|gt|ground_?truth|annotations?"
)
_LABEL_NAME = re.compile(rf"(^|[_.\-])({_WORDS})\d*([_.\-]|$)", re.I)
_LABEL_FOLDER = re.compile(
    r"(?!(images?|imgs?|scans?|volumes?|with|no)[_. -])([a-z0-9]+[_. -])?"
    rf"({_WORDS}|predictions?|infer|rois?)([_. -]?(tr|ts|va|val|train|test|dicom|v\d+))?"
    r"|labell?ed_dicom",
    re.I,
)
_PICTURES = (".nii", ".nii.gz", ".png")
_ENDINGS = (".nii.gz", ".nii", ".png", ".dcm", ".dicom", ".ima", ".nrrd", ".tif", ".tiff", ".npy")
#: What names of masks have and names of their images have not, and nnU-Net's channel number.
_MASK_WORDS = re.compile(
    r"([_.\-](label|seg)-[a-z0-9]+)?[_.\-](labels?|d?seg|segmentations?|masks?|msk|gt)$", re.I
)
_IMAGE_WORDS = re.compile(r"[_.\-](ct|image|img|0000)$", re.I)
_NUMBERED = re.compile(
    r"(?<![a-z0-9])(volume|image|img|label|mask|segmentation)[_.\-]?(?=\d)", re.I
)


def stem_of(name: str) -> str:
    """A file's name without the ending of an image.

    Example:
        >>> stem_of("case_0000.nii.gz")
        'case_0000'
    """
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def key_of(name: str) -> str:
    """What the name of an image and that of its mask have in common.

    Example:
        >>> key_of("case_0000.nii.gz"), key_of("case_seg.nii.gz"), key_of("a_seg-vert_msk.nii.gz")
        ('case', 'case', 'a')
    """
    stem = stem_of(name)
    shorter = _IMAGE_WORDS.sub("", _MASK_WORDS.sub("", stem))
    return _NUMBERED.sub("", shorter) or stem


def is_label_name(path: str | os.PathLike) -> bool:
    """Whether a file is a label map by its name.

    Example:
        >>> [is_label_name(name) for name in ("sub-1_dseg.nii.gz", "sub-1_ct.nii.gz")]
        [True, False]
    """
    return _LABEL_NAME.search(stem_of(os.path.basename(os.fspath(path)))) is not None


def is_result(path: str | os.PathLike) -> bool:
    """Whether a DICOM, NIfTI or PNG file was made by tfstyle, by what its header says."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if b"DERIVED\\SECONDARY" in head and _MARK.encode() not in head:
                head += file.read(_REFERENCES)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                head = file.read(1024)
    except (OSError, EOFError, ValueError, zlib.error):
        return False  # whoever reads it says what is wrong
    return _MARK.encode() in head


def images_among(folder: str | os.PathLike, files: Iterable[str]) -> list[str]:
    """Leaves label maps and results of tfstyle out of the files of a folder, and says so.

    Label maps are known by the names of NIfTI and PNG files and of the folders below `folder`, so
    that a folder or file of them is read where it is given itself; results by their headers. A
    folder of nothing but results is read.

    Args:
        folder: The folder.
        files: The files in it, of any kind, as :func:`tfstyle.data.read.find_files` gives them.

    Returns:
        The others, in the same order.

    Raises:
        InputFileError: If there are label maps and nothing else that could be a scan.
    """
    images: list[str] = []
    labels: list[str] = []
    for file in files:
        *above, name = file[len(os.fspath(folder)) :].strip(os.sep).split(os.sep)
        known = any(map(_LABEL_FOLDER.fullmatch, above))
        if known or (name.lower().endswith(_PICTURES) and is_label_name(name)):
            labels.append(file)
        else:
            images.append(file)
    labels = list(filter(_may_be_scan, labels))
    if labels and not any(map(_may_be_scan, images)):
        raise InputFileError(
            folder,
            f"holds no scans: {_listed(labels)} are label maps by the names of files or folders. "
            "Give the folder of the images, or such a file itself to read it as a scan.",
        )
    if labels:
        logger.warning(
            "Left out of %s: %s, which are label maps by the names of files or folders.",
            folder,
            _listed(labels),
        )
    results = set(filter(is_result, images))
    others = [file for file in images if file not in results]
    if not results or not any(map(_may_be_scan, others)):
        return images
    logger.warning(
        "Left out of %s: %s, which tfstyle made. To read results, name them or their own folder.",
        folder,
        _listed(sorted(results)),
    )
    return others


def _listed(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files such as {files[0]}"


def _may_be_scan(file: str) -> bool:
    lower = file.lower()
    return lower.endswith((*_PICTURES, ".dcm", ".dicom", ".ima")) or is_dicom(file)


def is_label_map(scan: Scan, other: Scan | DicomSeries) -> bool:
    """Whether a volume is a label map of a CT beside it, by its voxels.

    Those of label maps are whole numbers, and small on the grid of the CT, or alike over areas.
    """
    if (
        scan.units != "US"
        or other.units != "HU"
        or os.path.dirname(scan.files[0]) != os.path.dirname(other.files[0])
        or scan.pixels.dtype.kind not in "iu"
        or scan.pixels.min() < 0
    ):
        return False
    shape = other.shape if isinstance(other, DicomSeries) else other.pixels.shape
    if scan.pixels.shape == shape and np.allclose(scan.affine, other.affine, atol=1e-3):
        return bool(scan.pixels.max() <= 255)
    left, right = scan.pixels[..., :-1], scan.pixels[..., 1:]
    inside = left > 0
    return not inside.any() or float(np.mean((left == right)[inside])) > 0.5
