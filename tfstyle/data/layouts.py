"""What the names in a data set say: which files are label maps, and which belong to one image.

Known are the layouts of TotalSegmentator, nnU-Net, the Medical Segmentation Decathlon, VerSe, BIDS
and CTSpine1K, and folders or names with words such as ``masks`` and ``_seg``.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib

#: What the headers of generated scans say: Derivation Description (0008,2111) of DICOM,
#: ``descrip`` of NIfTI, a text chunk of PNG.
MARK = "by tfstyle; not for diagnosis"
#: The whole sentence, and that of other pictures that tfstyle makes.
DESCRIPTION, PICTURE = f"Gray scale changed {MARK}", f"Drawn {MARK}"

#: Bytes among which :func:`is_result` looks for it; in DICOM it stands before the patient, but in
#: derived images behind a list of references of any length.
_HEAD, _REFERENCES = 2**14, 2**20

_WORDS = (
    r"labels?|labelmaps?|d?segs?|probsegs?|segmentations?|masks?|msk|gt|ground_?truth|annotations?"
    r"|contours?"
)
_LABEL_NAME = re.compile(rf"(^|[_.\-])({_WORDS})\d*([_.\-]|$)", re.I)
_LABEL_FOLDER = re.compile(
    r"(?!(images?|imgs?|scans?|volumes?|with|no)[_. -])([a-z0-9]+[_. -])?"
    rf"({_WORDS}|predictions?|infer|rois?|structures?)"
    r"([_. -]?(tr|ts|va|val|train|test|dicom|v\d+))?"
    r"|labell?ed_dicom|nnunet_results|(rt|structure)[_. -]?(structs?|sets?)",
    re.I,
)
NIFTI = (".nii", ".nii.gz")
PICTURES = (*NIFTI, ".png")
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
    """A file's name without the ending of an image."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


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
    """Whether a file is a label map by its name."""
    return _LABEL_NAME.search(stem_of(os.path.basename(os.fspath(path)))) is not None


def is_label_path(path: str) -> bool:
    """Whether a file is a label map by its path in a data set: its name, or that of a folder."""
    *folders, name = path.strip(os.sep).split(os.sep)
    return any(map(_LABEL_FOLDER.fullmatch, folders)) or (
        name.lower().endswith(PICTURES) and is_label_name(name)
    )


def is_result(path: str | os.PathLike) -> bool:
    """Whether a DICOM, NIfTI or PNG file was made by tfstyle, by what its header says."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if b"DERIVED\\SECONDARY" in head and MARK.encode() not in head:
                head += file.read(_REFERENCES)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                head = file.read(1024)
    except (OSError, EOFError, ValueError, zlib.error):
        return False  # whoever reads it says what is wrong
    return MARK.encode() in head
