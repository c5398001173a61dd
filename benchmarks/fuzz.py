#!/usr/bin/env python
"""Readers under hostile input: mutations of real files, guided by the code that they reach.

    python benchmarks/fuzz.py                                  # fuzz.json, table in docs/limits.md
    python benchmarks/fuzz.py --reader dicom --case FILE       # one case again, with its traceback

Atheris (libFuzzer) changes cases and keeps those that reach new code. A case is one file, or one
member of an archive, in place of that of a set in ``fuzz_readers.py``. It is good when the set is
read or refused with one of tfstyle's errors, and nothing was written beside the output folder. A
process that dies (a crash) or takes longer than the time limit (a hang) is noted, and another one
does the rest. The cases that fail and the log are kept in ``runs/fuzz``.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import logging
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

#: Settings of ``tfstyle.limits``, low ones.
LIMITS = {
    "TFSTYLE_LIMIT_PICTURE_PIXELS": "1Mi",
    "TFSTYLE_LIMIT_TEXT_BYTES": "1Mi",
    "TFSTYLE_LIMIT_MANIFEST_BYTES": "1Mi",
    "TFSTYLE_LIMIT_SCAN_PIXELS": "8Mi",
    "TFSTYLE_LIMIT_FILE_BYTES": "64Mi",
    "TFSTYLE_LIMIT_FRAMES": "4096",
}
MEMORY = 2**30  # bytes above what the process has after its first case
SECONDS = 60  # by the clock; a case that takes longer hangs
#: What the process of a reader counts, at last bytes; what follows from it; and what is bad.
COUNTS = ("cases", "read", "refused", "unexpected", "outside", "memory")
BAD = ("unexpected", "outside", "crashes", "hangs")
#: libFuzzer's dictionary: what a program may not expect.
WORDS = ("null", "NaN", "1e999", "-1", "[]", "../../x", "/x", "WriteFile", "1.2.840.10008.1.2.2")

PACKAGES = ("atheris", "highdicom", "nibabel", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm")


def files_of(case: bytes, sets: list[dict[str, bytes]]) -> dict[str, bytes]:
    """The set that the first byte names, with the rest in place of what the second byte names."""
    files = sets[case[0] % len(sets)]
    return {**files, sorted(files)[case[1] % len(files)]: case[2:]}


def place(files: dict[str, bytes], folder: Path) -> None:
    """Writes files into a folder: ``a.npz!b`` into an archive, ``a.gz!`` as a packed stream."""
    for name, data in files.items():
        name, packed, member = name.partition("!")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if member:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(member, data)
        else:
            path.write_bytes(gzip.compress(data, 1) if packed else data)


def run_case(read, files: dict[str, bytes], root: Path) -> str:
    """Reads a case in new folders of `root`: read, refused or outside."""
    from tfstyle.errors import TfstyleError

    case, out = root / "a" / "b" / "in", root / "a" / "b" / "out"  # a few .. do not leave them
    shutil.rmtree(root, ignore_errors=True)
    for folder in (case, out):
        folder.mkdir(parents=True)
    os.chdir(root)
    place(files, case)
    before, outcome = {*root.rglob("*")}, "read"
    try:
        read(case, out)
    except TfstyleError:
        outcome = "refused"
    strays = {path for path in root.rglob("*") if out not in path.parents} - before
    if strays:
        print(f"outside: {sorted(strays)}", flush=True)
    return "outside" if strays else outcome


def reader_of(module: str, name: str, scratch: Path):
    """What a process imports and sets before its first case: the reader, and its sets."""
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["tfstyle", "pydicom", "nibabel"]):
        reader = importlib.import_module(module).READERS[name]
    os.environ.update(LIMITS, HOME=str(scratch), TMPDIR=str(scratch))
    tempfile.tempdir = None
    return reader.read, [*reader.seeds()]


def memory(key: str) -> int:
    """Bytes of this process, now (VmSize) or at most (VmHWM)."""
    return 1024 * int(re.search(rf"{key}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def work(module: str, name: str, runs: int, seed: int, scratch: Path, kept: Path, counts) -> None:
    """Runs and counts cases until all are done, or the process dies."""
    log = os.open(kept / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    import atheris

    (read, sets), idle = reader_of(module, name, scratch), 0
    corpus, words = kept / "corpus", kept / "words"
    corpus.mkdir(exist_ok=True)
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    for number, files in enumerate(sets):
        for part, file in enumerate(sorted(files)):
            (corpus / f"{number:03d}-{part}").write_bytes(bytes([number, part]) + files[file])

    def run(case: bytes) -> None:
        nonlocal idle
        if len(case) < 2:  # libFuzzer begins with a case of its own
            return
        (kept / "last").write_bytes(case)
        counts[0] += 1
        outcome = "unexpected"
        try:
            outcome = run_case(read, files_of(case, sets), scratch / "box")
            if outcome == "outside":
                raise RuntimeError(outcome)
        finally:
            counts[COUNTS.index(outcome)] += 1
            counts[-1] = max(counts[-1], memory("VmHWM") - idle if idle else 0)
        if not idle:  # what is imported late is there now
            idle, space = memory("VmHWM"), memory("VmSize") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (space, space))

    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", f"-dict={words}"]
    options += ["-rss_limit_mb=0", "-max_len=200000", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


def fuzz(module: str, name: str, runs: int, seed: int, kept: Path) -> dict[str, int]:
    """All cases of one reader, no matter how often its process dies."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    counts, ended = spawn.RawArray("q", len(COUNTS)), None
    while ended != 0 and counts[0] < runs:
        before = counts[0]
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            rest = module, name, runs - before, seed + before, Path(scratch), kept, counts
            process = spawn.Process(target=work, args=rest)
            process.start()
            process.join()
        ended = process.exitcode
        if ended:
            print(f"{name}: ends with {ended} at case {counts[0]}, see {kept}", flush=True)
            if counts[0] == before:
                raise SystemExit(f"{name}: ended before its first case")
            (kept / "last").rename(kept / f"died-{counts[0]}")
    hangs, (cases, *outcomes, used) = len([*kept.glob("timeout-*")]), counts
    row = {"cases": cases, **dict(zip(COUNTS[1:-1], outcomes))}
    row |= {"crashes": cases - sum(outcomes) - hangs, "hangs": hangs}
    return {**row, "memory_mb": round(used / 2**20)}


def table(report: dict) -> str:
    """The report in Markdown, as docs/limits.md shows it."""
    from studies import common

    return common.render("fuzz.md", rows={**report["readers"], "all": report["total"]})


def main(arguments: list[str] | None = None, module: str = "fuzz_readers") -> int:
    """Runs what the command line says on the ``READERS`` of a module; 1 if anything failed."""
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, help="cases of each reader, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only this one")
    parser.add_argument("--case", type=Path, help="read this case and show what happens")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="what fails, and logs")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    if options.case:
        case, scratch = options.case.read_bytes(), Path(tempfile.mkdtemp())
        read, sets = reader_of(module, options.reader[0], scratch)
        print(run_case(read, files_of(case, sets), scratch / "box"))
        return 0
    from tfstyle._private.versions import package_versions
    from tfstyle.runs import environment

    readers, output = importlib.import_module(module).READERS, options.output.resolve()
    # With --reader the figures of other readers stay.
    found = json.loads(output.read_text())["readers"] if options.reader and output.exists() else {}
    for name in options.reader or readers:
        kept, runs = options.keep.resolve() / name.replace(" ", "-"), readers[name].runs
        found[name] = fuzz(module, name, options.runs or runs, options.seed, kept)
        print(name, json.dumps(found[name]), flush=True)
    found = {name: found[name] for name in readers if name in found}
    keys = ("cases", "read", "refused", *BAD)
    total = {key: sum(row[key] for row in found.values()) for key in keys}
    report = {
        "command": f"python benchmarks/fuzz.py --seed {options.seed}",
        "limits": LIMITS,
        "memory_limit_mb": MEMORY // 2**20,
        "time_limit_s": SECONDS,
        "total": {**total, "memory_mb": max(row["memory_mb"] for row in found.values())},
        "readers": found,
        "environment": {**environment(), **package_versions(PACKAGES)},
    }
    output.write_text(json.dumps(report, indent=1) + "\n")
    if output == Path(__file__).resolve().with_suffix(".json"):
        from studies import common

        page = ROOT / "docs" / "limits.md"
        page.write_text(common.filled(page.read_text(), "fuzz", table(report)))
    print(json.dumps(report["total"]))
    return int(any(total[key] for key in BAD))


if __name__ == "__main__":
    sys.exit(main())
