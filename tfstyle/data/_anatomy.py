"""The anatomy of a phantom: a body on a table, painted from the outside in."""

from __future__ import annotations

import functools

import numpy as np

from tfstyle.data._canvas import LABELS, Canvas, capsule, ellipse, superellipse, union

LEVEL = 36.0  # mm from one vertebra to the next
BONE = 27.0  # mm of it that are bone; a disc lies above


def _bump(z: float, center: float, half: float) -> float:
    """Radius of an ellipsoid at height z, from 1 at its center to 0; repeats every level."""
    away = (z - center + LEVEL / 2) % LEVEL - LEVEL / 2
    return float(np.sqrt(max(0.0, 1 - (away / half) ** 2)))


class Body:
    """The anatomy of one phantom: every size (mm), place and density (HU), drawn from the seed."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform
        self.s = s = u(0.93, 1.07)
        self.width, self.height = u(142, 176), u(98, 122)
        fat, contrast = u(0.35, 1.0), bool(u() < 0.6)
        self.wall_a, self.front_fat, self.back_fat = (
            self.width - 7 - 20 * fat, 7 + 22 * fat, 8 + 13 * fat,
        )  # fmt: skip
        self.spine_x, self.spine_y = u(-4, 4), self.height - self.back_fat - u(62, 68) * s
        self.turn = np.radians(u(-4, 4))
        self.body_a, self.body_b = u(23.5, 27.5) * s, u(17, 20) * s
        self.canal_a, self.canal_b = u(11, 13) * s, u(7.5, 9.5) * s
        self.cortex, self.cortex_hu = u(0.9, 1.5), u(520, 860)
        self.trabecular, self.texture = u(110, 230), u(25, 55)
        self.spinous, self.transverse = u(27, 34) * s, u(22, 33) * s
        self.transverse_angle, self.facet = u(-0.25, 0.4), u(6.5, 8.2) * s
        self.psoas = u(15, 22) * s
        self.muscle_hu, self.fat_hu = u(48, 64), u(-112, -98)
        self.aorta, self.aorta_x = u(8, 11.5) * s, u(4, 14)
        self.artery_hu = float(u(150, 300)) if contrast else 43.0
        self.vein_hu = float(u(110, 190)) if contrast else 41.0
        self.kidney_hu = float(u(140, 210)) if contrast else 33.0
        self.liver_hu = float(u(95, 125)) if contrast else 56.0
        self.kidneys = [
            (side * u(64, 78), self.spine_y - u(-6, 10), u(22, 28) * s, u(26, 33) * s, side * 0.4,
             u(-20, 40))
            for side in (-1, 1)
        ] if u() < 0.7 else []  # fmt: skip
        self.has_liver = bool(u() < 0.55)
        self.bowel = [self._loop(u, side, None) for side in (-1, 1)]  # the colon
        self.bowel += [self._loop(u, r, t) for r in (0.35, 0.85) for t in np.arange(-5, 1) * 0.6]
        self.table_gap, self.table_radius, self.table_half = u(2, 6), u(330, 520), u(190, 230)
        self.table_hu, self.foam_hu, self.mattress_hu = u(-60, 160), u(-960, -900), u(-940, -860)

    def _loop(self, u, r: float, turn: float | None) -> tuple:
        """A loop of bowel: x, y, half axes, HU of its content, and where its gas begins."""
        inner, front = self.wall_a - 14, self.height - self.front_fat - 12
        if turn is None:
            return r * (inner - u(20, 26)), u(-18, 12), u(17, 22), u(19, 26), 30, u(-0.2, 0.75)
        a, b, turn = u(10, 16), u(9, 14), turn + u(-0.2, 0.2)
        place = r * (inner - 40) * np.cos(turn), r * (front - b - 6) * np.sin(turn) - 8
        hu = u(5, 45) if u() < 0.75 else u(120, 320)  # some hold oral contrast
        return *place, a, b, hu, u(-1.6, 0.7)

    def draw(self, canvas: Canvas, z: float) -> None:
        """Paints the slice at height z (mm), from the outside in."""
        self._table(canvas)
        self._trunk(canvas, z)
        self._round_the_spine(canvas)
        self._vertebra(canvas, z)

    def _table(self, canvas: Canvas) -> None:
        """A shallow trough that carries the body, concave upward."""
        top = self.height + self.table_gap + 5
        distance = np.hypot(canvas.x, canvas.y - (top - self.table_radius)) - self.table_radius
        side = np.abs(canvas.x) - self.table_half
        shell = np.maximum(np.abs(distance - 9) - 9, side)
        pad = np.maximum(np.abs(distance + 3) - 4, side + 25)
        canvas.paint(pad, self.mattress_hu + 12 * canvas.medium, "table")
        canvas.paint(shell, self.table_hu, "table")
        canvas.paint(shell + 2.2, self.foam_hu)

    def _trunk(self, canvas: Canvas, z: float) -> None:
        x, y, coarse, medium = canvas.x, canvas.y, canvas.coarse, canvas.medium
        skin = superellipse(x, y, 0, 0, self.width, self.height, 2.3) + 0.7 * coarse
        canvas.paint(skin, 25.0, "soft_tissue")
        canvas.paint(skin + 1.8, self.fat_hu + 7 * coarse + 5 * medium)
        shift = (self.front_fat - self.back_fat) / 2
        a, b = self.wall_a, self.height - (self.front_fat + self.back_fat) / 2
        wall = superellipse(x, y, 0, shift, a, b, 2.2) + 0.7 * coarse
        canvas.paint(wall, self.muscle_hu + 4 * coarse + 5 * canvas.fine)
        canvas.paint(np.maximum(np.abs(x - 1) - 2.4, wall) + 2, self.fat_hu + 60)  # linea alba
        cavity = np.maximum(wall + 12, y - (self.spine_y + 30))
        canvas.paint(cavity, self.fat_hu + 4 * coarse + 4 * medium)
        if self.has_liver:
            liver = ellipse(x, y, -0.62 * a, -0.05 * b, 0.5 * a, 0.8 * b, 0.15) + 1.2 * coarse
            canvas.paint(np.maximum(liver, cavity + 1.5), self.liver_hu + 4 * coarse + 3 * medium)
        for cx, cy, la, lb, hu, gas in self.bowel:
            if self.has_liver and cx < -0.25 * a:
                continue
            loop = ellipse(x, y, cx, cy, la, lb) + coarse + 1.4 * np.cos((x - y + z) / 6)
            loop = np.maximum(loop, cavity + 1.5)
            canvas.paint(loop, 50.0, "soft_tissue")
            canvas.paint(loop + 2.1, hu + 8 * medium)
            if gas > -1:  # rises to the front, with a level or filling the loop
                level = y - (cy + lb * (gas - 0.3))
                canvas.paint(np.maximum(loop + 2.5, level), -985.0, "air")
        for cx, cy, ka, kb, angle, middle in self.kidneys:
            size = np.sqrt(max(0.0, 1 - ((z - middle) / 75) ** 2))
            if size < 0.3:
                continue
            outer = ellipse(x, y, cx, cy, ka * size, kb * size, angle) + 0.8 * coarse
            hilum = cx * (1 - 0.62 * ka * size / abs(cx)), cy - 3
            sinus = ellipse(x, y, *hilum, 0.62 * ka, 0.34 * kb, angle) + 1.5 * coarse
            canvas.paint(outer - 6, self.fat_hu + 3 * medium, "soft_tissue")
            canvas.paint(np.maximum(outer, -sinus), self.kidney_hu + 5 * medium)
            canvas.paint(ellipse(x, y, *hilum, 0.22 * ka, 0.12 * kb, angle), 15.0)

    def _round_the_spine(self, canvas: Canvas) -> None:
        """Psoas, quadratus lumborum and the muscles of the back; aorta and vena cava."""
        s, sx, sy = self.s, self.spine_x, self.spine_y
        x, y, coarse = canvas.x, canvas.y, canvas.coarse
        muscle = self.muscle_hu + 3 * coarse + 5 * canvas.fine
        bed = superellipse(x, y, sx, sy + 31 * s, 66 * s, 37 * s, 2.6)
        canvas.paint(bed, self.fat_hu + 4 * canvas.medium, "soft_tissue")
        side = np.abs(x - sx)
        septa = np.clip(1 - np.abs(canvas.strand) / 0.3, 0, 1) * np.clip(0.4 + 0.5 * coarse, 0, 1)
        for shape in (
            ellipse(side, y, self.body_a + 0.72 * self.psoas, sy + 3, self.psoas, 1.28 * self.psoas,
                    0.35),
            ellipse(side, y, 62 * s, sy + 20 * s, 17 * s, 8.5 * s, 0.75),
            superellipse(side, y, 34 * s, sy + 44 * s, 27 * s, 19.5 * s, 2.3),
            ellipse(side, y, 12.5 * s, sy + 47 * s, 11 * s, 17 * s, 0.12),
        ):  # fmt: skip
            canvas.paint(shape + 0.8 * coarse, muscle, "soft_tissue")
            canvas.paint(shape + 0.8 * coarse + 1, self.fat_hu + 20, opacity=0.7 * septa)
        front = sy - self.body_b
        aorta = np.hypot(x - sx - self.aorta_x, y - front + self.aorta + 2.5) - self.aorta
        canvas.paint(aorta, 48.0, "soft_tissue")
        canvas.paint(aorta + 1.3, self.artery_hu + 3 * canvas.fine)
        cava = ellipse(x, y, sx - 16 * s, front - 8 * s, 12.5 * s, 8.5 * s, -0.3)
        canvas.paint(cava, self.vein_hu + 3 * canvas.fine, "soft_tissue")

    def _vertebra(self, canvas: Canvas, z: float) -> None:
        """The vertebra or disc at this height, in its own turned coordinates."""
        s, fine = self.s, canvas.fine
        px, py = canvas.x - self.spine_x, canvas.y - self.spine_y
        c, t = np.cos(self.turn), np.sin(self.turn)
        x, y = c * px + t * py + 0.35 * canvas.coarse, c * py - t * px + 0.35 * canvas.coarse
        side = np.abs(x)  # distance to the midline
        height = z % LEVEL  # from the lower end plate
        waist = 1 - 0.07 * np.sin(np.pi * min(height / BONE, 1))
        a, b = self.body_a * waist, self.body_b * waist
        body = superellipse(x, y, 0, 0, a, b, 2.35)
        body = np.maximum(body, -ellipse(x, y, 0, b + 7, 13 * s, 8.8 * s))
        canal_y = b + self.canal_b * 0.62
        canal = union(
            ellipse(x, y, 0, canal_y, self.canal_a, self.canal_b),
            ellipse(x, y, 0, canal_y + 3.5 * s, 6 * s, 7.5 * s),
            4.0,
        )
        # Epidural fat, also in the foramen where no pedicle closes it.
        canvas.paint(canal - 1.2, self.fat_hu + 20, "soft_tissue")
        if _bump(height, 17, 8.5) <= 0.5:
            foramen = ellipse(side, y, self.canal_a + 4, canal_y - 2.5, 7 * s, 5.5 * s)
            canvas.paint(foramen, self.fat_hu + 12, "soft_tissue")
        if height > BONE:
            canvas.paint(body - 1, 100 + 6 * fine, "soft_tissue")
            canvas.paint(body + 6, 82 + 6 * fine)
        shapes = self._posterior(side, y, height, canal_y)
        posterior = functools.reduce(lambda one, other: union(one, other, 3.5), shapes, canal + 1e3)
        posterior = np.maximum(posterior, -(canal - 0.2))
        # Marrow runs from the body into the pedicles; end plates are denser.
        plate = 330 * np.exp(-((min(height, BONE - height) / 1.8) ** 2))
        bone = np.minimum(body, posterior) if height <= BONE else posterior
        self._bone(canvas, bone, np.where(body < posterior, plate, 90))
        canvas.labels[posterior < 0] = LABELS["posterior_elements"]
        if height <= BONE:
            canvas.labels[body < 0] = LABELS["vertebral_body"]
        canvas.paint(canal, self.fat_hu + 25 + 5 * canvas.medium, "canal")
        sac = ellipse(x, y, 0, canal_y - 0.6, 0.84 * self.canal_a, 0.84 * self.canal_b)
        canvas.paint(np.maximum(sac, canal + 0.6), 26 + 3 * fine)
        for cx, cy in ((-4.2, 2.2), (-1, 3.6), (2.2, 3.4), (5, 1.4)):  # nerve roots
            canvas.paint(np.hypot(x - cx * s, y - canal_y - cy * s) - 0.8, 42.0, opacity=0.7)

    def _posterior(
        self, side: np.ndarray, y: np.ndarray, height: float, canal_y: float
    ) -> list[np.ndarray]:
        """Pedicle, transverse process, lamina, spinous process and facet, as far as they are here.

        Each is thickest at its own height.
        """
        s, shapes = self.s, []
        hub, root_y = (self.canal_a + 4.5 * s, canal_y + 1.5 * s), canal_y + self.canal_b + 6.2 * s
        start = hub[0] + 1, hub[1] + 2 * s
        reach, angle = self.transverse, self.transverse_angle
        tip = hub[0] + reach * np.cos(angle), start[1] - reach * np.sin(angle)
        spinous = _bump(height, 5, 12.5)
        end = 0.0, root_y + self.spinous * spinous
        for size, one, other, r0, r1 in (
            (_bump(height, 17, 8.5), (0.72 * self.body_a, 0.55 * self.body_b), hub, 6.0, 5.6),
            (_bump(height, 15, 7), start, tip, 4.8, 3.0),
            (_bump(height, 7, 13), hub, (2.0, root_y), 5.0, 4.2),
            (spinous, (0.0, root_y), end, 4.0, 3.6),
        ):
            if size > 0.15:
                shapes.append(capsule(side, y, one, other, r0 * size * s, r1 * size * s))
        size = self.facet * max(_bump(height, 25, 12), _bump(height, 33, 10))  # of two vertebrae
        if size > 0.2 * self.facet:
            shapes.append(ellipse(side, y, hub[0] + 3.5 * s, hub[1] + 5.5 * s, size, size))
        return shapes

    def _bone(self, canvas: Canvas, shape: np.ndarray, denser: np.ndarray) -> None:
        """Cortical shell, subcortical bone and trabecular marrow, denser by some HU."""
        fine, medium = canvas.fine, canvas.medium
        inner = shape + 1.2 * self.cortex * (1 + 0.18 * medium)
        spongy = self.trabecular + self.texture * (0.7 * fine + 0.8 * medium) + denser
        canvas.paint(shape, self.cortex_hu * (1 + 0.1 * medium))
        canvas.paint(inner, spongy + (1 - np.clip(-inner / 2.5, 0, 1)) * 70)
