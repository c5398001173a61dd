"""Does derived DICOM conform where its source did? Asks dciodvfy of David Clunie's dicom3tools.

Derives an image of every file with a CT picture (and with ``--all`` any gray picture) among the
test files of pydicom and pydicom-data, once for each profile of ``--deidentify``, runs dciodvfy on
source and derived files, and lists the errors that only the derived file has.

    python benchmarks/dciodvfy.py [--all] [--data DIR ...] [--output benchmarks/dciodvfy.json]

dciodvfy is part of Debian's and Ubuntu's package dicom3tools. The exit status is 1 if there is an
error that a source did not have.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from tfstyle.data import read_scan, resolve_window, scan_to_unit, write_derived_series
from tfstyle.data.dicom.deidentify import PROFILES
from tfstyle.errors import TfstyleError

PROGRAM = "dciodvfy"
_UID = re.compile(r"<[0-9]+\.[0-9.]{8,}>")


def errors_of(file: Path) -> list[str]:
    """The lines of dciodvfy that begin with Error."""
    run = subprocess.run([PROGRAM, file], capture_output=True, text=True, errors="replace")
    lines = (run.stderr + run.stdout).splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("Error")]


def new_errors(source: Sequence[str], derived: Sequence[str]) -> list[str]:
    """Errors that the derived file has more of than its source, for any UIDs they quote."""
    source, derived = ([_UID.sub("<UID>", error) for error in e] for e in (source, derived))
    return sorted((Counter(derived) - Counter(source)).elements())


def check(path: Path, out: Path) -> dict[str, list[str]]:
    """Derives an image of a file in every profile; errors of each, and ``"new …"`` ones."""
    scan = read_scan(path)
    window = resolve_window("auto", scan)
    unit = scan_to_unit(scan, window)
    found = {"source": errors_of(_inflated(path, out))}
    for profile in PROFILES:
        files = write_derived_series(scan, unit, window, out / profile, deidentify=profile)
        found[profile] = errors_of(files[0])
        found[f"new {profile}"] = new_errors(found["source"], found[profile])
    return found


def _inflated(path: Path, out: Path) -> Path:
    """The file, or a copy if it is deflated, which dciodvfy does not read."""
    dataset = pydicom.dcmread(path)
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return path
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(out / "inflated.dcm")
    return out / "inflated.dcm"


def sources(everything: bool, folders: Sequence[Path]) -> Iterator[Path]:
    """DICOM files with pictures, of pydicom, pydicom-data and folders."""
    # One file of pydicom's wheel and one of pydicom-data, and all that lies beside them.
    found = (get_testdata_file(f, download=False) for f in ("CT_small.dcm", "eCT_Supplemental.dcm"))
    roots = [*(Path(file).parent for file in found if file is not None), *folders]
    listed = {path for root in roots for path in root.rglob("*") if path.is_file()}
    for path in sorted(listed, key=lambda path: (path.name, str(path))):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception:
            continue
        if "Rows" in dataset and (everything or dataset.get("Modality") == "CT"):
            yield path


def main() -> int:
    """Checks all files; prints and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="not CT alone")
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="folders of more DICOM")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if shutil.which(PROGRAM) is None:
        print(f"{PROGRAM} is not installed: apt-get install dicom3tools", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    files, unread = {}, {}
    for path in sources(arguments.all, arguments.data):
        with tempfile.TemporaryDirectory() as folder:
            name = path.name if path.name not in files else f"{path.parent.name}/{path.name}"
            try:
                files[name] = found = check(path, Path(folder))
            except TfstyleError as error:
                if "color" not in str(error) and "without a picture" not in str(error):
                    unread[name] = str(error).removeprefix(f"{path}: ")
                continue
        new = sorted({error for profile in PROFILES for error in found[f"new {profile}"]})
        print(f"{name}: {len(found['source'])} errors in the source, {len(new)} new")
        print("".join(f"  {error}\n" for error in new), end="")
    totals = {
        "files": len(files),
        **{key: sum(len(f[key]) for f in files.values()) for key in next(iter(files.values()), ())},
    }
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}", "dicom3tools"]
    version = subprocess.run(query, capture_output=True, text=True, check=False).stdout or PROGRAM
    result = {"program": version, "totals": totals, "not read": unread, "files": files}
    print(json.dumps(totals))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(totals[f"new {profile}"] for profile in PROFILES) if files else 2)


if __name__ == "__main__":
    sys.exit(main())
