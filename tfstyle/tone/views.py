"""Random fields of view of CT slices, and random changes of their tissues: what training sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfstyle.data.body import body_mask
from tfstyle.errors import ArgumentError

#: Hounsfield units are cut to this range: below it lies padding, above it metal.
HU_RANGE = (-1024.0, 3071.0)
#: Shortest and longest field of view, as multiples of the slice's longest side.
FIELD = (0.35, 1.6)
#: Shortest field of view in mm.
LEAST_FIELD = 40.0
#: Least share of a view that shows tissue.
LEAST_TISSUE = 0.03
#: HU of air and lung lie below.
TISSUE = -300.0
#: HU between which :func:`change_tissues` stretches and shrinks the scale of tissues.
NODES = np.array([-1024, -900, -300, -100, -20, 20, 50, 90, 150, 300, 1000, 3071], np.float32)


def random_view(
    volume: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.Generator,
    size: int,
    bodies: dict[tuple[int, int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """A random slice in a random field of view, turned and mirrored at random: int16 HU and body.

    Volumes of more than 40 planes in all directions are cut in all three. `bodies` keeps the body
    masks of slices, by axis and number, from call to call.
    """
    from scipy import ndimage

    for _ in range(50):
        axis = int(rng.integers(1, 3)) if min(volume.shape) > 40 and rng.random() < 0.3 else 0
        number = int(rng.integers(volume.shape[axis]))
        hu = np.take(volume, number, axis=axis).astype(np.float32).clip(*HU_RANGE)
        step = np.array([s for i, s in enumerate(spacing) if i != axis], np.float64)
        if axis:
            hu = hu[::-1]  # the head above
        if (axis, number) not in bodies:
            bodies[axis, number] = body_mask(hu, step)
        body = bodies[axis, number]
        extent = (np.array(hu.shape) * step).max()
        low, high = np.log(FIELD) if rng.random() < 0.6 else (-0.15, 0.15)
        field = max(extent * np.exp(rng.uniform(low, high)), LEAST_FIELD)
        middle = np.array(hu.shape) / 2
        if body.any() and field < extent:
            inside = np.argwhere(body)
            middle = 0.3 * middle + 0.7 * inside[rng.integers(len(inside))]
        middle = middle + rng.uniform(-0.12, 0.12, 2) * field / step
        angle = np.deg2rad(rng.uniform(-20, 20)) if rng.random() < 0.5 else 0.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            turn = turn @ np.diag([1, -1])
        aspect = np.exp(rng.uniform(-0.12, 0.12))
        pixel = field / size * np.array([aspect, 1 / aspect])
        matrix = np.diag(1 / step) @ turn @ np.diag(pixel)
        offset = middle - matrix @ (np.array([size, size]) / 2)
        reduction = (pixel / step).mean()
        if reduction > 1.3:
            hu = ndimage.gaussian_filter(hu, 0.35 * reduction)
        frame = {"output_shape": (size, size), "mode": "constant"}
        air = HU_RANGE[0] if rng.random() < 0.8 else -1000.0
        view = ndimage.affine_transform(hu, matrix, offset, order=1, cval=air, **frame)
        mask = ndimage.affine_transform(body.view(np.uint8), matrix, offset, order=0, **frame) > 0
        if (mask & (view > TISSUE)).mean() >= LEAST_TISSUE:
            return view.round().astype(np.int16), mask
    raise ArgumentError(
        "scans: a scan shows no body; leave it out, or give Hounsfield units (air -1000, water 0)."
    )


def add_table(hu: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU with a table or cushion below the body, as curved strips; `hu` itself without room."""
    rows = np.flatnonzero(body.any(axis=1))
    height, width = hu.shape
    if not len(rows) or rows[-1] > height - 6:
        return hu
    hu = hu.copy()
    column = np.arange(width)
    bend, middle = rng.uniform(-0.006, 0.003), width / 2 + rng.uniform(-10, 10)
    top = rows[-1] + rng.uniform(-2, 4)
    half = rng.uniform(0.2, 0.6) * width
    for _ in range(int(rng.integers(1, 4))):
        line = top + bend * (column - middle) ** 2 - bend * half**2 * (bend < 0)
        thick = rng.uniform(1, 3)
        strip = np.abs(np.arange(height)[:, None] - line) < thick / 2
        strip &= (np.abs(column - middle) < half) & ~body
        hu[strip] = rng.uniform(-900, 0) if rng.random() < 0.7 else rng.uniform(0, 900)
        top += rng.uniform(2, 12)
    return hu


def made_up_body(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A body that no scanner saw, random shapes with the values of real tissues: HU and body."""
    from scipy import ndimage

    axis = np.linspace(-1, 1, size)
    scale = rng.uniform(0.7, 1.6)
    y, x = np.meshgrid(axis * scale, axis * scale, indexing="ij")

    def blob(cx, cy, rx, ry, rough=0.1):
        angle = np.arctan2((y - cy) / ry, (x - cx) / rx)
        radius = np.hypot((x - cx) / rx, (y - cy) / ry)
        edge = 1.0
        for k in (2, 3, 5):
            edge = edge + rough / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 6.3))
        return radius / edge

    hu = np.full((size, size), -1000.0)
    width, height = rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.85)
    cx, cy = rng.uniform(-0.15, 0.15, 2)
    outline = blob(cx, cy, width, height)
    body = outline < 1
    head = rng.random() < 0.25
    hu[body] = rng.normal(-100, 15)
    hu[outline < rng.uniform(0.8, 0.97)] = rng.normal(55, 12)
    if head:
        hu[outline < 0.93] = rng.uniform(700, 1500)
        hu[outline < rng.uniform(0.8, 0.87)] = rng.normal(35, 5)
    inner = outline < 0.8
    for _ in range(int(rng.integers(2, 9))):
        spread = 0.6 * np.array([width, height])
        px, py = np.array([cx, cy]) + rng.uniform(-1, 1, 2) * spread
        organ = blob(px, py, *rng.uniform(0.05, 0.4, 2)) < 1
        kinds = [5.0, 45.0, 60.0, rng.uniform(100, 350)]
        if not head:
            kinds += [-100.0, rng.uniform(-930, -750), -980.0]
        hu[organ & inner] = kinds[rng.integers(len(kinds))] + rng.normal(0, 6)
    for _ in range(int(rng.integers(0, 6))):
        px, py = np.array([cx, cy]) + rng.uniform(-0.75, 0.75, 2) * (width, height)
        bone = blob(px, py, *rng.uniform(0.03, 0.2, 2))
        hu[(bone < 1) & body] = rng.uniform(400, 1500)
        hu[(bone < rng.uniform(0.5, 0.9)) & body] = rng.uniform(30, 350)
    return ndimage.gaussian_filter(hu, 0.6).astype(np.float32), body


def change_tissues(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same anatomy with other tissue values, contrast agent, noise and sharpness.

    The scale of HU is stretched and shrunk between :data:`NODES`, soft tissue takes up contrast
    agent in places, and noise or blur is added: a network that sees it cannot know tissues by their
    value alone.
    """
    from scipy import ndimage

    hu = hu.astype(np.float32)
    if rng.random() < 0.85:
        steps = np.diff(NODES) * np.exp(rng.normal(0, 0.25, len(NODES) - 1))
        nodes = np.concatenate([[0], np.cumsum(steps)])
        nodes = nodes - nodes[5] + 20 + rng.normal(0, 8)
        # Air, lung and fat stay near what they are.
        nodes[:5] = 20 - (20 - nodes[:5]) * 120 / (20 - nodes[3]) * np.exp(rng.normal(0, 0.08))
        nodes[0] = -1024 if rng.random() < 0.7 else -1000
        nodes[1] = np.clip(nodes[1], -980, -600)
        nodes[2] = np.clip(nodes[2], nodes[1] + 50, -180)
        nodes = np.maximum.accumulate(nodes + 1e-3 * np.arange(len(nodes)))
        hu = np.interp(hu, NODES, nodes).astype(np.float32)
    if rng.random() < 0.75:
        rows, columns = hu.shape
        parts = 4 if rng.random() < 2 / 3 else int(rng.integers(3, 9))
        field = ndimage.zoom(rng.normal(0, 1, (parts, parts)), (rows / parts, columns / parts))
        field = field[:rows, :columns]
        soft = np.clip((hu + 10) / 30, 0, 1) * np.clip((250 - hu) / 80, 0, 1)
        if parts == 4:
            hu = hu + soft * field * rng.uniform(5, 35)
        else:  # organs, or all of it, full of contrast agent
            hu = hu + soft * np.clip(3 * (field - rng.uniform(-2, 1)), 0, 1) * rng.uniform(20, 120)
    if rng.random() < 0.5:
        noise, sigma = rng.normal(0, 1, hu.shape), rng.uniform(0, 1)
        if sigma > 0.3:
            noise = ndimage.gaussian_filter(noise, sigma)
            noise /= noise.std() + 1e-6
        hu = hu + noise * rng.uniform(2, 35)
    if rng.random() < 0.25:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.4, 1.0))
    return hu.astype(np.float32)
