#!/usr/bin/env python
"""Is the tone right on patients of other collections, whom no model of tfstyle has seen?

    pip install pynrrd
    pip download --no-deps --no-binary :all: -d runs/external pyradiomics==3.0.1 pycerr==2.5.1
    pip download --no-deps --no-binary :all: -d runs/external platipy==0.5.0.dev1
    python benchmarks/external.py --data DATA --archives runs/external

Seven CT of the chest, from the neck to the kidneys, lie in the source archives of three packages,
as examples or test data. They are the contents, in pairs drawn as in ``truth.py``; styles are
slices of all other scans, these and those that tone_ct was trained on. What is measured is the
released preset itself. The archives have licenses of their own, and are only read. Figures go to
``external.json``, the table to ``../docs/results/external.md``.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import truth
from ct_pairs import SIZE
from ct_scans import ScanRecord, load_scans, record

from studies import common
from tfstyle._private.files import write_atomically
from tfstyle.data import Scan, read_scans
from tfstyle.errors import InputFileError

#: SHA-256 of each archive, and the file or folder of each patient in them.
ARCHIVES = {
    "pyradiomics-3.0.1": "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    "pycerr-2.5.1": "5c9dd91d2e12d689329e91d8cf16b0c323bdf2489393ce457199ffd98b36e687",
    "platipy-0.5.0.dev1": "0ab0874022e6d864d8cc6e42ecc8567149822b98bf4d834c0cd3ad09a4620dd1",
}
_CERR = "pycerr-2.5.1/cerr/datasets/radiomics_phantom_dicom"
PATIENTS = {
    **{f"pyradiomics_{n}": f"pyradiomics-3.0.1/data/lung{n}_image.nrrd" for n in (1, 2)},
    **{f"pycerr_{n}": f"{_CERR}/pat_{n}" for n in (1, 2, 3, 4)},
    "platipy": "platipy-0.5.0.dev1/platipy/backend/sample/testcase.nii.gz",
}
#: Rows: name and what the table says.
METHODS = {
    **dict(itertools.islice(truth.METHODS.items(), 7)),  # those without training
    "tone_ct": "**tone transfer**, the preset `tone_ct`",
}


def load_archives(folder: Path) -> dict[str, ScanRecord]:
    """The scans of the archives in a folder, by name; an InputFileError where one is missing."""
    records = {}
    with tempfile.TemporaryDirectory() as made:
        for archive, sha256 in ARCHIVES.items():
            path = folder / f"{archive}.tar.gz"
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise InputFileError(path, "is not there, or another; fetch it as the help says.")
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    place = PurePosixPath(member.name)
                    if member.isfile() and any(map(place.is_relative_to, PATIENTS.values())):
                        tar.extract(member, made, filter="data")
        for name, part in PATIENTS.items():
            records[name] = record(_read(Path(made, part)), name, name)
    return records


def _read(path: Path) -> Scan:
    if path.suffix != ".nrrd":
        (scan,) = [scan for scan in read_scans(path) if scan.units == "HU"]
        return scan
    import nrrd

    values, header = nrrd.read(str(path))  # columns, rows, slices; left, posterior, superior
    spacing = np.diag(header["space directions"])[::-1]
    return Scan(np.ascontiguousarray(values.T), tuple(spacing), "HU", path.stem)


def main() -> None:
    """Measures; writes the figures and the page."""
    parser = common.parser(__doc__, __file__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--archives", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--pairs", type=int, default=200, help="of each patient (default: 200)")
    parser.add_argument("--work", type=Path, default=common.ROOT / "runs" / "external")
    parser.set_defaults(seed=0, size=SIZE, models=None, again=["tone_ct"], methods=[*METHODS])
    options = common.parse(parser, None)
    external = load_archives(options.archives)
    options.folds = [*external]
    study = truth.Study({**load_scans(options.data), **external}, options)
    study.run()
    result = study.result(METHODS)
    common.write_study(options.output, result)
    write_atomically(options.page, page(result).encode())
    print(options.page)


def page(result: dict) -> str:
    """The page of a result, in Markdown."""
    return common.render("external.md", **result, titles=METHODS, harm=truth.HARM) + "\n"


if __name__ == "__main__":
    main()
