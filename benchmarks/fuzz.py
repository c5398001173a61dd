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
import io
import json
import logging
import mmap
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
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
COUNTS = ("cases", "read", "refused", "unexpected", "outside")
SHARED = (*COUNTS, "slowest_ms", "memory")  # figures that outlive a process
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
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    kind, inner = chunks.pop(number := rng.randrange(len(chunks)))
    pixels = kind == b"IDAT" and rng.random() < 0.7
    inner = zlib.compress(mutate(zlib.decompress(inner), rng)) if pixels else mutate(inner, rng)
    chunks.insert(number if rng.random() < 0.8 else rng.randrange(len(chunks) + 1), (kind, inner))
    return data[:8] + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


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


class Sandbox:
    """A tree of folders; the case lies in ``a/b/in``, so that a few ``..`` do not leave it."""

    def __init__(self, root: Path):
        self.root, self.case, self.out = root, root / "a" / "b" / "in", root / "a" / "b" / "out"

    def run(self, read, files: dict[str, bytes]) -> str:
        """Reads a case: one of ``COUNTS``. Raises what no reader may raise."""
        from tfstyle.errors import TfstyleError

        shutil.rmtree(self.root, ignore_errors=True)
        self.case.mkdir(parents=True)
        self.out.mkdir()
        os.chdir(self.root)
        for name, data in files.items():
            (self.case / Path(name).name).write_bytes(data)
        before, outcome = {*self.root.rglob("*")}, "read"
        try:
            read(self.case, self.out)
        except TfstyleError as error:
            outcome = "refused"
            str(error)
        strays = {p for p in self.root.rglob("*") if self.out not in p.parents} - before
        return f"outside: {sorted(strays)}" if strays else outcome


def prepare(reader, scratch: Path) -> None:
    """What a process imports and sets before its first case."""
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["tfstyle", *reader.libraries]):
        reader.prepare()
    os.environ.update(LIMITS, HOME=str(scratch), TMPDIR=str(scratch))
    tempfile.tempdir = None


def memory(key: str) -> int:
    """Bytes of this process, now (VmSize) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def work(reader, runs: int, seed: int, scratch: Path, shared, kept: Path) -> None:
    """A process that runs cases until all are done, or it dies."""
    import atheris

    prepare(reader, scratch)
    corpus, words, sandbox, idle = kept / "corpus", kept / "words", Sandbox(scratch / "box"), 0
    if not corpus.exists():
        corpus.mkdir()
        words.write_text("".join(f'"{word}"\n' for word in WORDS))
        for number, files in enumerate(reader.seeds()):
            (corpus / f"{number:03d}").write_bytes(pack(files))

    def count(name: str, value: int | None = None) -> None:
        place = SHARED.index(name)
        shared[place] = shared[place] + 1 if value is None else max(shared[place], value)

    def case(data: bytes) -> None:
        nonlocal idle
        if not data.startswith(b"PK"):
            return
        begin = time.monotonic()
        count("cases")
        try:
            outcome = sandbox.run(reader.read, unpack(data))
        except BaseException:
            count("unexpected")
            raise
        count(outcome.partition(":")[0])
        if ":" in outcome:
            raise RuntimeError(outcome)
        count("slowest_ms", int(1000 * (time.monotonic() - begin)))
        if not idle:  # what is imported late is there now
            idle, space = memory("VmHWM"), memory("VmSize") + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (space, space))
        count("memory", memory("VmHWM") - idle)

    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", f"-dict={words}"]
    options += ["-rss_limit_mb=0", "-max_len=200000", "-cross_over=0", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], case, custom_mutator=mutate_case)
    atheris.Fuzz()


def fuzz(name: str, reader, runs: int, seed: int, kept: Path) -> dict:
    """All cases of one reader, no matter how often its process dies."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    begin, shared = time.monotonic(), memoryview(mmap.mmap(-1, 8 * len(SHARED))).cast("q")
    status = None
    while status != 0 and (before := shared[0]) < runs:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            if not (process := os.fork()):
                try:
                    log = os.open(kept / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                    for stream in (1, 2):
                        os.dup2(log, stream)
                    work(reader, runs - before, seed + before, Path(scratch), shared, kept)
                except BaseException:
                    traceback.print_exc()
                os._exit(99)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status:
            print(f"{name}: ends with {status} at case {shared[0]}, see {kept}/log", flush=True)
            if shared[0] == before:
                raise SystemExit(f"{name}: ended before its first case")
    found = dict(zip(SHARED, shared))
    kinds = [path.name.partition("-")[0] for path in kept.iterdir()]
    finished = found["read"] + found["refused"] + found["unexpected"] + found["outside"]
    return {
        **{key: found[key] for key in COUNTS},
        "crashes": found["cases"] - finished - kinds.count("timeout"),
        "hangs": kinds.count("timeout"),
        "slowest_ms": found["slowest_ms"],
        "memory_mb": round(found["memory"] / 2**20, 1),
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
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    output, names = options.output.resolve(), options.reader or list(readers)
    if options.case is not None:
        files, scratch = unpack(options.case.read_bytes()), Path(tempfile.mkdtemp())
        prepare(readers[names[0]], scratch)
        print(Sandbox(scratch / "box").run(readers[names[0]].read, files))
        return 0
    found = {}
    for name in names:
        kept = options.keep.resolve() / name.replace(" ", "-")
        found[name] = fuzz(
            name, readers[name], options.runs or readers[name].runs, options.seed, kept
        )
        print(name, json.dumps(found[name]), flush=True)
    if options.reader and output.exists():  # the figures of other readers stay
        before = json.loads(output.read_text())["readers"]
        found = {name: {**before, **found}[name] for name in readers if name in {**before, **found}}
    total = {key: sum(row[key] for row in found.values()) for key in (*COUNTS, "crashes", "hangs")}
    installed = {d.name.lower(): d.version for d in metadata.distributions()}
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
    return int(any(total[key] for key in ("unexpected", "outside", "crashes", "hangs")))


if __name__ == "__main__":
    sys.exit(main())
