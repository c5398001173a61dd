"""What killed processes, full and read-only disks leave of train, stylize, augment and export.

A server process imports tfstyle once and forks a process for every run, since the import alone
takes longer than most runs. Each command is killed

- by SIGTERM and SIGKILL, in turn, after a time drawn evenly: for one half of the runs over the
  whole run, for the other from its first file on;
- by SIGKILL right before a file operation of Python's in the output folder (opened for writing,
  renamed, made, removed), at numbers spread evenly over all of them;

and runs on disks that are too small or read-only: tmpfs mounts, which takes root on Linux and is
left out elsewhere. After each, every file under its final name is opened, the same command is
given again, and its result compared with that of a run which nobody disturbed.

    python benchmarks/faults.py               # 200 kills, 54 file operations, 32 disks
    python benchmarks/faults.py --runs 2 --points 2 --disks 1 --output /tmp/faults.json

A run that was stopped goes on where it was: what stands in the output is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Only imported here, never used in the server itself: TensorFlow does not survive a fork once it
# has run anything.
import numpy as np

import tfstyle.cli
import tfstyle.data
import tfstyle.export.saved_model
import tfstyle.runs.augment
import tfstyle.runs.stylize
import tfstyle.runs.training
import tfstyle.segmentation
from tfstyle.files import LOCK, write_atomically
from tfstyle.runs.folder import read_rows
from tfstyle.runs.training import environment

COMMANDS = ("train", "stylize", "augment", "export")
SIGNALS = (signal.SIGTERM, signal.SIGKILL)
LIMIT = 300.0  # seconds for one run, after which it counts as hung
SEED = 1
STEPS, EPOCHS = 4, 5  # of train
RECORDS = ".tfstyle"


# -- one run in a process of its own -------------------------------------------------------


def start(argv: list, folder: Path, root: Path | None = None, point: int | None = None) -> int:
    """Forks a process that runs a command; its output goes to files in `folder`.

    With `root` the file operations below it are counted, into a file; the process kills itself
    before number `point`.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        counted = _count(str(root), point) if root is not None else [0]
        status = tfstyle.cli.main([str(word) for word in argv])
        sys.stdout.flush()
        (folder / "operations").write_text(str(counted[0]))
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
        status = 99
    os._exit(status)


def _count(root: str, point: int | None) -> list[int]:
    """Counts file operations below `root` from now on; kills the process before number `point`."""
    counted = [0]
    changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, details: tuple) -> None:
        if event == "open":
            if not isinstance(details[2], int) or not details[2] & changes:
                return
        elif event not in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link"):
            return
        try:
            path = os.fsdecode(details[0])
        except TypeError:  # a handle
            return
        if path.startswith(root):
            if counted[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)
            counted[0] += 1

    sys.addaudithook(hook)
    return counted


def end(process: int) -> int:
    """The exit status, negative for a signal; returns when the process's children are gone too."""
    polls = 0  # and no clock: the machine's owner may stop both processes for a while
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            break
        polls += 1
        if polls * 0.002 > LIMIT:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise RuntimeError(f"hung: process {process}")
        time.sleep(0.002)
    for _ in range(500):  # workers end within half a second of their parent
        try:
            os.killpg(process, 0)
        except (ProcessLookupError, PermissionError):
            break
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(status)


def run(argv: list, folder: Path) -> tuple[int, str, str, float]:
    """Exit status, output, messages and seconds of a command."""
    begin = time.monotonic()
    status = end(start(argv, folder))
    seconds = time.monotonic() - begin
    return status, (folder / "stdout").read_text(), (folder / "stderr").read_text(), seconds


def apart(function, *arguments):
    """What a function gives, called in a process of its own."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        os.close(read)
        try:
            answer = {"result": function(*arguments)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(process, 0)
    answer = json.loads(text or '{"error": "the process that looks at files died"}')
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


# -- the commands and what goes into them --------------------------------------------------


def prepare(work: Path) -> None:
    """Inputs: a DICOM series, volumes and pictures; a model of each kind."""
    import pydicom
    from pydicom.data import get_testdata_file
    from pydicom.uid import generate_uid

    from tfstyle.data import WINDOWS, scan_to_unit, spine_phantom, write_nifti, write_png

    series = work / "in" / "series"
    series.mkdir(parents=True)
    uid = generate_uid(entropy_srcs=["faults"])[:60]
    for i in range(12):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{i}"
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, 2.0 * i]
        dataset.save_as(series / f"{i:02d}.dcm")
    for i in range(3):
        scan = spine_phantom(seed=i, size=96).scan
        window = WINDOWS["soft_tissue"]
        unit = scan_to_unit(scan, "soft_tissue")
        (work / "in" / "volumes").mkdir(exist_ok=True)
        (work / "masks" / "volumes").mkdir(parents=True, exist_ok=True)
        write_nifti(unit, scan, window, work / "in" / "volumes" / f"v{i}.nii.gz")
        write_nifti(unit, scan, window, work / "masks" / "volumes" / f"v{i}.nii.gz")
        write_png(unit[0], work / "in" / f"p{i}.png")
        write_png(1 - unit[0] ** 2, work / "masks" / f"p{i}.png")
        (work / "styles").mkdir(exist_ok=True)
        write_png(unit[0] ** (2 + i), work / "styles" / f"s{i}.png")
    from tfstyle.segmentation import UNet

    unet = UNet(classes=2, depth=2, width=8)
    unet(np.zeros((1, 32, 32, 1), np.float32))
    unet.save(work / "unet.keras")


def command(name: str, number: int, work: Path, output: Path) -> list:
    """The command line of run `number`."""
    model = ["--model", work / "model" / "preset"]
    if name == "train":
        words = ["--phantoms", 3, "--weights", "none", "--layer", "relu1_1", "--crop", 32]
        words += ["--content-loss", "mse", "--content-layers", "relu1_1", "--style-layers", "image"]
        words += ["--batch-size", 2, "--steps", STEPS, "--epochs", EPOCHS]
        words += ["--seed", 3, "--json"]
    elif name == "stylize":
        words = [work / "in", "--style", work / "styles" / "s0.png", *model, "--batch-size", 2]
        words += ["--workers", int(number % 10 == 9)]  # each tenth with a worker process
    elif name == "augment":
        words = [work / "in", output, "--styles", work / "styles", "--per-image", 2, *model]
        words += ["--masks", work / "masks"]
        return [name, *words, "--quiet"]
    else:
        words = ["--version", 1, "--warm-up-size", 32]
        # Each tenth is the style transfer model with its 11 signatures, which takes long.
        words += model if number % 10 == 9 else ["--unet", work / "unet.keras"]
    return [name, *words, "-o", output, "--quiet"]


def kind(name: str, number: int) -> str:
    """Runs of one kind take the same time and have the same result."""
    return f"{name} 2" if name in ("stylize", "export") and number % 10 == 9 else name


# -- what is looked at ---------------------------------------------------------------------


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a path or a folder above it, below `root`, has a hidden name."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def final_files(root: Path) -> list[Path]:
    """Files that have their final names."""
    return [p for p in sorted(root.rglob("*")) if p.is_file() and not is_hidden(p, root)]


def broken(root: str) -> list[str]:
    """Files under their final names that cannot be read to the end."""
    root, found = Path(root), []
    records = root / RECORDS
    for path in final_files(root) + sorted(records.glob("*.json")):
        try:
            _open(path)
        except Exception as error:
            found.append(f"{path.relative_to(root)}: {type(error).__name__}: {error}")
    return found


def _open(path: Path) -> None:
    name = path.name
    if name.endswith((".png", ".nii.gz", ".dcm")):
        tfstyle.data.read_scans(path)
    elif name.endswith(".json"):
        json.loads(path.read_text())
    elif name.endswith(".jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)
    elif name.endswith(".npz"):
        with np.load(path) as arrays:
            for key in arrays:
                arrays[key]
    elif name == "saved_model.pb":
        _outputs(path.parent)
    elif name == "tf_serving_warmup_requests":
        import tensorflow as tf

        if not list(tf.data.TFRecordDataset(str(path))):
            raise ValueError("no records")
    elif name not in ("fingerprint.pb", "variables.index", "variables.data-00000-of-00001"):
        raise ValueError("what is this?")


def _outputs(folder: Path) -> dict[str, np.ndarray]:
    """What every signature of an export gives for the same inputs."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    loaded, found = tf.saved_model.load(str(folder)), {}
    for name, signature in sorted(loaded.signatures.items()):
        inputs = {}
        for key, spec in sorted(signature.structured_input_signature[1].items()):
            sizes = [] if spec.shape.rank is None else spec.shape.as_list()
            shape = [size or {0: 1, 3: 1}.get(i, 24) for i, size in enumerate(sizes)]
            inputs[key] = tf.constant(random.random(shape, np.float32), spec.dtype)
        for key, value in signature(**inputs).items():
            found[f"{name}/{key}"] = value.numpy()
    return found


def finished(name: str, root: str) -> dict:
    """What was finished before the kill: files by inode and time, and the epochs of a training."""
    root, files, epochs = Path(root), {}, 0
    if name == "train":
        backup = root / "backup" / "state.npz"
        if backup.exists():
            with np.load(backup) as arrays:  # the optimizer's counter of steps is a whole number
                epochs = max(int(a) for a in arrays.values() if a.dtype.kind == "i" and not a.shape)
            epochs //= STEPS
        elif (root / "preset").exists():
            epochs = EPOCHS
        paths = [root / "grids" / f"epoch_{i + 1:04d}.png" for i in range(epochs)]
        paths += [root / "preset" / "preset.json"] * (root / "preset").exists()
    elif name == "stylize":
        paths = final_files(root)
        for journal in root.glob(f"{RECORDS}/*/slices.jsonl"):
            made = [journal.parent / "slices" / row.get("file", "") for row in read_rows(journal)]
            paths.extend(path for path in made if path.is_file())
    elif name == "augment":
        manifest = root / "manifest.jsonl"
        rows = manifest.read_text().splitlines() if manifest.exists() else []
        rows = [json.loads(row) for row in rows]
        images = [root / row[key] for row in rows for key in ("image", "mask") if row.get(key)]
        paths = [file for path in images for file in ([path] if path.is_file() else path.glob("*"))]
    else:
        paths = final_files(root)
    for path in paths:
        # As it will be called when its folder has its name.
        place = str(path.relative_to(root))
        if place.startswith(RECORDS):
            place = place.removeprefix(f"{RECORDS}/").replace("/slices/", "/")
        status = path.stat()
        files[place] = [status.st_ino, status.st_mtime_ns]
    return {"files": files, "epochs": epochs}


def redone(before: dict, name: str, root: str, output: str) -> list[str]:
    """Finished work that the second run did again."""
    root, found = Path(root), []
    for place, facts in before["files"].items():
        path = root / place
        if not path.exists():
            found.append(f"{place}: is gone")
            continue
        status = path.stat()
        if [status.st_ino, status.st_mtime_ns] != facts:
            found.append(place)
    if name == "train":
        resumed = json.loads(output)["resumed_from"]
        if resumed < before["epochs"]:
            found.append(f"epochs {resumed + 1} to {before['epochs']}")
    return found


def differing(name: str, root: str, reference: str) -> list[str]:
    """Files of two results that are not equal; UIDs and times of DICOM and exports apart."""
    root, reference, found = Path(root), Path(reference), []
    here, there = ({str(p.relative_to(r)) for p in final_files(r)} for r in (root, reference))
    found.extend(sorted(here ^ there))
    for place in sorted(here & there):
        one, other = root / place, reference / place
        if name == "export":
            if one.name == "saved_model.pb":
                a, b = _outputs(one.parent), _outputs(other.parent)
                if a.keys() != b.keys() or any(not np.array_equal(a[k], b[k]) for k in a):
                    found.append(place)
        elif place.endswith(".dcm"):
            (a,), (b,) = tfstyle.data.read_scans(one), tfstyle.data.read_scans(other)
            if not np.array_equal(a.pixels, b.pixels):
                found.append(place)
        elif place.endswith(".npz"):
            with np.load(one) as a, np.load(other) as b:
                if set(a) != set(b) or any(not np.array_equal(a[k], b[k]) for k in a):
                    found.append(place)
        elif place.endswith("preset.json"):
            a, b = (json.loads(path.read_text()) for path in (one, other))
            a.pop("sha256"), b.pop("sha256")  # of a zip file, which holds times
            if a != b:
                found.append(place)
        elif one.read_bytes() != other.read_bytes():
            found.append(place)
    return found


def left_over(root: Path) -> list[str]:
    """Temporary names; the records of stylize are none."""
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.name.startswith(".") and path.name not in (RECORDS, LOCK)
    ]


def rerun(name: str, number: int, work: Path, output: Path, before: dict, scratch: Path) -> dict:
    """Gives the command again and looks at what came of it."""
    status, text, messages, _ = run(command(name, number, work, output), scratch)
    row = {"rerun": status}
    if name == "export" and status == 1 and "exists already" in messages and before["files"]:
        row["rerun"] = "finished before"
    elif status != 0:
        return {**row, "messages": messages[-500:]}
    reference = work / "undisturbed" / kind(name, number)
    row["redone"] = redone(before, name, output, text)
    row["differing"] = apart(differing, name, str(output), str(reference))
    row["left_over"] = left_over(output)
    return row


# -- kills ---------------------------------------------------------------------------------


def undisturbed(name: str, number: int, work: Path, scratch: Path) -> dict:
    """Makes the result that others are compared with; tells how long it takes."""
    output = work / "undisturbed" / kind(name, number)
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(exist_ok=True)
    begin = time.monotonic()
    process = start(command(name, number, work, output), scratch, output)
    first = None
    while first is None:
        if output.exists() and any(output.rglob("*")):
            first = time.monotonic() - begin
        time.sleep(0.002)
    status = end(process)
    seconds = time.monotonic() - begin
    if status or left_over(output) or apart(broken, str(output)):
        raise RuntimeError(f"{name}: {status} {(scratch / 'stderr').read_text()}")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return {
        "seconds": round(seconds, 2),
        "first_file": round(first, 2),
        "bytes": size,
        "operations": int((scratch / "operations").read_text()),
    }


def kill(name: str, number: int, work: Path, facts: dict, output: Path, scratch: Path) -> dict:
    """One run that is killed, and the same command again."""
    sent = SIGNALS[number % 2]
    random = np.random.default_rng([SEED, COMMANDS.index(name), number])
    low = facts["first_file"] if number // 2 % 2 else 0.0
    delay = low + random.random() * (facts["seconds"] - low)
    begin = time.monotonic()
    process = start(command(name, number, work, output), scratch)
    while time.monotonic() < begin + delay:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            break
        time.sleep(0.001)
    os.kill(process, sent)  # a zombie takes it without complaint
    sent_at = time.monotonic()
    status = end(process)
    messages = (scratch / "stderr").read_text()
    before = {"files": {}, "epochs": 0}
    if output.exists():
        before = apart(finished, name, str(output))
    row = {
        "command": name,
        "number": number,
        "signal": sent.name,
        "after_seconds": round(delay, 3),
        "status": status,
        "ended_in_seconds": round(time.monotonic() - sent_at, 2),
        "finished_before": before["epochs"] if name == "train" else len(before["files"]),
        "broken": apart(broken, str(output)) if output.exists() else [],
        "left_over_before": len(left_over(output)) if output.exists() else 0,
    }
    if status not in (0, 143, -sent):
        row["messages"] = messages[-500:]
    return {**row, **rerun(name, number, work, output, before, scratch)}


def kill_at(name: str, number: int, work: Path, point: int, output: Path, scratch: Path) -> dict:
    """One run that is killed before a file operation, and the same command again."""
    status = end(start(command(name, 0, work, output), scratch, output, point))
    before = {"files": {}, "epochs": 0}
    if output.exists():
        before = apart(finished, name, str(output))
    row = {
        "command": name,
        "number": number,
        "operation": point,
        "status": status,
        "finished_before": before["epochs"] if name == "train" else len(before["files"]),
        "broken": apart(broken, str(output)) if output.exists() else [],
        "left_over_before": len(left_over(output)) if output.exists() else 0,
    }
    return {**row, **rerun(name, 0, work, output, before, scratch)}


# -- disks ---------------------------------------------------------------------------------


def mount(place: Path, *options: str) -> None:
    """Mounts a tmpfs, or changes it."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], check=True
    )


def unmount(place: Path) -> None:
    """Takes a mount away."""
    subprocess.run(["umount", str(place)], check=False, stderr=subprocess.DEVNULL)


def can_mount(place: Path) -> bool:
    """Whether disks can be made here."""
    try:
        mount(place, "size=64k")
    except (OSError, subprocess.CalledProcessError):
        return False
    unmount(place)
    return True


def judged(row: dict, messages: str, words: str, output: Path) -> dict:
    """Adds whether the error is one line that names the place and says what is wrong."""
    lines = messages.strip().splitlines()
    clear = len(lines) == 1 and words in lines[0] and str(output.parent) in lines[0]
    row["clear"] = row["status"] == 3 and clear
    row["message"] = messages.replace(str(output.parent), "DISK").strip()[-300:]
    return row


def full_disk(name: str, number: int, work: Path, facts: dict, disk: Path, scratch: Path) -> dict:
    """A run on a disk too small for it, and again when there is room."""
    random = np.random.default_rng([SEED, 9, COMMANDS.index(name), number])
    size = int(facts["bytes"] * random.uniform(0.02, 0.9)) // 4096 * 4096 + 4096
    output = disk / "out"
    mount(disk, f"size={size}")
    try:
        status, _, messages, _ = run(command(name, number, work, output), scratch)
        row = {"command": name, "number": number, "disk": "full", "bytes": size, "status": status}
        row["broken"] = apart(broken, str(output)) if output.exists() else []
        row["left_over_before"] = len(left_over(output)) if output.exists() else 0
        before = {"files": {}, "epochs": 0}
        if output.exists():
            before = apart(finished, name, str(output))
        row["finished_before"] = before["epochs"] if name == "train" else len(before["files"])
        judged(row, messages, "the disk is full", output)
        mount(disk, "remount", "size=256m")
        return {**row, **rerun(name, number, work, output, before, scratch)}
    finally:
        unmount(disk)


def read_only_disk(name: str, number: int, work: Path, facts: dict, disk: Path, scratch) -> dict:
    """A run on a read-only disk, empty (0) or with half a run on it (1), and once more after."""
    output = disk / "out"
    mount(disk, "size=256m")
    try:
        if number:
            process = start(command(name, 0, work, output), scratch)
            time.sleep((facts["first_file"] + facts["seconds"]) / 2)
            os.kill(process, signal.SIGKILL)
            end(process)
        mount(disk, "remount", "ro")
        status, _, messages, _ = run(command(name, 0, work, output), scratch)
        row = {"command": name, "number": number, "disk": "read-only", "status": status}
        row["broken"] = apart(broken, str(output)) if output.exists() else []
        before = {"files": {}, "epochs": 0}
        if output.exists():
            before = apart(finished, name, str(output))
        row["finished_before"] = before["epochs"] if name == "train" else len(before["files"])
        judged(row, messages, "read-only", output)
        mount(disk, "remount", "rw", "size=256m")
        return {**row, **rerun(name, 0, work, output, before, scratch)}
    finally:
        unmount(disk)


# -- the whole -----------------------------------------------------------------------------


def summary(rows: list[dict]) -> dict:
    """Counts for each command, of kills and of disks."""
    found: dict = {}
    for name in COMMANDS:
        for part, chosen in (
            ("kills", [r for r in rows if r["command"] == name and "signal" in r]),
            ("file operations", [r for r in rows if r["command"] == name and "operation" in r]),
            ("full disks", [r for r in rows if r["command"] == name and r.get("disk") == "full"]),
            (
                "read-only disks",
                [r for r in rows if r["command"] == name and r.get("disk") == "read-only"],
            ),
        ):
            if not chosen:
                continue
            one = {
                "runs": len(chosen),
                "status": dict(Counter(str(row["status"]) for row in chosen)),
                "with finished work before": sum(row["finished_before"] > 0 for row in chosen),
                "broken files": sum(len(row["broken"]) for row in chosen),
                "reruns that failed": sum(
                    row["rerun"] not in (0, "finished before") for row in chosen
                ),
                "reruns with work done twice": sum(bool(row.get("redone")) for row in chosen),
                "reruns that differ": sum(bool(row.get("differing")) for row in chosen),
                "reruns with temporary files": sum(bool(row.get("left_over")) for row in chosen),
            }
            if part == "kills":
                one["signals"] = dict(Counter(row["signal"] for row in chosen))
                one["temporary files after SIGTERM"] = sum(
                    row["left_over_before"] > 0 and row["signal"] == "SIGTERM" for row in chosen
                )
            elif part != "file operations":
                one["without a clear error"] = sum(
                    not row["clear"] and row["status"] != 0 for row in chosen
                )
            found.setdefault(part, {})[name] = one
    return found


def which(row: dict) -> str:
    """What was done to a run."""
    return "kill" if "signal" in row else "operation" if "operation" in row else row["disk"]


def main() -> None:
    """Runs everything that is missing in the output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50, help="kills of each command (default: 50)")
    parser.add_argument(
        "--disks", type=int, default=6, help="full disks for each command (default: 6)"
    )
    parser.add_argument(
        "--points", type=int, default=16, help="file operations of each command (default: 16)"
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    rows, facts = [], {}
    if arguments.output.exists():
        before = json.loads(arguments.output.read_text())
        rows = before["rows"]
    known = {(r["command"], which(r), r["number"]) for r in rows}
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    scratch, disk = work / "scratch", work / "disk"
    scratch.mkdir()
    disk.mkdir()
    disks = arguments.disks > 0 and can_mount(disk)

    def note(row: dict) -> None:
        rows.append(row)
        result = {
            "about": "Runs of the commands that were killed (SIGTERM and SIGKILL in turn at random "
            "moments, SIGKILL before file operations) or had a full or read-only disk (tmpfs), and "
            "the same command again.",
            "command": "python benchmarks/faults.py",
            "environment": environment(),
            "seed": SEED,
            "undisturbed": facts,
            "disks": "tmpfs mounts" if disks else "left out",
            "summary": summary(rows),
            "rows": rows,
        }
        write_atomically(arguments.output, (json.dumps(result, indent=1) + "\n").encode())
        bad = [k for k in ("broken", "redone", "differing", "left_over") if row.get(k)]
        print(row["command"], which(row), row["number"], row["status"], row["rerun"], *bad)
        sys.stdout.flush()

    try:
        apart(prepare, work)
        status, _, messages, _ = run(command("train", 0, work, work / "model"), scratch)
        if status:
            raise RuntimeError(messages)
        for name in arguments.commands:
            for number in (0, 9) if arguments.runs > 9 else (0,):
                facts[kind(name, number)] = undisturbed(name, number, work, scratch)
        for number in range(arguments.runs):
            for name in arguments.commands:
                if (name, "kill", number) not in known:
                    output = work / f"{name}-{number}"
                    note(kill(name, number, work, facts[kind(name, number)], output, scratch))
                    shutil.rmtree(output, ignore_errors=True)
        for name in arguments.commands if disks else ():
            for number in range(arguments.disks):
                if (name, "full", number) not in known:
                    note(full_disk(name, number, work, facts[name], disk, scratch))
            for number in range(min(2, arguments.disks)):
                if (name, "read-only", number) not in known:
                    note(read_only_disk(name, number, work, facts[name], disk, scratch))
        for name in arguments.commands:
            count = facts[name]["operations"]
            points = min(arguments.points, count)
            for number in range(points):
                if (name, "operation", number) not in known:
                    output = work / f"{name}-at-{number}"
                    point = int((number + 0.5) / points * count)
                    note(kill_at(name, number, work, point, output, scratch))
                    shutil.rmtree(output, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
