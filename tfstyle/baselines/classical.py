"""The methods that users try first, without any network: from scikit-image, and window jitter."""

from __future__ import annotations

import math

import numpy as np

from tfstyle.baselines.base import Baseline, require
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError


class PixelBaseline(Baseline):
    """A method on single images; strength and several styles are blended pixel by pixel.

    ``generated = (1 − s)·content + s·Σ_k w_k·apply(content, style_k)``.
    """

    def apply(self, content: np.ndarray, style: np.ndarray | None, number: int) -> np.ndarray:
        """The method itself.

        Args:
            content: float32 image (H, W) in [0, 1].
            style: float32 image (H', W') in [0, 1], or None where ``needs_style`` is False.
            number: Which image of the call it is, from 0.

        Returns:
            float image (H, W).
        """
        raise TypeError(f"{type(self).__name__} must define apply().")

    def _generate(self, images, styles, strength, batch_size):
        results = np.empty(images.shape, np.float64)
        styles = styles if self.needs_style else [(1.0, [None])]
        for number, image in enumerate(images[..., 0].clip(0.0, 1.0)):
            changed = 0.0
            for weight, batch in styles:
                own = batch[number if len(batch) > 1 else 0]
                own = own if own is None else own[..., 0]
                changed = changed + weight * self.apply(image, own, number)
            results[number, ..., 0] = (1.0 - strength) * image + strength * changed
        return results


class HistogramMatching(PixelBaseline):
    """Gives the content the style's histogram: ``T(r) = F_style⁻¹(F_content(r))``.

    F are the cumulative distributions of gray levels; T is one rising curve for the whole image.
    A gray level that many pixels share, such as air, goes to the upper end of its share, so that a
    background may brighten where the style has less of it. With several styles the result has
    their barycenter, as far as gray levels are not shared.

    Raises:
        ArgumentError: if scikit-image is not installed.

    Example:
        >>> HistogramMatching().stylize(content, style).shape
        (64, 64)

    Reference: Gonzalez and Woods, "Digital image processing", 4th edition, section 3.3, equation
    3-21; ``skimage.exposure.match_histograms``.
    """

    method = "histogram_matching"

    def __init__(self):
        require("skimage", self.method)

    def apply(self, content, style, number):
        from skimage.exposure import match_histograms

        return match_histograms(content, style)


class CLAHE(PixelBaseline):
    """Contrast limited adaptive histogram equalization; takes no style.

    Every tile of the image is equalized by its own histogram, clipped at `clip_limit`, and the
    curves of neighboring tiles are interpolated. As in scikit-image the content's darkest and
    brightest pixel become 0 and 1.

    Args:
        kernel_size: Side of the tiles in pixels. Defaults to an eighth of the image's.
        clip_limit: Largest share of a tile's pixels in one bin, in (0, 1]; 1 does not limit.
        bins: Gray levels of the histograms, from 2 to 65536.

    Raises:
        ArgumentError: values out of range, or scikit-image is not installed.

    Example:
        >>> CLAHE(clip_limit=0.02).stylize(content).shape
        (64, 64)

    Reference: Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV
    (1994); ``skimage.exposure.equalize_adapthist``.
    """

    method = "clahe"
    needs_style = False

    def __init__(self, kernel_size: int | None = None, clip_limit: float = 0.01, bins: int = 256):
        require("skimage", self.method)
        if kernel_size is not None and not kernel_size >= 1:
            raise ArgumentError(f"kernel_size: must be at least 1, received {kernel_size!r}.")
        if not 0.0 < clip_limit <= 1.0:
            raise ArgumentError(f"clip_limit: must lie in (0, 1], received {clip_limit!r}.")
        if not 2 <= bins <= 65536:
            raise ArgumentError(f"bins: must lie in 2 to 65536, received {bins!r}.")
        self.kernel_size = kernel_size
        self.clip_limit = float(clip_limit)
        self.bins = int(bins)

    def apply(self, content, style, number):
        from skimage.exposure import equalize_adapthist

        if content.min() == content.max():  # nothing to spread; scikit-image divides by 0
            return content
        return equalize_adapthist(content, self.kernel_size, self.clip_limit, self.bins)


class RandomBaseline(PixelBaseline):
    """A random change: one draw for each image, or one for all.

    Args:
        seed: Of the draws. Image number n since the object was made has the draw that `seed` and
            n decide.
        fixed: One draw for all images, such as the slices of a scan.
    """

    needs_style = False

    def __init__(self, seed: int = 0, fixed: bool = False):
        self.seed = int(seed)
        self.fixed = bool(fixed)
        self.seen = 0

    def fingerprint(self) -> str | None:
        """None where the images seen so far decide; see :meth:`Baseline.fingerprint`."""
        return super().fingerprint() if self.fixed else None

    def rng(self, number: int) -> np.random.Generator:
        """The source of randomness of image `number` of the call under way."""
        return np.random.default_rng([self.seed % 2**63, 0 if self.fixed else self.seen + number])

    def _generate(self, images, *rest):
        results = super()._generate(images, *rest)
        self.seen += len(images)
        return results


class RandomGamma(RandomBaseline):
    """A power law with a random exponent, ``y = x^γ``; takes no style.

    log γ is uniform over ``[log low, log high]``, so that brightening and darkening are equally
    likely for ``low = 1 / high``.

    Args:
        low: Smallest γ, above 0.
        high: Largest γ.
        seed: Of the draws; see :class:`RandomBaseline`.
        fixed: One draw for all images, such as the slices of a scan.

    Raises:
        ArgumentError: a range that cannot be used, or scikit-image is not installed.

    Example:
        >>> RandomGamma(0.7, 1.5, seed=3).stylize(content).shape
        (64, 64)

    Reference: Gonzalez and Woods, "Digital image processing", 4th edition, equation 3-5;
    ``skimage.exposure.adjust_gamma``.
    """

    method = "random_gamma"

    def __init__(self, low: float = 0.5, high: float = 2.0, seed: int = 0, fixed: bool = False):
        require("skimage", self.method)
        super().__init__(seed, fixed)
        if not 0.0 < low <= high < math.inf:
            raise ArgumentError(
                f"low and high: need 0 < low <= high, received {low!r} and {high!r}."
            )
        self.low, self.high = float(low), float(high)

    def gamma(self, number: int) -> float:
        """The exponent of image `number` of the next call."""
        draw = self.rng(number).uniform(math.log(self.low), math.log(self.high))
        return math.exp(draw)

    def apply(self, content, style, number):
        from skimage.exposure import adjust_gamma

        return adjust_gamma(content, self.gamma(number))


class WindowJitter(RandomBaseline):
    """The content in a random window near its own; takes no style.

    The width changes by a factor up to ``exp(±jitter)``, the center by up to `jitter` half widths,
    as in :func:`tfstyle.data.pair_dataset`. A window is linear, so that in gray levels the change
    is the same for any window in HU: ``y = (x − c) / w + 0.5``, clipped, with c near 0.5 and
    w near 1. What the content's window had clipped stays black or white; with the scan at hand,
    :meth:`window` gives the new window in HU, which has more to show.

    Args:
        jitter: Size of the change, in [0, 2).
        seed: Of the draws; see :class:`RandomBaseline`.
        fixed: One draw for all images, such as the slices of a scan.

    Raises:
        ArgumentError: if `jitter` cannot be used.

    Example:
        >>> WindowJitter(0.3, seed=1).stylize(content).shape
        (64, 64)
        >>> window = WindowJitter(0.3, seed=1).window(tfstyle.data.WINDOWS["bone"])
        >>> window.to_unit(hu).shape
        (64, 64)
    """

    method = "window_jitter"

    def __init__(self, jitter: float = 0.3, seed: int = 0, fixed: bool = False):
        super().__init__(seed, fixed)
        if not 0.0 <= jitter < 2.0:
            raise ArgumentError(f"jitter: must lie in [0, 2), received {jitter!r}.")
        self.jitter = float(jitter)

    def window(self, window: Window, number: int = 0) -> Window:
        """The random window in place of `window`, for image `number` of the next call."""
        return window.jittered(self.jitter, self.rng(number))

    def apply(self, content, style, number):
        return self.window(Window(0.5, 1.0), number).to_unit(content)
