"""Methods that fit one curve to the gray levels of two images, without any network."""

from __future__ import annotations

import numpy as np

from tfstyle.baselines.base import Baseline
from tfstyle.errors import ArgumentError, require_packages

#: Gray levels up to here are background: air around the body, what a window has clipped to black.
FLOOR = 0.01
#: Percentiles of Nyúl's landmarks.
LANDMARKS = (1.0, *range(10, 100, 10), 99.0)


class PixelBaseline(Baseline):
    """A method on single images; strength and several styles are blended pixel by pixel.

    ``generated = (1 − s)·content + s·Σ_k w_k·apply(content, style_k)``.
    """

    def apply(self, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        """The image (H, W) that a content (H, W) becomes by a style, float32 in [0, 1]."""
        raise TypeError(f"{type(self).__name__} must define apply().")

    def _generate(self, images, styles, strength, batch_size):
        results = np.empty(images.shape, np.float64)
        for number, image in enumerate(images[..., 0].clip(0.0, 1.0)):
            changed = 0.0
            for weight, batch in styles:
                own = batch[number if len(batch) > 1 else 0, ..., 0]
                changed = changed + weight * self.apply(image, own)
            results[number, ..., 0] = (1.0 - strength) * image + strength * changed
        return results


class HistogramMatching(PixelBaseline):
    """Gives the content the style's histogram: ``T(r) = F_style⁻¹(F_content(r))``.

    F are the cumulative distributions of gray levels; T is one rising curve for the whole image.
    A gray level that many pixels share, such as air, goes to the upper end of its share, so that a
    background may brighten where the style has less of it. With several styles the result has
    their barycenter, as far as gray levels are not shared.

    Raises:
        MissingPackageError: if scikit-image is not installed.

    Example:
        >>> HistogramMatching().stylize(content, style).shape
        (64, 64)

    Reference: Gonzalez and Woods, "Digital image processing", 4th edition, section 3.3, equation
    3-21; ``skimage.exposure.match_histograms``.
    """

    method = "histogram_matching"

    def __init__(self):
        require_packages({"skimage": "scikit-image"}, "baselines", self.method)

    def apply(self, content, style):
        from skimage.exposure import match_histograms

        return match_histograms(content, style)


class ForegroundBaseline(PixelBaseline):
    """A curve between the gray levels of the foregrounds; a subclass gives ``curve``.

    Foreground are the pixels above `floor`, in content and style alike. The content's other pixels
    stay as they are, and all of them do where either image has no foreground.

    Args:
        floor: Gray level up to which a pixel is background, below 1; a negative one makes every
            pixel foreground.

    Raises:
        ArgumentError: a floor that cannot be used.
    """

    def __init__(self, floor: float = FLOOR):
        if not -1.0 <= floor < 1.0:
            raise ArgumentError(f"floor: must lie in [-1, 1), received {floor!r}.")
        self.floor = float(floor)

    def apply(self, content, style):
        inside, reference = content > self.floor, style > self.floor
        if not inside.any() or not reference.any():
            return content
        changed = content.astype(np.float64)
        changed[inside] = self.curve(changed[inside], style[reference].astype(np.float64))
        return changed.clip(0.0, 1.0)

    def curve(self, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        """The gray levels (n,) that those of a content become by a style's (m,); clipped after."""
        raise TypeError(f"{type(self).__name__} must define curve().")


class ForegroundHistogramMatching(ForegroundBaseline):
    """Histogram matching over the foreground alone: ``T(r) = F_style⁻¹(F_content(r))``.

    F are the cumulative distributions of the gray levels above `floor`, so that the share of air
    in the two images does not matter; see :class:`HistogramMatching`.

    Raises:
        ArgumentError: a floor that cannot be used.
        MissingPackageError: if scikit-image is not installed.

    Example:
        >>> ForegroundHistogramMatching().stylize(content, style).shape
        (64, 64)
    """

    method = "foreground_histogram_matching"

    def __init__(self, floor: float = FLOOR):
        require_packages({"skimage": "scikit-image"}, "baselines", self.method)
        super().__init__(floor)

    def curve(self, content, style):
        from skimage.exposure import match_histograms

        return match_histograms(content, style)


class MeanAndSpread(ForegroundBaseline):
    """Gives the content the style's mean μ and standard deviation σ.

    ``y = (x − μ_content)·σ_style / σ_content + μ_style``, clipped to [0, 1]; μ_style where the
    content is constant.

    Args:
        foreground: Whether mean and deviation are those of the pixels above `floor`, and those
            pixels alone change. Defaults to all pixels.
        floor: See :class:`ForegroundBaseline`.

    Raises:
        ArgumentError: a floor that cannot be used.

    Example:
        >>> MeanAndSpread(foreground=True).stylize(content, style).shape
        (64, 64)

    Reference: Reinhard, Ashikhmin, Gooch and Shirley, "Color transfer between images", IEEE
    Computer Graphics and Applications 21:5 (2001), equations 10 and 11.
    """

    method = "mean_and_spread"

    def __init__(self, foreground: bool = False, floor: float = FLOOR):
        super().__init__(floor)
        if not foreground:
            self.floor = -1.0

    def curve(self, content, style):
        # By its range: the deviation of a constant image need not be exactly 0.
        gain = style.std() / content.std() if np.ptp(content) > 0 else 0.0
        return (content - content.mean()) * gain + style.mean()


class Nyul(ForegroundBaseline):
    """Landmark matching of Nyúl and Udupa, between one content and one style.

    The percentiles 1, 10, 20, …, 90, 99 of the foregrounds are landmarks c_k of the content and s_k
    of the style; between two of them

        y = s_k + (x − c_k)·(s_{k+1} − s_k) / (c_{k+1} − c_k),

    and beyond the outermost the line of the first or last piece continues; clipped to [0, 1].
    Landmarks of the content that coincide become one, with the mean of their s_k; where only one
    is left, ``y = x + s − c``. The authors train a standard scale s_k on many images of one
    protocol; here the style image alone is the standard.

    Raises:
        ArgumentError: a floor that cannot be used.

    Example:
        >>> Nyul().stylize(content, style).shape
        (64, 64)

    Reference: Nyúl, Udupa and Zhang, "New variants of a method of MRI scale standardization",
    IEEE Transactions on Medical Imaging 19:2 (2000), method L4 with deciles.
    """

    method = "nyul"

    def curve(self, content, style):
        landmarks, group = np.unique(np.percentile(content, LANDMARKS), return_inverse=True)
        standard = np.bincount(group, np.percentile(style, LANDMARKS)) / np.bincount(group)
        if len(landmarks) == 1:
            return content + standard[0] - landmarks[0]
        slopes = np.diff(standard) / np.diff(landmarks)
        piece = np.clip(np.searchsorted(landmarks, content) - 1, 0, len(slopes) - 1)
        return standard[piece] + (content - landmarks[piece]) * slopes[piece]
