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
import importlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

LIMITS = {
    "TFSTYLE_LIMIT_PICTURE_PIXELS": "1Mi",
    "TFSTYLE_LIMIT_SCAN_PIXELS": "8Mi",
    "TFSTYLE_LIMIT_FILE_BYTES": "64Mi",
    "TFSTYLE_LIMIT_TEXT_BYTES": "1Mi",
    "TFSTYLE_LIMIT_MANIFEST_BYTES": "1Mi",
    "TFSTYLE_LIMIT_FRAMES": "4096",
}
MEMORY = 2**30  # bytes above what the process has after its first case
SECONDS = 60  # by the clock; a case that takes longer hangs
OUTCOMES = ("read", "refused", "unexpected", "outside")
BAD = ("unexpected", "outside", "crashes", "hangs")
#: libFuzzer's dictionary: what a program may not expect.
WORDS = (
    "null", "NaN", "1e999", "-1", "[]", "{}", "../../x", "/x", "ReadFile", "WriteFile", "PyFunc",
    "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2",
)  # fmt: skip
PACKAGES = (
    "atheris", "highdicom", "keras", "nibabel", "numpy", "pydicom", "pylibjpeg-openjpeg",
    "pylibjpeg-rle", "python-gdcm", "tensorflow", "tfstyle",
)  # fmt: skip


def files_of(case: bytes, sets: list[dict[str, bytes]]) -> dict[str, bytes]:
    """The set that the first byte names, with the rest in place of what the second byte names."""
    files = sets[case[0] % len(sets)]
    return {**files, sorted(files)[case[1] % len(files)]: case[2:]}


def run_case(read, files: dict[str, bytes], root: Path) -> str:
    """Reads a case in new folders of `root`: read, refused or outside."""
    from fuzz_readers import place

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
    except TfstyleError as error:
        outcome = "refused"
        str(error)
    strays = {path for path in root.rglob("*") if out not in path.parents} - before
    if strays:
        print(f"outside: {sorted(strays)}", flush=True)
    return "outside" if strays else outcome


def prepare(reader, scratch: Path) -> list[dict[str, bytes]]:
    """What a process imports and sets before its first case; the sets of the reader."""
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["tfstyle", "pydicom", "nibabel"]):
        for name in reader.modules:
            importlib.import_module(f"tfstyle.{name}")
    os.environ.update(LIMITS, HOME=str(scratch), TMPDIR=str(scratch))
    tempfile.tempdir = None
    return [*reader.seeds()]


def memory(key: str) -> int:
    """Bytes of this process, now (VmSize) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def work(reader, runs: int, seed: int, scratch: Path, kept: Path) -> None:
    """Runs cases until all are done, or the process dies; a line at the start and end of each."""
    log = os.open(kept / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    import atheris

    sets, idle = prepare(reader, scratch), 0
    corpus, words = kept / "corpus", kept / "words"
    if not corpus.exists():
        corpus.mkdir()
        words.write_text("".join(f'"{word}"\n' for word in WORDS))
        for number, files in enumerate(sets):
            for part, name in enumerate(sorted(files)):
                (corpus / f"{number:03d}-{part}").write_bytes(bytes([number, part]) + files[name])
    lines = (kept / "cases").open("a", buffering=1)

    def run(case: bytes) -> None:
        nonlocal idle
        if len(case) < 2:  # libFuzzer begins with a case of its own
            return
        (kept / "last").write_bytes(case)
        lines.write("begin\n")
        begin, outcome = time.monotonic(), "unexpected"
        try:
            outcome = run_case(reader.read, files_of(case, sets), scratch / "box")
            if outcome == "outside":
                raise RuntimeError(outcome)
        finally:
            ms = int(1000 * (time.monotonic() - begin))
            lines.write(f"{outcome} {ms} {memory('VmHWM') - idle if idle else 0}\n")
        if not idle:  # what is imported late is there now
            idle, space = memory("VmHWM"), memory("VmSize") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (space, space))

    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", f"-dict={words}"]
    options += ["-rss_limit_mb=0", "-max_len=200000", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


def fuzz(name: str, reader, runs: int, seed: int, kept: Path) -> dict:
    """All cases of one reader, no matter how often its process dies."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    begin, count, ended, lines = time.monotonic(), 0, None, kept / "cases"
    while ended != 0 and count < runs:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            rest = reader, runs - count, seed + count, Path(scratch), kept
            process = multiprocessing.get_context("fork").Process(target=work, args=rest)
            process.start()
            process.join()
        before, ended = count, process.exitcode
        rows = [line.split() for line in lines.read_text().splitlines()] if lines.exists() else []
        count = rows.count(["begin"])
        if ended:
            print(f"{name}: ends with {ended} at case {count}, see {kept}", flush=True)
            if count == before:
                raise SystemExit(f"{name}: ended before its first case")
            (kept / "last").rename(kept / f"died-{count}")
    done = [(outcome, int(ms), int(used)) for outcome, ms, used in (r for r in rows if r[1:])]
    hangs = len(list(kept.glob("timeout-*")))
    return {
        "cases": count,
        **{outcome: sum(row[0] == outcome for row in done) for outcome in OUTCOMES},
        "crashes": count - len(done) - hangs,
        "hangs": hangs,
        "slowest_ms": max(row[1] for row in done),
        "memory_mb": round(max(row[2] for row in done) / 2**20, 1),
        "corpus": len(list((kept / "corpus").iterdir())),
        "seconds": round(time.monotonic() - begin, 1),
    }


def table(report: dict) -> str:
    """The report in Markdown, as docs/limits.md shows it."""
    head = "reader | cases | read | refused | other errors | crashes | hangs | files elsewhere"
    lines = [f"| {head} | memory, MB |", "| --- |" + " ---: |" * 8]
    keys = ("cases", "read", "refused", "unexpected", "crashes", "hangs", "outside")
    for name, row in {**report["readers"], "all": report["total"]}.items():
        figures = [f"{row[key]:,}".replace(",", " ") for key in keys]
        lines.append(f"| {name} | {' | '.join(figures)} | {row['memory_mb']:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, readers: dict | None = None) -> int:
    """Runs what the command line says; 1 if anything failed."""
    if readers is None:
        from fuzz_readers import READERS as readers  # noqa: N811
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, help="cases of each reader, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=list(readers), help="only this one")
    parser.add_argument("--case", type=Path, help="read this case and show what happens")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="what fails, and logs")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    output, names = options.output.resolve(), options.reader or list(readers)
    if options.case is not None:
        case, scratch = options.case.read_bytes(), Path(tempfile.mkdtemp())
        sets = prepare(readers[names[0]], scratch)
        print(run_case(readers[names[0]].read, files_of(case, sets), scratch / "box"))
        return 0
    found = {}
    for name in names:
        kept, reader = options.keep.resolve() / name.replace(" ", "-"), readers[name]
        found[name] = fuzz(name, reader, options.runs or reader.runs, options.seed, kept)
        print(name, json.dumps(found[name]), flush=True)
    if options.reader and output.exists():  # the figures of other readers stay
        found = {**json.loads(output.read_text())["readers"], **found}
    found = {name: found[name] for name in readers if name in found}
    total = {
        key: sum(row[key] for row in found.values()) for key in ("cases", "read", "refused", *BAD)
    }
    versions = {name: metadata.version(name) for name in PACKAGES}
    report = {
        "command": f"python benchmarks/fuzz.py --seed {options.seed}",
        "limits": LIMITS,
        "memory_limit_mb": MEMORY // 2**20,
        "time_limit_s": SECONDS,
        "total": {**total, "memory_mb": max(row["memory_mb"] for row in found.values())},
        "readers": found,
        "environment": {"python": sys.version.split()[0], **versions},
    }
    output.write_text(json.dumps(report, indent=1) + "\n")
    if output == Path(__file__).resolve().with_suffix(".json"):
        page = ROOT / "docs" / "limits.md"
        before, rest = page.read_text().split("<!-- fuzz -->")
        after = rest.partition("<!-- /fuzz -->")[2]
        page.write_text(f"{before}<!-- fuzz -->\n{table(report)}\n<!-- /fuzz -->{after}")
    print(json.dumps(report["total"]))
    return int(any(total[key] for key in BAD))


if __name__ == "__main__":
    sys.exit(main())
