#!/usr/bin/env python
"""Is the tone right on patients of other collections, whom no model of tfstyle has seen?

    pip install pynrrd
    pip download --no-deps --no-binary :all: -d runs/external pyradiomics==3.0.1
    pip download --no-deps --no-binary :all: -d runs/external pycerr==2.5.1
    pip download --no-deps --no-binary :all: -d runs/external platipy==0.5.0.dev1
    python benchmarks/external.py --data DATA --archives runs/external

Seven CT of the chest, from the neck to the kidneys, lie in the source archives of three packages,
as examples or test data. They are the contents, in pairs drawn as in ``truth.py``; styles are
slices of all other scans, these and those that tone_ct was trained on. What is measured is the
released preset itself, not a model trained in the same way. The archives have licenses of their
own, and are only read. Figures go to ``external.json``, the table to
``../docs/results/external.md``.
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
from ct_pairs import SIZE, Pair, draw_pairs
from ct_scans import ScanRecord, load_scans, record

import tfstyle
from studies import common
from tfstyle.data import Scan, read_scans
from tfstyle.errors import InputFileError
from tfstyle.runs import environment

#: Archive, its SHA-256, and the file or folder of each patient in it.
ARCHIVES = {
    "pyradiomics-3.0.1": (
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        {f"pyradiomics_{n}": f"data/lung{n}_image.nrrd" for n in (1, 2)},
    ),
    "pycerr-2.5.1": (
        "5c9dd91d2e12d689329e91d8cf16b0c323bdf2489393ce457199ffd98b36e687",
        {f"pycerr_{n}": f"cerr/datasets/radiomics_phantom_dicom/pat_{n}" for n in (1, 2, 3, 4)},
    ),
    "platipy-0.5.0.dev1": (
        "0ab0874022e6d864d8cc6e42ecc8567149822b98bf4d834c0cd3ad09a4620dd1",
        {"platipy": "platipy/backend/sample/testcase.nii.gz"},
    ),
}
#: Rows: name and what the table says.
METHODS = {
    **dict(itertools.islice(truth.METHODS.items(), 7)),  # those without training
    "tone_ct": "**tone transfer**, the preset `tone_ct`",
}


def load_archives(folder: Path) -> dict[str, ScanRecord]:
    """The scans of the archives in a folder, by name.

    Raises:
        InputFileError: an archive that is missing or is not the one of that name.
    """
    records = {}
    for archive, (sha256, patients) in ARCHIVES.items():
        path = folder / f"{archive}.tar.gz"
        if not path.is_file():
            raise InputFileError(path, "no such file; fetch it as the help says.")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise InputFileError(path, "is not the archive of this name; fetch it again.")
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory() as made:
            inside = {f"{archive}/{part}": name for name, part in patients.items()}
            for member in tar.getmembers():
                place = PurePosixPath(member.name)
                if member.isfile() and {*inside} & {str(one) for one in (place, *place.parents)}:
                    tar.extract(member, made, filter="data")
            for part, name in inside.items():
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


def columns(pairs: list[Pair], stylize) -> dict[str, np.ndarray]:
    """What is measured of a method, an array of one value a pair."""
    rows = [
        truth.measure(p, p.right if stylize is None else stylize(p.content, p.style)) for p in pairs
    ]
    found = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return {**found, "same_scale": np.array([pair.same_scale for pair in pairs])}


def main() -> None:
    """Measures; writes the figures and the page."""
    parser = common.parser(__doc__, __file__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real CT")
    parser.add_argument("--archives", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--pairs", type=int, default=200, help="of each patient (default: 200)")
    options = common.parse(parser, None)
    external = load_archives(options.archives)
    scans = {**load_scans(options.data), **external}
    preset = tfstyle.from_preset("tone_ct")
    rows = {}
    for name in external:
        pairs = list(draw_pairs(scans, {name}, options.pairs))
        methods = {m: preset.stylize if m == "tone_ct" else truth.method(m) for m in METHODS}
        rows[name] = {m: columns(pairs, stylize) for m, stylize in methods.items()}
        print(name, round(float(rows[name]["tone_ct"]["balanced"].mean()), 3), flush=True)
    result = {
        "pairs": options.pairs,
        "size": SIZE,
        "patients": {name: list(scan.hu.shape) for name, scan in external.items()},
        "methods": {
            name: {
                "all": truth.summary(rows, name),
                "by_patient": {p: truth.summary({p: rows[p]}, name)["mean"] for p in rows},
            }
            for name in METHODS
        },
        "preset": preset.fingerprint(),
        "environment": environment(),
    }
    common.write_study(options.output, result)
    options.page.write_text(page(result), encoding="utf-8")
    print(options.page)


def page(result: dict) -> str:
    """The page of a result, in Markdown."""
    return common.render("external.md", **result, titles=METHODS, harm=truth.HARM) + "\n"


if __name__ == "__main__":
    main()
