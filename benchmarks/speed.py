#!/usr/bin/env python
"""Milliseconds of stylizing and of ``StyleAugmentation``; slices a second of a long series.

    pip install '.[benchmarks,baselines]'
    python benchmarks/speed.py --data DATA     # speed.json, tables in README.md

What is compared takes turns, call by call, in one process; figures are medians of the clock, and of
CPU time, which is what to read where other work shares the machine. Content and style are two CT
slices of pydicom-data, an abdomen in the soft tissue window and a head in the bone window, every
second pixel at 256x256, pixels doubled at 1024x1024. A style is ``new``, an image of the content's
size, or ``stored``, a code; histogram matching always sees the image. ``StyleAugmentation`` runs in
a ``tf.function``, as in a ``tf.data`` pipeline, on noise, smoothed.

With ``--data`` the 20 slices of ``DATA/torso_dicom``, 512x512 in JPEG 2000, are repeated along the
axis, pixels as they are, and stylized to derived DICOM by one curve, in a process of its own. A
series of another length tells whether memory grows with it.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from ct_scans import load_scans

from studies import common
from tfstyle.data import WINDOWS
from tfstyle.runs import environment

#: Variants of the layer.
AUGMENTATIONS = {
    "bank of 8 styles, p = 1": {},
    "without the gate": {"gate": None},
    "p = 0.5": {"p": 0.5},
    '`styles="batch"`': {"styles": "batch"},
}
CONTRAST = "`keras.layers.RandomContrast`"


def images(size: int, count: int, seed: int) -> np.ndarray:
    """Smooth random images (count, size, size, 1) in [0, 1]."""
    grain = np.random.default_rng(seed).random((count, size, size, 1))
    for axis in (1, 2):
        grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
    return grain.astype(np.float32)


def slices(size: int) -> list[np.ndarray]:
    """The two CT slices (size, size) in [0, 1]."""
    scans, step = load_scans(None), max(512 // size, 1)
    doubled = np.ones((max(size // 512, 1),) * 2, np.float32)
    return [
        np.kron(WINDOWS[window].to_unit(scans[name].hu[0])[::step, ::step], doubled)
        for name, window in (("pancreas", "soft_tissue"), ("head", "bone"))
    ]


def stylizing(size: int, rounds: int) -> dict[str, dict]:
    """Figures of stylizing one image: the tone transfer beside histogram matching, the others."""
    import tfstyle

    content, style = slices(size)
    matching = tfstyle.baselines.get("histogram_matching")
    calls = {"histogram matching": lambda: matching.stylize(content, style)}
    figures = {}
    presets = {"tone transfer": None, "the paper's network, `vgg16_ct`": "vgg16_ct"}
    for name, preset in presets.items():
        model = tfstyle.from_preset(preset)
        code = model.encode_style(style)
        calls[f"{name}, new style"] = lambda m=model: m.stylize(content, style)
        calls[f"{name}, stored style"] = lambda m=model, c=code: m.stylize(content, c)
        figures |= measured(calls, 1, rounds)
        calls = {}
    return figures


def augmenting(size: int, batch: int) -> dict[str, Callable[[], object]]:
    """Calls that augment one batch."""
    import keras
    import tensorflow as tf

    import tfstyle

    model, x = tfstyle.from_preset(), tf.constant(images(size, batch, 0))
    bank = tfstyle.StyleBank.encode(model, list(images(256, 8, 1)))
    layers = {
        name: tfstyle.StyleAugmentation(model, **{"styles": bank, "p": 1.0, "seed": 0, **options})
        for name, options in AUGMENTATIONS.items()
    }
    layers[CONTRAST] = keras.layers.RandomContrast(0.5, value_range=(0, 1), seed=0)
    traced = {name: tf.function(layer) for name, layer in layers.items()}
    return {name: lambda f=f: f(x, training=True).numpy() for name, f in traced.items()}


def measured(calls: dict[str, Callable[[], object]], count: int, rounds: int) -> dict[str, dict]:
    """Median milliseconds for each of `count` images, by the clock and of the CPU."""
    seconds: dict[str, list] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn >= 2:  # the first ones trace and warm up
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: np.median(values, axis=0) * 1000 / count for name, values in seconds.items()}
    return {
        name: {"ms": round(float(wall), 2), "cpu_ms": round(float(cpu), 2)}
        for name, (wall, cpu) in medians.items()
    }


def make_series(source: Path, folder: Path, count: int) -> None:
    """Writes `count` slices made of those in `source`, at new positions, still compressed."""
    import pydicom
    from pydicom.uid import generate_uid

    slices = [pydicom.dcmread(path) for path in sorted(source.glob("*.dcm"))]
    slices.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    there_and_back, uid, study = slices + slices[::-1], generate_uid(), generate_uid()
    folder.mkdir()
    for number in range(count):
        dataset = there_and_back[number % len(there_and_back)]
        dataset.ImagePositionPatient = [*slices[0].ImagePositionPatient[:2], 3.0 * number]
        dataset.SliceLocation, dataset.InstanceNumber = 3.0 * number, number + 1
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid, study
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number:05d}.dcm")


def series(data: Path, count: int) -> dict:
    """Stylizes a series of `count` slices: seconds, share outside the network, memory."""
    import tfstyle

    source, model = data / "torso_dicom", tfstyle.from_preset()
    style = sorted(source.glob("*.dcm"))[5]
    with tempfile.TemporaryDirectory() as folder:
        made, out = Path(folder, "series"), Path(folder, "out")
        make_series(source, made, count)
        begin = time.perf_counter()
        (done,) = tfstyle.runs.stylize_scans(
            model, [made], [style], out, window="soft_tissue", style_window="lung"
        )
        seconds = time.perf_counter() - begin
    return {
        "slices": count,
        "seconds": round(seconds, 1),
        "slices_per_second": round(count / seconds, 2),
        "share_outside_network": round(1 - done.seconds / seconds, 3),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def filled(page: str, result: dict) -> str:
    """The text of ``README.md`` with the tables of a result."""
    return common.filled(page, "speed", common.render("speed.md", **result))


def main() -> None:
    """Measures; writes ``speed.json`` and the tables."""
    parser = common.parser(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("--data", type=Path, help="folder of the real CT, for the series")
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300], help="of the series")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8, help="of the augmentation")
    options = common.parse(parser, None)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # of the processes that follow
    rows = []
    for count in options.slices if options.data else ():
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows.append(alone.submit(series, options.data, count).result())
    result = {
        "stylize": {str(size): stylizing(size, options.rounds) for size in (256, 512, 1024)},
        "augmentation": {
            str(size): measured(augmenting(size, options.batch), options.batch, options.rounds)
            for size in (128, 256)
        },
        "series": rows,
        **{key: getattr(options, key) for key in ("rounds", "batch", "threads")},
        "load_average": round(os.getloadavg()[0], 1),
        "environment": environment(),
    }
    own = Path(__file__).resolve()
    common.write_study(own.with_suffix(".json"), result)
    page = own.with_name("README.md")
    page.write_text(filled(page.read_text(encoding="utf-8"), result), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
