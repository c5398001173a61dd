"""Which pixels of a CT slice show the body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfstyle.errors import ArgumentError

#: Field of view that is assumed where the size of a pixel is not known, mm.
FIELD_OF_VIEW = 400.0
#: HU of tissue lie above.
TISSUE = -500.0
#: Air around a body lies below, lung above, as the median of a region in HU.
AIR = -920.0
#: Parts of the picture that are thinner count as table, clothes or tubes, mm.
THIN = 8.0
#: Least share of the largest part's size that another part of the body has.
LEAST_PART = 0.04


def body_mask(hu: npt.ArrayLike, spacing: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """The bodies of a slice, lungs and gas inside them included, table and air left out.

    Pixels above −500 HU, without what is thinner than 8 mm; of the connected parts the largest and
    those of at least 4 % of its size. What these enclose belongs to them, and regions at the
    border of the picture do where they are not air (median above −920 HU): a lung that is cut off.

    Args:
        hu: array (H, W) in HU.
        spacing: Distances of rows and of columns in mm. By default those of a picture whose longer
            side is 400 mm.

    Returns:
        bool array (H, W); nowhere True in an empty slice.

    Raises:
        ArgumentError: an array that is not a slice.

    Example:
        >>> hu = np.full((64, 64), -1000)
        >>> hu[16:48, 16:48] = 40
        >>> hu[24:32, 24:32] = -850
        >>> int(body_mask(hu, spacing=(5.0, 5.0)).sum())
        1024
    """
    from scipy import ndimage

    hu = np.asarray(hu)
    if hu.ndim != 2 or not hu.size:
        raise ArgumentError(f"hu: must be an array (H, W), received shape {hu.shape}.")
    if spacing is None:
        spacing = (FIELD_OF_VIEW / max(hu.shape),) * 2
    tissue = hu > TISSUE
    rows, columns = (max(1, round(THIN / 2 / s)) for s in spacing)
    y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
    disc = (y / rows) ** 2 + (x / columns) ** 2 <= 1.0
    # Beyond the border the picture goes on as it is there.
    padded = np.pad(tissue, ((rows, rows), (columns, columns)), mode="edge")
    thick = ndimage.binary_opening(padded, disc)[rows:-rows, columns:-columns]
    parts, count = ndimage.label(thick)
    if not count:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(parts.ravel())[1:]
    large = np.isin(parts, 1 + np.flatnonzero(sizes >= LEAST_PART * sizes.max()))
    body = large | (tissue & ndimage.binary_dilation(large, disc))
    others, _ = ndimage.label(~body)
    border = np.unique([*others[0], *others[-1], *others[:, 0], *others[:, -1]])
    border = border[border > 0]
    air = border[np.asarray(ndimage.median(hu, others, border)) < AIR]
    return ~np.isin(others, air)
