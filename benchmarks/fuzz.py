#!/usr/bin/env python
"""Readers under hostile input: mutations of real files, guided by the code that they reach.

    python benchmarks/fuzz.py                                  # fuzz.json, table in docs/limits.md
    python benchmarks/fuzz.py --reader dicom --case FILE       # one case again, with its traceback

Atheris (libFuzzer) changes cases and keeps those that reach new code. A case is a ZIP archive of
the files that a reader of ``fuzz_readers.py`` is given. It is good when they are read or refused
with one of tfstyle's errors, and nothing was written beside the output folder. A process that dies
(a crash) or takes longer than the time limit (a hang) is noted, and another one does the rest. The
cases that fail and the log are kept in ``runs/fuzz``.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
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


def pack(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Files as an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutate_case(data: bytes, limit: int, seed: int) -> bytes:
    """Another case: one of its files changed."""
    if not data.startswith(b"PK"):  # libFuzzer begins with a case of its own
        return data
    rng, files = random.Random(seed), unpack(data)
    name = rng.choice(sorted(files))
    changed = pack({**files, name: mutate(files[name], rng)})
    return changed if len(changed) <= limit else data


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Other bytes; most often within what is packed or has lengths and checksums, kept right."""
    import atheris

    forms = {b"\x1f\x8b": in_gzip, b"PK": in_zip, b"\x89P": in_png}
    form = in_dicom if data[128:132] == b"DICM" else forms.get(data[:2])
    if form is not None and rng.random() < 0.75:
        with contextlib.suppress(Exception):  # it was damaged before
            return form(data, rng)
    if rng.random() < 0.005:
        return data + bytes(10 ** rng.choice((3, 5, 6)))
    return atheris.Mutate(data, len(data) + 64)


def in_gzip(data: bytes, rng: random.Random) -> bytes:
    """Other content of a gzip stream."""
    return gzip.compress(mutate(gzip.decompress(data), rng), 1)


def in_zip(data: bytes, rng: random.Random) -> bytes:
    """A member changed, left out or renamed."""
    files = unpack(data)
    name, kind = rng.choice(sorted(files)), rng.randrange(8)
    inner = files.pop(name)
    if kind == 1:
        files[rng.choice(("../../../x", "/x", "x", name + ".npy"))] = inner
    elif kind > 1:
        files[name] = mutate(inner, rng)
    return pack(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def in_png(data: bytes, rng: random.Random) -> bytes:
    """Another chunk, with its checksum; pixels changed before they are packed."""
    start = 8
    for _ in range(rng.randrange(data.count(b"IDAT") + 4)):
        length = int.from_bytes(data[start : start + 4], "big")
        start = start + 12 + length if start + 12 + length < len(data) else 8
    (length,), kind = struct.unpack_from(">I", data, start), data[start + 4 : start + 8]
    inner, rest = data[start + 8 : start + 8 + length], data[start + 12 + length :]
    pixels = kind == b"IDAT" and rng.random() < 0.7
    inner = zlib.compress(mutate(zlib.decompress(inner), rng)) if pixels else mutate(inner, rng)
    head, check = struct.pack(">I", len(inner)), struct.pack(">I", zlib.crc32(kind + inner))
    return data[:start] + head + kind + inner + check + rest


def in_dicom(data: bytes, rng: random.Random) -> bytes:
    """One attribute changed or left out, another transfer syntax; well-formed otherwise."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    tag, kind = rng.choice(list(dataset.keys())), rng.randrange(8)
    if kind == 0:
        del dataset[tag]
    elif kind == 1:
        dataset.file_meta.TransferSyntaxUID = rng.choice(WORDS[-5:])
    else:
        element = dataset.get_item(tag)
        value = mutate(element.value, rng)
        value += b"\0" * (len(value) % 2)
        dataset[tag] = element._replace(value=value, length=len(value))
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def run_case(read, files: dict[str, bytes], root: Path) -> str:
    """Reads a case in new folders of `root`: read, refused or outside."""
    from tfstyle.errors import TfstyleError

    case, out = root / "a" / "b" / "in", root / "a" / "b" / "out"  # a few .. do not leave them
    shutil.rmtree(root, ignore_errors=True)
    for folder in (case, out):
        folder.mkdir(parents=True)
    os.chdir(root)
    for name, data in files.items():
        (case / Path(name).name).write_bytes(data)
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


def prepare(reader, scratch: Path) -> None:
    """What a process imports and sets before its first case."""
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["tfstyle", "pydicom", "nibabel"]):
        for name in reader.modules:
            importlib.import_module(f"tfstyle.{name}")
    os.environ.update(LIMITS, HOME=str(scratch), TMPDIR=str(scratch))
    tempfile.tempdir = None


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

    prepare(reader, scratch)
    corpus, words, idle = kept / "corpus", kept / "words", 0
    if not corpus.exists():
        corpus.mkdir()
        words.write_text("".join(f'"{word}"\n' for word in WORDS))
        for number, files in enumerate(reader.seeds()):
            (corpus / f"{number:03d}").write_bytes(pack(files))
    lines = (kept / "cases").open("a", buffering=1)

    def case(data: bytes) -> None:
        nonlocal idle
        if not data.startswith(b"PK"):
            return
        lines.write("begin\n")
        begin, outcome = time.monotonic(), "unexpected"
        try:
            outcome = run_case(reader.read, unpack(data), scratch / "box")
            if outcome == "outside":
                raise RuntimeError(outcome)
        finally:
            ms = int(1000 * (time.monotonic() - begin))
            lines.write(f"{outcome} {ms} {memory('VmHWM') - idle if idle else 0}\n")
        if not idle:  # what is imported late is there now
            idle, space = memory("VmHWM"), memory("VmSize") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (space, space))

    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", f"-dict={words}"]
    options += ["-rss_limit_mb=0", "-max_len=200000", "-cross_over=0", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], case, custom_mutator=mutate_case)
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
            print(f"{name}: ends with {ended} at case {count}, see {kept}/log", flush=True)
            if count == before:
                raise SystemExit(f"{name}: ended before its first case")
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
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    output, names = options.output.resolve(), options.reader or list(readers)
    if options.case is not None:
        files, scratch = unpack(options.case.read_bytes()), Path(tempfile.mkdtemp())
        prepare(readers[names[0]], scratch)
        print(run_case(readers[names[0]].read, files, scratch / "box"))
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
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    report = {
        "command": f"python benchmarks/fuzz.py --seed {options.seed}",
        "limits": LIMITS,
        "memory_limit_mb": MEMORY // 2**20,
        "time_limit_s": SECONDS,
        "total": {**total, "memory_mb": max(row["memory_mb"] for row in found.values())},
        "readers": found,
        "environment": {
            "python": sys.version.split()[0],
            **{name: installed[name] for name in PACKAGES if name in installed},
        },
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
