"""The anatomy of a phantom: a body on a table, painted from the outside in."""

from __future__ import annotations

import numpy as np

from tfstyle.data._canvas import LABELS, Canvas, capsule, ellipse, superellipse, union

LEVEL = 36.0  # mm from one vertebra to the next


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

    def __call__(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        # x varies along rows only and y along columns only, so exponentials are outer products.
        along_x = np.exp(1j * np.outer(self.kx, x[0]))
        along_y = np.exp(1j * (np.outer(self.ky, y[:, 0]) + (self.kz * z + self.phase)[:, None]))
        return self.amplitude * (along_y.T @ along_x).real


def _bump(z: float, center: float, half: float) -> float:
    """Radius of an ellipsoid at height z, from 1 at its center to 0; repeats every level."""
    away = (z - center + LEVEL / 2) % LEVEL - LEVEL / 2
    return float(np.sqrt(max(0.0, 1 - (away / half) ** 2)))


class Body:
    """The anatomy of one phantom: every size and place, drawn once from the seed."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform
        scale = u(0.93, 1.07)
        self.s = scale
        self.width = u(142, 176)
        self.height = u(98, 122)
        self.fat = u(0.35, 1.0)
        self.skin_fat = 7 + 20 * self.fat  # mm, at the sides
        self.back_fat = 8 + 13 * self.fat
        self.front_fat = 7 + 22 * self.fat
        self.warp_x = _Wave(rng, 2.0, 60, 130)
        self.warp_y = _Wave(rng, 2.0, 60, 130)
        self.outline = _Wave(rng, 1.5, 140, 320)
        self.contrast = bool(u() < 0.6)
        self.spine_x = u(-4, 4)
        self.spine_y = self.height - self.back_fat - u(62, 68) * scale
        self.turn = np.radians(u(-4, 4))
        self.body_a = u(23.5, 27.5) * scale
        self.body_b = u(17, 20) * scale
        self.cortex = u(0.9, 1.5)
        self.cortex_hu = u(520, 860)
        self.trabecular = u(110, 230)
        self.trabecular_texture = u(25, 55)
        self.canal_a = u(11, 13) * scale
        self.canal_b = u(7.5, 9.5) * scale
        self.spinous = u(27, 34) * scale
        self.transverse = u(22, 33) * scale
        self.transverse_angle = u(-0.25, 0.4)
        self.lamina_slope = u(0.85, 1.1)
        self.facet = u(6.5, 8.2) * scale
        self.psoas = u(15, 22) * scale
        self.muscle_hu = u(48, 64)
        self.fat_hu = u(-112, -98)
        self.streaks = u(0.5, 1.5)
        self.aorta = u(8, 11.5) * scale
        self.aorta_x = u(4, 14)
        self.calcified = bool(u() < 0.5)
        self.plaque = u(0, 2 * np.pi)
        self.vessel_hu = u(150, 300) if self.contrast else u(38, 48)
        self.vein_hu = u(110, 190) if self.contrast else u(36, 46)
        self.kidneys = [
            {
                "x": side * u(64, 78),
                "y": self.spine_y - u(-6, 10),
                "a": u(22, 28) * scale,
                "b": u(26, 33) * scale,
                "angle": side * u(0.2, 0.7),
                "z": u(-20, 40),
            }
            for side in (-1, 1)
        ]
        self.has_kidneys = bool(u() < 0.7)
        self.kidney_hu = u(140, 210) if self.contrast else u(28, 38)
        self.has_liver = bool(u() < 0.55)
        self.liver = u(0.75, 1.05)
        self.liver_hu = u(95, 125) if self.contrast else u(48, 64)
        self.bowel = self._loops(rng)
        self.table_gap = u(2, 6)
        self.table_radius = u(330, 520)
        self.table_half = u(190, 230)
        self.table_hu = u(-60, 160)
        self.foam_hu = u(-960, -900)
        self.mattress_hu = u(-940, -860)
        vessels = int(rng.integers(25, 60))
        self.vessels = np.stack(
            [u(-1, 1, vessels), u(-1, 0.55, vessels), u(0.8, 2.6, vessels)], axis=1
        )

    def _loops(self, rng: np.random.Generator) -> list[dict]:
        """Bowel: the colon at both sides, small bowel in front."""
        u = rng.uniform
        inner = self.width - self.skin_fat - 14
        front = self.height - self.front_fat - 12
        loops = []
        for side in (-1, 1):
            loops.append(
                {
                    "x": side * (inner - u(20, 26)),
                    "y": u(-18, 12),
                    "a": u(17, 22),
                    "b": u(19, 26),
                    "kind": "colon",
                }
            )
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
            if near < 0.92:
                continue
            loops.append({"x": x, "y": y, "a": a, "b": b, "kind": "small"})
        for loop in loops:
            loop["angle"] = u(-0.6, 0.6)
            loop["gas"] = u(-0.2, 0.75) if loop["kind"] == "colon" else u(-1.6, 0.7)
            loop["hu"] = u(5, 45) if u() < 0.75 else u(120, 320)  # some hold oral contrast
            loop["z"] = u(-30, 30)
            loop["phase"] = u(0, 2 * np.pi)
        return loops

    def draw(self, canvas: Canvas, z: float) -> None:
        """Paints the slice at height z (mm), from the outside in."""
        self._table(canvas)
        x = canvas.x + self.warp_x(canvas.x, canvas.y, z)
        y = canvas.y + self.warp_y(canvas.x, canvas.y, z)
        self._trunk(canvas, x, y, z)
        self._abdomen(canvas, x, y, z)
        self._muscles(canvas, x, y, z)
        self._vertebra(canvas, z)

    # -- outside ------------------------------------------------------------------------------

    def _back(self) -> float:
        """Where the back lies, mm posterior: flattened by the table."""
        return self.height * 0.985

    def _table(self, canvas: Canvas) -> None:
        top = self._back() + self.table_gap + 5
        # A shallow trough that carries the body, concave upward.
        distance = np.hypot(canvas.x, canvas.y - (top - self.table_radius)) - self.table_radius
        side = np.abs(canvas.x) - self.table_half
        shell = np.maximum(np.abs(distance - 9) - 9, side)
        pad = np.maximum(np.abs(distance + 3.0) - 4.0, side + 25)
        canvas.paint(pad, self.mattress_hu + 12 * canvas.medium, "table")
        canvas.paint(shell, self.table_hu, "table")
        canvas.paint(shell + 2.2, self.foam_hu)

    def _trunk(self, canvas: Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        outline = self.outline(canvas.x, canvas.y, z)
        # Flatter behind than in front.
        front = ellipse(x, y, 0, 0, self.width, self.height)
        back = superellipse(x, y, 0, 0, self.width, self._back(), 2.7)
        blend = 1 / (1 + np.exp(-y / 18))
        skin = front * (1 - blend) + back * blend + outline
        self.skin = skin
        fat = self.fat_hu + 7 * canvas.coarse + 5 * canvas.medium
        canvas.paint(skin, 25.0, "soft_tissue")
        canvas.paint(skin + 1.8, fat, None)
        strands = np.clip(1 - np.abs(canvas.medium) / 0.06, 0, 1)
        canvas.paint(skin + 5, self.fat_hu + 45, None, opacity=0.55 * strands)

    def _abdomen(self, canvas: Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        a, b = self.width - self.skin_fat, self.height - self.front_fat
        muscle = self.muscle_hu + 4 * canvas.coarse + 5 * canvas.fine
        back_limit = self.height - self.back_fat
        front = ellipse(x, y, 0, 0, a, b)
        back = superellipse(x, y, 0, 0, a, back_limit, 2.4)
        blend = 1 / (1 + np.exp(-(y - 5) / 12))
        wall = front * (1 - blend) + back * blend
        # The lateral wall has three layers with thin fat between; in front lie the recti.
        canvas.paint(wall, muscle)
        lateral = 1 / (1 + np.exp(-(np.abs(x) - 0.48 * a) / 5))
        for depth in (4.2, 8.4):
            layer = np.abs(wall + depth + 0.6 * canvas.coarse) - 0.45
            canvas.paint(layer, self.fat_hu + 40, opacity=0.75 * lateral)
        midline = np.maximum(np.abs(x - 1) - 2.4, y + 0.5 * b)
        thickness = 10 + 3 * lateral
        canvas.paint(np.maximum(midline, wall + 1), self.fat_hu + 60, opacity=0.8)
        gap = np.abs(np.abs(x) - 0.5 * a) - 3.5
        canvas.paint(np.maximum(np.maximum(gap, wall), y + 10), self.fat_hu, opacity=0.9)
        cavity = np.maximum(wall + thickness, y - (self.spine_y + 30))
        fat = self.fat_hu + 4 * canvas.coarse + 4 * canvas.medium
        canvas.paint(wall + thickness, fat)
        self.cavity = cavity
        inner_a, inner_b = a - 16, b - 14
        for vx, vy, radius in self.vessels:
            cx, cy = vx * inner_a, vy * inner_b
            part = canvas.box(cx, cy, 12)
            spot = np.hypot(x[part] - cx, y[part] - cy) - radius
            hu = 0.75 * self.vein_hu if self.contrast else 40.0
            canvas.paint(np.maximum(spot, cavity[part] + 2), hu, part=part, opacity=0.9)
        if self.has_liver:
            liver = ellipse(
                x, y, -0.62 * inner_a, -0.05 * inner_b, 0.5 * inner_a, 0.8 * inner_b, 0.15
            )
            liver = np.maximum(liver + 6 * (1.05 - self.liver) + 1.2 * canvas.coarse, cavity + 1.5)
            canvas.paint(liver, self.liver_hu + 4 * canvas.coarse + 3 * canvas.medium)
            for vx, vy, radius in self.vessels[::4]:
                cx, cy = (-0.65 + 0.3 * vx) * inner_a, (-0.1 + 0.6 * vy) * inner_b
                part = canvas.box(cx, cy, 12)
                spot = np.maximum(
                    np.hypot(x[part] - cx, y[part] - cy) - 1.3 * radius, liver[part] + 3
                )
                canvas.paint(spot, self.liver_hu + (45 if self.contrast else -8), part=part)
        for loop in self.bowel:
            if self.has_liver and loop["x"] < -0.25 * inner_a:
                continue
            self._loop(canvas, x, y, z, loop)
        if self.has_kidneys:
            for kidney in self.kidneys:
                self._kidney(canvas, x, y, z, kidney)

    def _loop(self, canvas: Canvas, x: np.ndarray, y: np.ndarray, z: float, loop: dict) -> None:
        """A bowel loop: wall, content, gas above a level or bubbles."""
        swell = 1 + 0.1 * np.cos(z / 25 + loop["phase"])
        a, b = loop["a"] * swell, loop["b"] * swell
        part = canvas.box(loop["x"], loop["y"], 1.6 * max(a, b) + 6)
        px, py = x[part], y[part]
        outer = ellipse(px, py, loop["x"], loop["y"], a, b, loop["angle"])
        angle = np.arctan2(py - loop["y"], px - loop["x"])
        outer = outer + 1.4 * np.cos(4 * angle + loop["phase"]) + 1.0 * canvas.coarse[part]
        outer = np.maximum(outer, self.cavity[part] + 1.5)
        canvas.paint(outer, 42.0 + (18 if self.contrast else 0), "soft_tissue", part=part)
        inside = outer + 2.1
        content = loop["hu"] + 6 * canvas.medium[part]
        if loop["kind"] == "colon":
            # Stool: soft matter with small bubbles.
            canvas.paint(inside, 30 + 25 * canvas.medium[part], part=part)
            bubbles = np.maximum(inside + 1.5, 2.2 * (1.35 - canvas.medium[part]))
            canvas.paint(bubbles, -620.0, part=part, opacity=0.8)
        else:
            canvas.paint(inside, content, part=part)
        if loop["gas"] > -1:
            # Gas rises to the front, with a level or filling the loop.
            level = py - (loop["y"] + b * loop["gas"] - 0.3 * b)
            gas = np.maximum(inside + 0.4, level)
            canvas.paint(gas, -985.0, "air", part=part)

    def _kidney(self, canvas: Canvas, x: np.ndarray, y: np.ndarray, z: float, k: dict) -> None:
        size = np.sqrt(max(0.0, 1 - ((z - k["z"]) / 75) ** 2))
        if size < 0.3:
            return
        part = canvas.box(k["x"], k["y"], 1.5 * max(k["a"], k["b"]) + 12)
        px, py = x[part], y[part]
        outer = ellipse(px, py, k["x"], k["y"], k["a"] * size, k["b"] * size, k["angle"])
        outer = outer + 0.8 * canvas.coarse[part]
        canvas.paint(outer - 6, self.fat_hu + 3 * canvas.medium[part], "soft_tissue", part=part)
        inward = -np.sign(k["x"])
        hilum_x, hilum_y = k["x"] + inward * 0.62 * k["a"] * size, k["y"] - 3
        hilum = ellipse(px, py, hilum_x, hilum_y, 0.62 * k["a"], 0.34 * k["b"], k["angle"])
        hilum = hilum + 1.5 * canvas.coarse[part]
        kidney = np.maximum(outer, -hilum)
        cortex = self.kidney_hu + 5 * canvas.medium[part]
        canvas.paint(kidney, cortex, part=part)
        if self.contrast:
            medulla = np.maximum(outer + 7, -hilum + 2) + 3 * canvas.coarse[part]
            canvas.paint(medulla, self.kidney_hu - 35, part=part, opacity=0.7)
        pelvis = ellipse(px, py, hilum_x, hilum_y, 0.22 * k["a"], 0.12 * k["b"], k["angle"])
        canvas.paint(pelvis, 15.0, part=part)

    # -- round the spine ------------------------------------------------------------------------

    def _muscles(self, canvas: Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        """Psoas, quadratus lumborum, erector spinae and multifidus; aorta and vena cava."""
        s, sx, sy = self.s, self.spine_x, self.spine_y
        part = canvas.box(sx, sy + 25, 100 * s)
        px, py = x[part], y[part]
        fine, medium, coarse = canvas.fine[part], canvas.medium[part], canvas.coarse[part]
        muscle = self.muscle_hu + 3 * coarse + 5 * fine
        # A fat bed behind the cavity, in which the muscles lie.
        bed = superellipse(px, py, sx, sy + 31 * s, 66 * s, 37 * s, 2.6)
        bed = np.maximum(bed, self.skin[part] + self.back_fat * 0.8)
        canvas.paint(bed, self.fat_hu + 4 * medium, "soft_tissue", part)
        # Fat between the bundles: thin curves where a smooth field changes sign, thicker in places.
        curve = np.abs(canvas.strand[part]) / np.maximum(0.30 + 0.10 * coarse, 0.05)
        patch = np.clip(0.4 + 0.5 * coarse + 0.3 * medium, 0, 1)
        septa = min(0.8 * self.streaks, 1) * np.clip(1 - curve, 0, 1) * patch
        for side in (-1, 1):
            psoas_x = sx + side * (self.body_a + 0.72 * self.psoas)
            psoas = ellipse(px, py, psoas_x, sy + 3, self.psoas, 1.28 * self.psoas, side * 0.35)
            canvas.paint(psoas + 0.7 * coarse, muscle, "soft_tissue", part)
            lumborum_x, lumborum_y = sx + side * 62 * s, sy + 20 * s
            lumborum = ellipse(px, py, lumborum_x, lumborum_y, 17 * s, 8.5 * s, side * 0.75)
            canvas.paint(lumborum + 0.6 * coarse, muscle, "soft_tissue", part)
            erector_x, multifidus_x = sx + side * 34 * s, sx + side * 12.5 * s
            for mass in (
                superellipse(px, py, erector_x, sy + 44 * s, 27 * s, 19.5 * s, 2.3),
                ellipse(px, py, multifidus_x, sy + 47 * s, 11 * s, 17 * s, side * 0.12),
            ):
                canvas.paint(mass + 0.9 * coarse, muscle, "soft_tissue", part)
                canvas.paint(mass + 0.9 * coarse + 1, self.fat_hu + 20, part=part, opacity=septa)
        # Great vessels in front of the spine: aorta to the left, vena cava to the right.
        front = sy - self.body_b
        cx, cy = sx + self.aorta_x, front - self.aorta - 2.5
        part = canvas.box(cx, cy, self.aorta + 12)
        aorta = np.hypot(x[part] - cx, y[part] - cy) - self.aorta
        canvas.paint(aorta, 48.0, "soft_tissue", part=part)
        canvas.paint(aorta + 1.3, self.vessel_hu + 3 * canvas.fine[part], part=part)
        if self.calcified:
            angle = np.arctan2(y[part] - cy, x[part] - cx) - self.plaque - z / 40
            angle = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
            plaque = np.maximum(np.abs(aorta + 0.8) - 1.1, (angle - 0.5) * self.aorta)
            canvas.paint(plaque, 620.0, part=part, opacity=0.9)
        cava_x, cava_y = sx - 16 * s, front - 8 * s
        part = canvas.box(cava_x, cava_y, 30)
        cava = ellipse(x[part], y[part], cava_x, cava_y, 12.5 * s, 8.5 * s, -0.3)
        canvas.paint(cava, self.vein_hu + 3 * canvas.fine[part], "soft_tissue", part=part)

    def _vertebra(self, canvas: Canvas, z: float) -> None:
        """The vertebra or disc at this height, drawn upright in its own turned coordinates."""
        s = self.s
        reach = self.transverse + self.body_a + 22
        part = canvas.box(self.spine_x, self.spine_y + 18, reach)
        if canvas.x[part].size == 0:
            return
        px, py = canvas.x[part] - self.spine_x, canvas.y[part] - self.spine_y
        wobble_x, wobble_y = (
            w(canvas.x[part], canvas.y[part], z) for w in (self.warp_x, self.warp_y)
        )
        c, t = np.cos(self.turn), np.sin(self.turn)
        x = c * px + t * py + 0.45 * wobble_x + 0.35 * canvas.coarse[part]
        y = c * py - t * px + 0.45 * wobble_y + 0.35 * canvas.coarse[part]
        side = np.abs(x)
        fine, medium = canvas.fine[part], canvas.medium[part]
        a, b = self.body_a, self.body_b
        # Height within the level: 0 the lower end plate, 27 mm the upper one, disc above.
        height = z % LEVEL
        bone_top = 27.0
        waist = 1 - 0.07 * np.sin(np.pi * min(height / bone_top, 1))
        body = superellipse(x, y, 0, 0, a * waist, b * waist, 2.35)
        dent = ellipse(x, y, 0, b * waist + 7.0, 13 * s, 8.8 * s)
        body = np.maximum(body, -dent)
        canal_y = b * waist + self.canal_b * 0.62
        canal = union(
            ellipse(x, y, 0, canal_y, self.canal_a, self.canal_b),
            ellipse(x, y, 0, canal_y + 3.5 * s, 6 * s, 7.5 * s),
            4.0,
        )
        # Posterior elements: each part is thickest at its own height.
        pedicle = _bump(height, 17, 8.5)
        transverse = _bump(height, 15, 7)
        lamina = _bump(height, 7, 13)
        spinous = _bump(height, 5, 12.5)
        upper_facet = _bump(height, 25, 12)
        lower_facet = _bump(height, 33, 10)
        parts = []
        hub = (self.canal_a + 4.5 * s, canal_y + 1.5 * s)
        if pedicle > 0.15:
            root = (0.72 * a, b * 0.55)
            parts.append(capsule(side, y, root, hub, 6.0 * s * pedicle, 5.6 * s * pedicle))
        if transverse > 0.15:
            length = self.transverse
            tip = (
                hub[0] + length * np.cos(self.transverse_angle),
                hub[1] + 2 * s - length * np.sin(self.transverse_angle),
            )
            start = (hub[0] + 1, hub[1] + 2 * s)
            parts.append(capsule(side, y, start, tip, 4.8 * s * transverse, 3.0 * s * transverse))
        root_y = canal_y + self.canal_b + 6.5 * s * self.lamina_slope
        if lamina > 0.15:
            parts.append(capsule(side, y, hub, (2.0, root_y), 5.0 * s * lamina, 4.2 * s * lamina))
        if spinous > 0.15:
            end = (0.0, root_y + self.spinous * spinous)
            parts.append(capsule(side, y, (0.0, root_y), end, 4.0 * s * spinous, 3.2 * s * spinous))
            parts.append(ellipse(side, y, end[0], end[1], 5.2 * s * spinous, 4.4 * s * spinous))
        facet = (hub[0] + 3.5 * s, hub[1] + 5.5 * s)
        if max(upper_facet, lower_facet) > 0.2:
            big = self.facet * max(upper_facet, lower_facet)
            joint = ellipse(side, y, facet[0], facet[1], 0.95 * big, 1.05 * big, -0.5)
            parts.append(joint)
        posterior = None
        for shape in parts:
            posterior = shape if posterior is None else union(posterior, shape, 3.5)
        # Epidural fat and nerve roots in the foramen where no pedicle closes it.
        canvas.paint(canal - 1.2, self.fat_hu + 20, "soft_tissue", part)
        if pedicle <= 0.5:
            foramen = ellipse(side, y, self.canal_a + 4, canal_y - 2.5, 7 * s, 5.5 * s)
            canvas.paint(foramen, self.fat_hu + 12, "soft_tissue", part)
            nerve = np.hypot(side - self.canal_a - 5, y - canal_y + 3) - 2.6
            canvas.paint(nerve, 45.0, "soft_tissue", part)
        if height <= bone_top:
            self._bone(canvas, part, body, fine, medium, min(height, bone_top - height), body=True)
            canvas.labels[part][body < 0] = LABELS["vertebral_body"]
            vein = np.maximum(np.abs(x) - 1.6 - 0.3 * medium, np.abs(y - 0.45 * b) - 0.42 * b)
            middle = _bump(height, bone_top / 2, 5)
            if middle > 0.2:
                canvas.paint(np.maximum(vein, body + 0.5), 70.0, part=part, opacity=0.6 * middle)
        else:
            canvas.paint(body - 1.0, 100 + 6 * fine, "soft_tissue", part)
            canvas.paint(body + 6, 82 + 6 * fine, None, part)
        if posterior is not None:
            # Bone joins bone: the body keeps its own label where both claim a pixel.
            owned = canvas.labels[part] == LABELS["vertebral_body"]
            free = np.maximum(posterior, -(canal - 0.2))
            self._bone(canvas, part, free, fine, medium, 9.0, body=False, join=body)
            claimed = (free < 0) & ~owned
            canvas.labels[part][claimed] = LABELS["posterior_elements"]
            if max(upper_facet, lower_facet) > 0.55 and min(upper_facet, lower_facet) > 0.1:
                cx, cy = facet
                gap = np.abs((side - cx) * np.cos(0.75) - (y - cy) * np.sin(0.75)) - 0.75
                gap = np.maximum(gap, np.hypot(side - cx, y - cy) - 0.95 * self.facet)
                canvas.paint(gap, 60.0, "soft_tissue", part, opacity=0.8)
        # The canal: epidural fat at the rim, the dural sac inside.
        canvas.paint(canal, self.fat_hu + 25 + 5 * medium, "canal", part)
        sac = ellipse(x, y, 0, canal_y - 0.6, 0.84 * self.canal_a, 0.84 * self.canal_b)
        canvas.paint(np.maximum(sac, canal + 0.6), 26 + 3 * fine, None, part)
        for cx, cy in ((-5, 1.5), (-3.2, 3), (-1, 3.6), (1.2, 3.6), (3.4, 3), (5, 1.4)):
            root = np.hypot(x - cx * s, y - canal_y - cy * s) - 0.8
            canvas.paint(root, 42.0, part=part, opacity=0.7)

    def _bone(
        self,
        canvas: Canvas,
        part: tuple[slice, slice],
        shape: np.ndarray,
        fine: np.ndarray,
        medium: np.ndarray,
        end_distance: float,
        *,
        body: bool,
        join: np.ndarray | None = None,
    ) -> None:
        """Cortical shell, subcortical bone and marrow with trabecular texture."""
        thickness = self.cortex * (0.85 if body else 1.55) * (1 + 0.18 * medium)
        spongy = self.trabecular + self.trabecular_texture * (0.7 * fine + 0.8 * medium)
        if not body:
            spongy = spongy + 90
        if body:  # end plates: denser bone over the whole section
            spongy = spongy + 330 * np.exp(-((end_distance / 1.8) ** 2))
        cortex = self.cortex_hu * (0.85 if body else 1.05) * (1 + 0.1 * medium)
        inner = shape + thickness
        if join is not None:
            # No shell between pedicle and body: marrow runs through.
            inner = np.minimum(inner, np.maximum(join + 2.0, shape + 0.3))
        rim = np.clip(-inner / 2.5, 0, 1)
        spongy = spongy + (1 - rim) * 70
        if join is not None:
            into = np.clip((join + 1.6) / 1.6, 0, 1)
            canvas.paint(shape, cortex, None, part, opacity=into)
            canvas.paint(inner, spongy, None, part, opacity=into)
            neck = np.maximum(np.abs(join) - 2.2, shape + 1.6 * thickness)
            canvas.paint(neck, spongy, None, part, opacity=0.9)
        else:
            canvas.paint(shape, cortex, None, part)
            canvas.paint(inner, spongy, None, part)
