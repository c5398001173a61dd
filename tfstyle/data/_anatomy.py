"""The anatomy of a phantom: a body on a table, painted from the outside in."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from tfstyle.data._canvas import LABELS, Canvas, capsule, ellipse, superellipse, union

LEVEL = 36.0  # mm from one vertebra to the next
BONE = 27.0  # mm of it that are bone; a disc lies above


class _Wave:
    """A smooth random field of x, y and z, a sum of a few plane waves."""

    def __init__(self, rng: np.random.Generator, amplitude: float, low: float, high: float):
        count = 5
        angle = rng.uniform(0, 2 * np.pi, count)
        k = 2 * np.pi / rng.uniform(low, high, count)
        self.kx, self.ky = k * np.cos(angle), k * np.sin(angle)
        self.kz = rng.uniform(-1, 1, count) * 2 * np.pi / 120
        self.phase = rng.uniform(0, 2 * np.pi, count)
        self.amplitude = amplitude * np.sqrt(2 / count)

    def at(self, canvas: Canvas, z: float) -> np.ndarray:
        # Outer products, since x varies along rows only and y along columns only.
        along_x = np.exp(1j * np.outer(self.kx, canvas.columns))
        phase = (self.kz * z + self.phase)[:, None]
        along_y = np.exp(1j * (np.outer(self.ky, canvas.rows) + phase))
        return self.amplitude * (along_y.T @ along_x).real


def _bump(z: float, center: float, half: float) -> float:
    """Radius of an ellipsoid at height z, from 1 at its center to 0; repeats every level."""
    away = (z - center + LEVEL / 2) % LEVEL - LEVEL / 2
    return float(np.sqrt(max(0.0, 1 - (away / half) ** 2)))


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """From 0 to 1 over some mm around distance 0."""
    return 1 / (1 + np.exp(-distance / width))


class Body:
    """The anatomy of one phantom: every size and place, drawn once from the seed."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform  # in this order: what a seed draws must not change
        self.s = s = u(0.93, 1.07)
        self.width, self.height, self.fat = u(142, 176), u(98, 122), u(0.35, 1.0)
        self.skin_fat = 7 + 20 * self.fat  # mm, at the sides
        self.back_fat, self.front_fat = 8 + 13 * self.fat, 7 + 22 * self.fat
        self.warp_x, self.warp_y = _Wave(rng, 2.0, 60, 130), _Wave(rng, 2.0, 60, 130)
        self.outline = _Wave(rng, 1.5, 140, 320)
        self.contrast = bool(u() < 0.6)
        self.spine_x = u(-4, 4)
        self.spine_y = self.height - self.back_fat - u(62, 68) * s
        self.turn = np.radians(u(-4, 4))
        self.body_a, self.body_b = u(23.5, 27.5) * s, u(17, 20) * s
        self.cortex, self.cortex_hu = u(0.9, 1.5), u(520, 860)
        self.trabecular, self.trabecular_texture = u(110, 230), u(25, 55)
        self.canal_a, self.canal_b = u(11, 13) * s, u(7.5, 9.5) * s
        self.spinous = u(27, 34) * s
        self.transverse, self.transverse_angle = u(22, 33) * s, u(-0.25, 0.4)
        self.lamina_slope, self.facet = u(0.85, 1.1), u(6.5, 8.2) * s
        self.psoas = u(15, 22) * s
        self.muscle_hu, self.fat_hu, self.streaks = u(48, 64), u(-112, -98), u(0.5, 1.5)
        self.aorta, self.aorta_x = u(8, 11.5) * s, u(4, 14)
        self.calcified, self.plaque = bool(u() < 0.5), u(0, 2 * np.pi)
        self.vessel_hu = u(150, 300) if self.contrast else u(38, 48)
        self.vein_hu = u(110, 190) if self.contrast else u(36, 46)
        self.kidneys = [
            {
                "x": side * u(64, 78),
                "y": self.spine_y - u(-6, 10),
                "a": u(22, 28) * s,
                "b": u(26, 33) * s,
                "angle": side * u(0.2, 0.7),
                "z": u(-20, 40),
            }
            for side in (-1, 1)
        ]
        self.has_kidneys = bool(u() < 0.7)
        self.kidney_hu = u(140, 210) if self.contrast else u(28, 38)
        self.has_liver, self.liver = bool(u() < 0.55), u(0.75, 1.05)
        self.liver_hu = u(95, 125) if self.contrast else u(48, 64)
        self.bowel = self._loops(rng)
        self.table_gap, self.table_radius, self.table_half = u(2, 6), u(330, 520), u(190, 230)
        self.table_hu, self.foam_hu, self.mattress_hu = u(-60, 160), u(-960, -900), u(-940, -860)
        count = int(rng.integers(25, 60))
        self.vessels = np.stack([u(-1, 1, count), u(-1, 0.55, count), u(0.8, 2.6, count)], axis=1)
        self.back = self.height * 0.985  # mm posterior: flattened by the table

    def _loops(self, rng: np.random.Generator) -> list[dict]:
        """Bowel: the colon at both sides, small bowel in front."""
        u = rng.uniform
        inner = self.width - self.skin_fat - 14
        front = self.height - self.front_fat - 12
        loops: list[dict[str, Any]] = []
        for side in (-1, 1):
            place = {"x": side * (inner - u(20, 26)), "y": u(-18, 12)}
            loops.append({**place, "a": u(17, 22), "b": u(19, 26), "kind": "colon"})
        for _ in range(60):
            if len(loops) >= 13:
                break
            a, b = u(10, 19), u(9, 15)
            t, r = u(-np.pi, 0.12 * np.pi), np.sqrt(u(0.05, 1))
            x, y = r * (inner - a - 4) * np.cos(t), r * (front - b - 6) * np.sin(t) - 2
            if y > self.spine_y - 52 and abs(x) < 45:
                continue
            near = min(
                np.hypot((x - o["x"]) / (a + o["a"]), (y - o["y"]) / (b + o["b"])) for o in loops
            )
            if near >= 0.92:
                loops.append({"x": x, "y": y, "a": a, "b": b, "kind": "small"})
        for loop in loops:
            loop["angle"] = u(-0.6, 0.6)
            loop["gas"] = u(-0.2, 0.75) if loop["kind"] == "colon" else u(-1.6, 0.7)
            loop["hu"] = u(5, 45) if u() < 0.75 else u(120, 320)  # some hold oral contrast
            loop["z"], loop["phase"] = u(-30, 30), u(0, 2 * np.pi)
        return loops

    def draw(self, canvas: Canvas, z: float) -> None:
        """Paints the slice at height z (mm), from the outside in."""
        self._table(canvas)
        warped: Any = copy.copy(canvas)
        warped.x = canvas.x + self.warp_x.at(canvas, z)
        warped.y = canvas.y + self.warp_y.at(canvas, z)
        self._trunk(warped, z)
        self._abdomen(warped, z)
        self._muscles(warped, z)
        self._vertebra(warped, z)

    # -- outside ------------------------------------------------------------------------------

    def _table(self, canvas: Canvas) -> None:
        top = self.back + self.table_gap + 5
        # A shallow trough that carries the body, concave upward.
        distance = np.hypot(canvas.x, canvas.y - (top - self.table_radius)) - self.table_radius
        side = np.abs(canvas.x) - self.table_half
        shell = np.maximum(np.abs(distance - 9) - 9, side)
        pad = np.maximum(np.abs(distance + 3.0) - 4.0, side + 25)
        canvas.paint(pad, self.mattress_hu + 12 * canvas.medium, "table")
        canvas.paint(shell, self.table_hu, "table")
        canvas.paint(shell + 2.2, self.foam_hu)

    def _trunk(self, canvas: Any, z: float) -> None:
        # Flatter behind than in front.
        front = ellipse(canvas.x, canvas.y, 0, 0, self.width, self.height)
        back = superellipse(canvas.x, canvas.y, 0, 0, self.width, self.back, 2.7)
        blend = _step(canvas.y, 18)
        canvas.skin = front * (1 - blend) + back * blend + self.outline.at(canvas, z)
        canvas.paint(canvas.skin, 25.0, "soft_tissue")
        canvas.paint(canvas.skin + 1.8, self.fat_hu + 7 * canvas.coarse + 5 * canvas.medium)
        strands = np.clip(1 - np.abs(canvas.medium) / 0.06, 0, 1)
        canvas.paint(canvas.skin + 5, self.fat_hu + 45, opacity=0.55 * strands)

    def _abdomen(self, canvas: Any, z: float) -> None:
        x, y = canvas.x, canvas.y
        a, b = self.width - self.skin_fat, self.height - self.front_fat
        front = ellipse(x, y, 0, 0, a, b)
        back = superellipse(x, y, 0, 0, a, self.height - self.back_fat, 2.4)
        blend = _step(y - 5, 12)
        wall = front * (1 - blend) + back * blend
        # The lateral wall has three layers with thin fat between; in front lie the recti.
        canvas.paint(wall, self.muscle_hu + 4 * canvas.coarse + 5 * canvas.fine)
        lateral = _step(np.abs(x) - 0.48 * a, 5)
        for depth in (4.2, 8.4):
            layer = np.abs(wall + depth + 0.6 * canvas.coarse) - 0.45
            canvas.paint(layer, self.fat_hu + 40, opacity=0.75 * lateral)
        midline = np.maximum(np.abs(x - 1) - 2.4, y + 0.5 * b)
        thickness = 10 + 3 * lateral
        canvas.paint(np.maximum(midline, wall + 1), self.fat_hu + 60, opacity=0.8)
        gap = np.abs(np.abs(x) - 0.5 * a) - 3.5
        canvas.paint(np.maximum(np.maximum(gap, wall), y + 10), self.fat_hu, opacity=0.9)
        canvas.cavity = np.maximum(wall + thickness, y - (self.spine_y + 30))
        canvas.paint(wall + thickness, self.fat_hu + 4 * canvas.coarse + 4 * canvas.medium)
        a, b = a - 16, b - 14
        for vx, vy, radius in self.vessels:
            part: Any = canvas.near(vx * a, vy * b, 12)
            spot = np.hypot(part.x - vx * a, part.y - vy * b) - radius
            hu = 0.75 * self.vein_hu if self.contrast else 40.0
            part.paint(np.maximum(spot, part.cavity + 2), hu, opacity=0.9)
        if self.has_liver:
            self._liver(canvas, a, b)
        for loop in self.bowel:
            if not (self.has_liver and loop["x"] < -0.25 * a):
                self._loop(canvas, z, loop)
        if self.has_kidneys:
            for kidney in self.kidneys:
                self._kidney(canvas, z, kidney)

    def _liver(self, canvas: Any, a: float, b: float) -> None:
        liver = ellipse(canvas.x, canvas.y, -0.62 * a, -0.05 * b, 0.5 * a, 0.8 * b, 0.15)
        liver = liver + 6 * (1.05 - self.liver) + 1.2 * canvas.coarse
        canvas.liver = np.maximum(liver, canvas.cavity + 1.5)
        canvas.paint(canvas.liver, self.liver_hu + 4 * canvas.coarse + 3 * canvas.medium)
        for vx, vy, radius in self.vessels[::4]:
            cx, cy = (-0.65 + 0.3 * vx) * a, (-0.1 + 0.6 * vy) * b
            part: Any = canvas.near(cx, cy, 12)
            spot = np.hypot(part.x - cx, part.y - cy) - 1.3 * radius
            part.paint(
                np.maximum(spot, part.liver + 3), self.liver_hu + (45 if self.contrast else -8)
            )

    def _loop(self, canvas: Canvas, z: float, loop: dict) -> None:
        """A bowel loop: wall, content, gas above a level or bubbles."""
        swell, x, y = 1 + 0.1 * np.cos(z / 25 + loop["phase"]), loop["x"], loop["y"]
        a, b = loop["a"] * swell, loop["b"] * swell
        part: Any = canvas.near(x, y, 1.6 * max(a, b) + 6)
        outer = ellipse(part.x, part.y, x, y, a, b, loop["angle"])
        angle = np.arctan2(part.y - y, part.x - x)
        outer = outer + 1.4 * np.cos(4 * angle + loop["phase"]) + 1.0 * part.coarse
        outer = np.maximum(outer, part.cavity + 1.5)
        part.paint(outer, 42.0 + (18 if self.contrast else 0), "soft_tissue")
        inside = outer + 2.1
        if loop["kind"] == "colon":
            # Stool: soft matter with small bubbles.
            part.paint(inside, 30 + 25 * part.medium)
            bubbles = np.maximum(inside + 1.5, 2.2 * (1.35 - part.medium))
            part.paint(bubbles, -620.0, opacity=0.8)
        else:
            part.paint(inside, loop["hu"] + 6 * part.medium)
        if loop["gas"] > -1:
            # Gas rises to the front, with a level or filling the loop.
            level = part.y - (y + b * loop["gas"] - 0.3 * b)
            part.paint(np.maximum(inside + 0.4, level), -985.0, "air")

    def _kidney(self, canvas: Canvas, z: float, k: dict) -> None:
        size = np.sqrt(max(0.0, 1 - ((z - k["z"]) / 75) ** 2))
        if size < 0.3:
            return
        part = canvas.near(k["x"], k["y"], 1.5 * max(k["a"], k["b"]) + 12)
        outer = ellipse(part.x, part.y, k["x"], k["y"], k["a"] * size, k["b"] * size, k["angle"])
        outer = outer + 0.8 * part.coarse
        part.paint(outer - 6, self.fat_hu + 3 * part.medium, "soft_tissue")
        hilum_at = k["x"] - np.sign(k["x"]) * 0.62 * k["a"] * size, k["y"] - 3
        hilum = ellipse(part.x, part.y, *hilum_at, 0.62 * k["a"], 0.34 * k["b"], k["angle"])
        hilum = hilum + 1.5 * part.coarse
        part.paint(np.maximum(outer, -hilum), self.kidney_hu + 5 * part.medium)
        if self.contrast:
            medulla = np.maximum(outer + 7, -hilum + 2) + 3 * part.coarse
            part.paint(medulla, self.kidney_hu - 35, opacity=0.7)
        pelvis = ellipse(part.x, part.y, *hilum_at, 0.22 * k["a"], 0.12 * k["b"], k["angle"])
        part.paint(pelvis, 15.0)

    # -- round the spine ------------------------------------------------------------------------

    def _muscles(self, canvas: Any, z: float) -> None:
        """Psoas, quadratus lumborum, erector spinae and multifidus; aorta and vena cava."""
        s, sx, sy = self.s, self.spine_x, self.spine_y
        part = canvas.near(sx, sy + 25, 100 * s)
        x, y, coarse = part.x, part.y, part.coarse
        muscle = self.muscle_hu + 3 * coarse + 5 * part.fine
        # A fat bed behind the cavity, in which the muscles lie.
        bed = superellipse(x, y, sx, sy + 31 * s, 66 * s, 37 * s, 2.6)
        bed = np.maximum(bed, part.skin + self.back_fat * 0.8)
        part.paint(bed, self.fat_hu + 4 * part.medium, "soft_tissue")
        # Fat between the bundles: thin curves where a smooth field changes sign, thicker in places.
        curve = np.abs(part.strand) / np.maximum(0.30 + 0.10 * coarse, 0.05)
        patch = np.clip(0.4 + 0.5 * coarse + 0.3 * part.medium, 0, 1)
        septa = min(0.8 * self.streaks, 1) * np.clip(1 - curve, 0, 1) * patch
        for side in (-1, 1):
            psoas_x = sx + side * (self.body_a + 0.72 * self.psoas)
            psoas = ellipse(x, y, psoas_x, sy + 3, self.psoas, 1.28 * self.psoas, side * 0.35)
            part.paint(psoas + 0.7 * coarse, muscle, "soft_tissue")
            lumborum = ellipse(x, y, sx + side * 62 * s, sy + 20 * s, 17 * s, 8.5 * s, side * 0.75)
            part.paint(lumborum + 0.6 * coarse, muscle, "soft_tissue")
            for mass in (
                superellipse(x, y, sx + side * 34 * s, sy + 44 * s, 27 * s, 19.5 * s, 2.3),
                ellipse(x, y, sx + side * 12.5 * s, sy + 47 * s, 11 * s, 17 * s, side * 0.12),
            ):
                part.paint(mass + 0.9 * coarse, muscle, "soft_tissue")
                part.paint(mass + 0.9 * coarse + 1, self.fat_hu + 20, opacity=septa)
        self._great_vessels(canvas, z)

    def _great_vessels(self, canvas: Canvas, z: float) -> None:
        """In front of the spine: aorta to the left, vena cava to the right."""
        front = self.spine_y - self.body_b
        cx, cy = self.spine_x + self.aorta_x, front - self.aorta - 2.5
        part = canvas.near(cx, cy, self.aorta + 12)
        aorta = np.hypot(part.x - cx, part.y - cy) - self.aorta
        part.paint(aorta, 48.0, "soft_tissue")
        part.paint(aorta + 1.3, self.vessel_hu + 3 * part.fine)
        if self.calcified:
            angle = np.arctan2(part.y - cy, part.x - cx) - self.plaque - z / 40
            angle = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
            plaque = np.maximum(np.abs(aorta + 0.8) - 1.1, (angle - 0.5) * self.aorta)
            part.paint(plaque, 620.0, opacity=0.9)
        cx, cy = self.spine_x - 16 * self.s, front - 8 * self.s
        part = canvas.near(cx, cy, 30)
        cava = ellipse(part.x, part.y, cx, cy, 12.5 * self.s, 8.5 * self.s, -0.3)
        part.paint(cava, self.vein_hu + 3 * part.fine, "soft_tissue")

    def _vertebra(self, canvas: Canvas, z: float) -> None:
        """The vertebra or disc at this height, drawn upright in its own turned coordinates."""
        s = self.s
        reach = self.transverse + self.body_a + 22
        part: Any = canvas.near(self.spine_x, self.spine_y + 18, reach)
        if part.hu.size == 0:
            return
        px, py = part.columns - self.spine_x, part.rows[:, None] - self.spine_y
        c, t = np.cos(self.turn), np.sin(self.turn)
        wobble = 0.35 * part.coarse
        part.x = x = c * px + t * py + 0.45 * self.warp_x.at(part, z) + wobble
        part.y = y = c * py - t * px + 0.45 * self.warp_y.at(part, z) + wobble
        side = np.abs(x)
        height = z % LEVEL  # from the lower end plate
        a, b = self.body_a, self.body_b
        waist = 1 - 0.07 * np.sin(np.pi * min(height / BONE, 1))
        body = superellipse(x, y, 0, 0, a * waist, b * waist, 2.35)
        body = np.maximum(body, -ellipse(x, y, 0, b * waist + 7.0, 13 * s, 8.8 * s))
        canal_y = b * waist + self.canal_b * 0.62
        canal = union(
            ellipse(x, y, 0, canal_y, self.canal_a, self.canal_b),
            ellipse(x, y, 0, canal_y + 3.5 * s, 6 * s, 7.5 * s),
            4.0,
        )
        # Epidural fat and nerve roots in the foramen where no pedicle closes it.
        part.paint(canal - 1.2, self.fat_hu + 20, "soft_tissue")
        if _bump(height, 17, 8.5) <= 0.5:
            foramen = ellipse(side, y, self.canal_a + 4, canal_y - 2.5, 7 * s, 5.5 * s)
            part.paint(foramen, self.fat_hu + 12, "soft_tissue")
            nerve = np.hypot(side - self.canal_a - 5, y - canal_y + 3) - 2.6
            part.paint(nerve, 45.0, "soft_tissue")
        if height <= BONE:
            self._bone(part, body, min(height, BONE - height))
            part.labels[body < 0] = LABELS["vertebral_body"]
            vein = np.maximum(side - 1.6 - 0.3 * part.medium, np.abs(y - 0.45 * b) - 0.42 * b)
            middle = _bump(height, BONE / 2, 5)
            if middle > 0.2:
                part.paint(np.maximum(vein, body + 0.5), 70.0, opacity=0.6 * middle)
        else:
            part.paint(body - 1.0, 100 + 6 * part.fine, "soft_tissue")
            part.paint(body + 6, 82 + 6 * part.fine)
        self._posterior(part, side, height, canal_y, body, canal)
        # The canal: epidural fat at the rim, the dural sac inside, with nerve roots.
        part.paint(canal, self.fat_hu + 25 + 5 * part.medium, "canal")
        sac = ellipse(x, y, 0, canal_y - 0.6, 0.84 * self.canal_a, 0.84 * self.canal_b)
        part.paint(np.maximum(sac, canal + 0.6), 26 + 3 * part.fine)
        for cx, cy in ((-5, 1.5), (-3.2, 3), (-1, 3.6), (1.2, 3.6), (3.4, 3), (5, 1.4)):
            part.paint(np.hypot(x - cx * s, y - canal_y - cy * s) - 0.8, 42.0, opacity=0.7)

    def _posterior(
        self,
        part: Canvas,
        side: np.ndarray,
        height: float,
        canal_y: float,
        body: np.ndarray,
        canal: np.ndarray,
    ) -> None:
        """Pedicles, transverse processes, laminae, spinous process and facets.

        Each is thickest at its own height. `side` is the distance to the midline.
        """
        s, y = self.s, part.y
        shapes = []
        hub = (self.canal_a + 4.5 * s, canal_y + 1.5 * s)
        size = s * _bump(height, 17, 8.5)
        if size > 0.15 * s:
            root = (0.72 * self.body_a, self.body_b * 0.55)
            shapes.append(capsule(side, y, root, hub, 6.0 * size, 5.6 * size))
        size = s * _bump(height, 15, 7)
        if size > 0.15 * s:
            start = (hub[0] + 1, hub[1] + 2 * s)
            tip = (
                hub[0] + self.transverse * np.cos(self.transverse_angle),
                start[1] - self.transverse * np.sin(self.transverse_angle),
            )
            shapes.append(capsule(side, y, start, tip, 4.8 * size, 3.0 * size))
        root_y = canal_y + self.canal_b + 6.5 * s * self.lamina_slope
        size = s * _bump(height, 7, 13)
        if size > 0.15 * s:
            shapes.append(capsule(side, y, hub, (2.0, root_y), 5.0 * size, 4.2 * size))
        share = _bump(height, 5, 12.5)
        if share > 0.15:
            size, end = s * share, (0.0, root_y + self.spinous * share)
            shapes.append(capsule(side, y, (0.0, root_y), end, 4.0 * size, 3.2 * size))
            shapes.append(ellipse(side, y, *end, 5.2 * size, 4.4 * size))
        low, high = sorted((_bump(height, 25, 12), _bump(height, 33, 10)))  # of two vertebrae
        facet = (hub[0] + 3.5 * s, hub[1] + 5.5 * s)
        if high > 0.2:
            big = self.facet * high
            shapes.append(ellipse(side, y, *facet, 0.95 * big, 1.05 * big, -0.5))
        if not shapes:
            return
        posterior = functools.reduce(lambda one, other: union(one, other, 3.5), shapes)
        # Bone joins bone: the body keeps its own label where both claim a pixel.
        owned = part.labels == LABELS["vertebral_body"]
        free = np.maximum(posterior, -(canal - 0.2))
        self._bone(part, free, 9.0, join=body)
        part.labels[(free < 0) & ~owned] = LABELS["posterior_elements"]
        if high > 0.55 and low > 0.1:
            cx, cy = facet
            gap = np.abs((side - cx) * np.cos(0.75) - (y - cy) * np.sin(0.75)) - 0.75
            gap = np.maximum(gap, np.hypot(side - cx, y - cy) - 0.95 * self.facet)
            part.paint(gap, 60.0, "soft_tissue", opacity=0.8)

    def _bone(
        self, part: Canvas, shape: np.ndarray, end_distance: float, join: np.ndarray | None = None
    ) -> None:
        """Cortical shell, subcortical bone and marrow with trabecular texture.

        Of a body, `end_distance` mm from an end plate; of posterior elements that join a body.
        """
        fine, medium = part.fine, part.medium
        thickness = self.cortex * (0.85 if join is None else 1.55) * (1 + 0.18 * medium)
        spongy = self.trabecular + self.trabecular_texture * (0.7 * fine + 0.8 * medium)
        # End plates: denser bone over the whole section.
        spongy = spongy + (330 * np.exp(-((end_distance / 1.8) ** 2)) if join is None else 90)
        cortex = self.cortex_hu * (0.85 if join is None else 1.05) * (1 + 0.1 * medium)
        inner = shape + thickness
        if join is not None:
            # No shell between pedicle and body: marrow runs through.
            inner = np.minimum(inner, np.maximum(join + 2.0, shape + 0.3))
        spongy = spongy + (1 - np.clip(-inner / 2.5, 0, 1)) * 70
        into = 1.0 if join is None else np.clip((join + 1.6) / 1.6, 0, 1)
        part.paint(shape, cortex, opacity=into)
        part.paint(inner, spongy, opacity=into)
        if join is not None:
            neck = np.maximum(np.abs(join) - 2.2, shape + 1.6 * thickness)
            part.paint(neck, spongy, opacity=0.9)
