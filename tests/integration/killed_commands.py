"""Kills commands right before file operations and gives them again; prints what came of it.

A process of its own: it imports tfstyle once and forks for every run, and TensorFlow does not
survive a fork once it has run anything.

    python killed_commands.py COMMAND POINTS
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

import tfstyle.cli
import tfstyle.data
import tfstyle.segmentation
from tests.models import small_model
from tfstyle._private.files import is_temporary

COMMANDS = {
    "train": "train --phantoms 2 --weights none --layer relu1_1 --content-loss mse --style-layers "
    "image --content-layers relu1_1 --crop 32 --batch-size 1 --steps 1 --epochs 3 -o {output}",
    "stylize": "stylize {work}/in --style {work}/in/p0.png --model {work}/model -o {output}",
    "augment": "augment {work}/in {output} --styles {work}/styles --model {work}/model",
    "export": "export --unet {work}/unet.keras --version 1 --warm-up-size 16 -o {output}",
}


def forked(function: Callable[[], int | None]) -> int:
    """The status of a function in a process of its own."""
    process = os.fork()
    if not process:
        status = 99
        try:
            status = function() or 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(name: str, work: Path, output: Path, point: int = -1) -> tuple[int, int]:
    """Status of a command that kills itself before a file operation, and how many there were."""
    counted = work / "counted"

    def start() -> int:
        count = 0

        def hook(event: str, details: tuple) -> None:
            nonlocal count
            if event == "open":
                writes = isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
            else:
                writes = event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link")
            if writes and str(details[0]).startswith(str(output)):
                if count == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(hook)
        words = COMMANDS[name].format(work=work, output=output).split()
        status = tfstyle.cli.main([*words, "--quiet"])
        counted.write_text(str(count))
        return status

    status = forked(start)
    return status, int(counted.read_text()) if status == 0 else 0


def prepare(work: Path) -> None:
    """A volume, pictures and styles; a preset and a U-Net."""
    small_model("relu1_1").save_to_preset(work / "model")
    for name in ("in", "styles"):
        (work / name).mkdir()
    scan = tfstyle.data.spine_phantom(0, size=64).scan
    unit = tfstyle.data.scan_to_unit(scan, "soft_tissue")
    window = tfstyle.data.WINDOWS["soft_tissue"]
    tfstyle.data.write_nifti(unit, scan, window, work / "in" / "v.nii.gz")
    for number in range(3):
        tfstyle.data.write_png(unit[0] ** (1 + number), work / "in" / f"p{number}.png")
        tfstyle.data.write_png(unit[0] ** (2 + number), work / "styles" / f"s{number}.png")
    unet = tfstyle.segmentation.UNet(classes=2, depth=2, width=4)
    unet(np.zeros((1, 16, 16, 1), np.float32))
    unet.save(work / "unet.keras")


def contents(root: Path) -> dict[str, object]:
    """What must be the same in two results: files under their final names, all of them readable.

    Read without TensorFlow, which would not survive the next fork.
    """
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        place = str(path.relative_to(root))
        if not path.is_file() or any(part.startswith(".") for part in Path(place).parts):
            continue
        if path.suffix == ".png":
            found[place] = np.asarray(Image.open(path))
        elif path.suffix == ".gz":
            found[place] = np.asarray(nib.load(path).dataobj)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found.update({f"{place}/{key}": arrays[key] for key in arrays})
        else:  # holds times, or is a program
            found[place] = np.zeros(0)
            if path.suffix == ".json":
                json.loads(path.read_text())
    return found


def main() -> None:
    """Prints a row of JSON for each kill."""
    name, points = sys.argv[1], int(sys.argv[2])
    work = Path(tempfile.mkdtemp(prefix="killed-"))
    try:
        if forked(lambda: prepare(work)):
            raise SystemExit("the inputs could not be made")
        status, count = run(name, work, work / "undisturbed")
        if status:
            raise SystemExit(f"the command ends with {status}")
        expected = contents(work / "undisturbed")
        for number in range(points):
            output = work / f"out-{number}"
            killed, _ = run(name, work, output, int((number + 0.5) / points * count))
            kept = {p: p.stat().st_mtime_ns for p in output.glob("*.png")}
            begun = contents(output)
            again, _ = run(name, work, output)
            found = contents(output)
            same = found.keys() == expected.keys()
            same = same and all(np.array_equal(found[key], expected[key]) for key in found)
            redone = [
                str(p) for p, t in kept.items() if not p.exists() or p.stat().st_mtime_ns != t
            ]
            rest = [p.name for p in output.rglob(".*") if is_temporary(p.name)]
            row = {"killed": killed, "again": again, "same": same, "redone": redone, "rest": rest}
            print(json.dumps({**row, "begun": len(begun)}), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
