"""Augmentations of gray levels that experts would use instead, each on its paper's equation.

    function = IMAGE_AUGMENTATIONS["bezier"]
    changed = function(image, np.random.default_rng(0))

All take and return float32 images (H, W) in [0, 1]; what a method computes on normalized images is
computed on z-scores and given back the image's mean and deviation. Those of
:data:`BANK_AUGMENTATIONS` also take an image of another scan. :class:`MixStyleUNet` mixes features.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops
from PIL import Image
from scipy import ndimage

from tfstyle.baselines import ForegroundHistogramMatching
from tfstyle.segmentation import UNet

Generator = np.random.Generator

#: Share of the images that are changed, where a paper names none.
P = 0.75


def _scores(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """z-scores float64, mean and deviation; a flat image has the deviation 1."""
    image = image.astype(np.float64)
    mean, deviation = float(image.mean()), float(image.std()) or 1.0
    return (image - mean) / deviation, mean, deviation


def _unit(scores: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.clip(scores * deviation + mean, 0.0, 1.0).astype(np.float32)


def nnunet(image: np.ndarray, rng: Generator, rate: float = 1.0) -> np.ndarray:
    """nnU-Net's intensity transforms with its probabilities, those a channel included.

    Noise σ ≤ 0.1, blur σ 0.5 to 1 pixel, brightness and contrast by 0.75 to 1.25, resolution down
    to a half, gamma 0.7 to 1.5 of the inverted image and of the image; on z-scores. `rate` is a
    factor of all probabilities.

    Reference: Isensee et al., "nnU-Net", Nature Methods 18 (2021), supplementary note 4; values of
    ``nnUNetTrainer.get_training_transforms`` 2.5.
    """
    x, mean, deviation = _scores(image)
    applied = rng.random(7) < rate * np.array([0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3])
    if not applied.any():
        return image

    def factor(low: float, high: float) -> float:
        return rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high)

    def gamma(x: np.ndarray) -> np.ndarray:
        low, spread = x.min(), np.ptp(x)
        y = ((x - low) / max(spread, 1e-7)) ** factor(0.7, 1.5) * spread + low
        return (y - y.mean()) / max(y.std(), 1e-7) * x.std() + x.mean()

    if applied[0]:
        x = x + rng.normal(0.0, rng.uniform(0.0, 0.1), x.shape)
    if applied[1]:
        x = ndimage.gaussian_filter(x, rng.uniform(0.5, 1.0))
    if applied[2]:
        x = x * factor(0.75, 1.25)
    if applied[3]:
        middle = x.mean()
        x = np.clip((x - middle) * factor(0.75, 1.25) + middle, x.min(), x.max())
    if applied[4]:
        rows, columns = (max(1, round(n * rng.uniform(0.5, 1.0))) for n in x.shape)
        picture = Image.fromarray(x.astype(np.float32))
        picture = picture.resize((columns, rows), Image.Resampling.NEAREST)
        x = np.asarray(picture.resize(x.shape[::-1], Image.Resampling.BICUBIC), np.float64)
    if applied[5]:
        x = -gamma(-x)
    if applied[6]:
        x = gamma(x)
    return _unit(x, mean, deviation)


def bezier(image: np.ndarray, rng: Generator, p: float = 0.9, falling: float = 0.5) -> np.ndarray:
    """Cubic Bézier curves of the gray levels, as Models Genesis draws them.

    The curve leads from (0, 0) to (1, 1) with two random points between; with the probability
    `falling` the gray levels are sorted the other way round, so that bright becomes dark.

    Reference: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021), section 3.2.
    """
    if rng.random() >= p:
        return image
    inner = rng.random((2, 2))
    t = np.linspace(0.0, 1.0, 512)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x = weights.T @ np.array([0.0, *inner[0], 1.0])
    y = np.sort(weights.T @ np.array([0.0, *inner[1], 1.0]))
    if rng.random() < falling:
        y = y[::-1]
    return np.interp(image, np.sort(x), y).astype(np.float32)


def gin(x: np.ndarray, rng: Generator) -> np.ndarray:
    """Global intensity non-linear augmentation of z-scores: a random shallow network, blended.

    ``y = α·net(x) + (1 − α)·x``, brought to the Frobenius norm of x; α is uniform in [0, 1].

    Reference: Ouyang et al., "Causality-inspired single-source domain generalization for medical
    image segmentation", IEEE TMI 42:4 (2023), equations 2 and 3.
    """
    alpha, planes, sizes = rng.random(), [x], (2, 2, 2, 1)
    for layer, size in enumerate(sizes, 1):
        side = int(rng.choice([1, 3]))
        kernels = rng.normal(size=(size, len(planes), side, side))
        shifts = rng.normal(size=size)
        planes = [
            sum(ndimage.convolve(p, k, mode="constant") for p, k in zip(planes, own)) + shift
            for own, shift in zip(kernels, shifts)
        ]
        if layer < len(sizes):
            planes = [np.where(p > 0, p, 0.01 * p) for p in planes]
    mixed = alpha * planes[0] + (1.0 - alpha) * x
    return mixed * np.linalg.norm(x) / (np.linalg.norm(mixed) + 1e-5)


def gin_ipa(image: np.ndarray, rng: Generator) -> np.ndarray:
    """GIN twice, blended by a smooth random map (interventional pseudo-correlation, IPA).

    The map is a cubic spline through 4×4 random values in [0, 1]. The consistency loss between two
    views, the third part of the paper, is left out.

    Reference: as :func:`gin`, equation 5.
    """
    x, mean, deviation = _scores(image)
    first, second = gin(x, rng), gin(x, rng)
    zoom = [n / 4 for n in x.shape]
    share = ndimage.zoom(rng.random((4, 4)), zoom, order=3, mode="nearest", grid_mode=True)
    share = share.clip(0.0, 1.0)
    return _unit(share * first + (1.0 - share) * second, mean, deviation)


def randconv(image: np.ndarray, rng: Generator, p: float = 0.5) -> np.ndarray:
    """One random convolution of 1, 3, 5 or 7 pixels, mixed with the image: ``RC_mix``.

    ``y = α·x + (1 − α)·(w * x)``, w normal with the variance 1/k², α uniform in [0, 1]; on
    z-scores.

    Reference: Xu et al., "Robust and generalizable visual representation learning via random
    convolutions", ICLR 2021, section 3.
    """
    if rng.random() >= p:
        return image
    x, mean, deviation = _scores(image)
    side = int(rng.choice([1, 3, 5, 7]))
    alpha = rng.random()
    kernel = rng.normal(0.0, 1.0 / side, (side, side))
    changed = ndimage.convolve(x, kernel, mode="constant")
    return _unit(alpha * x + (1.0 - alpha) * changed, mean, deviation)


def fda(
    image: np.ndarray, rng: Generator, style: np.ndarray, p: float = P, betas=(0.01, 0.05, 0.09)
) -> np.ndarray:
    """Fourier domain adaptation: the amplitudes of the lowest frequencies from another image.

    Reference: Yang and Soatto, "FDA: Fourier domain adaptation for semantic segmentation", CVPR
    2020, equation 3.
    """
    if rng.random() >= p:
        return image
    height, width = image.shape
    style = Image.fromarray(style.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    own, other = (np.fft.fftshift(np.fft.fft2(np.asarray(part))) for part in (image, style))
    amplitude = np.abs(own)
    reach = int(min(height, width) * rng.choice(betas))
    rows, columns = (slice(n // 2 - reach, n // 2 + reach + 1) for n in (height, width))
    amplitude[rows, columns] = np.abs(other)[rows, columns]
    changed = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(own)))).real
    return changed.clip(0.0, 1.0).astype(np.float32)


def histogram_matching(
    image: np.ndarray, rng: Generator, style: np.ndarray, p: float = P
) -> np.ndarray:
    """Histogram matching of the foreground to another image's."""
    if rng.random() >= p:
        return image
    return ForegroundHistogramMatching().stylize(image, style)


#: Augmentations of an image by itself: ``function(image, rng)``.
IMAGE_AUGMENTATIONS = {f.__name__: f for f in (nnunet, bezier, gin_ipa, randconv)}
#: Augmentations by an image of another scan: ``function(image, rng, style)``.
BANK_AUGMENTATIONS = {f.__name__: f for f in (fda, histogram_matching)}


@keras.saving.register_keras_serializable(package="tfstyle_studies")
class MixStyle(keras.layers.Layer):
    """Mixes mean and deviation of each feature channel with those of another image of the batch.

    ``y = γ·(x − μ)/σ + β`` with ``γ = λ·σ + (1 − λ)·σ'``, ``β = λ·μ + (1 − λ)·μ'``; λ is drawn from
    Beta(α, α) for each image. In training alone, for the share `p` of the batches.

    Reference: Zhou, Yang, Qiao and Xiang, "Domain generalization with MixStyle", ICLR 2021.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.p, self.alpha, self.seed = p, alpha, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x, training=None):
        if not training or self.p == 0:
            return x
        count, seed = ops.shape(x)[0], self.seed_generator
        share = keras.random.beta((count, 1, 1, 1), self.alpha, self.alpha, seed=seed)
        applied = keras.random.uniform((), seed=seed) < self.p
        order = ops.argsort(keras.random.uniform((count,), seed=seed))
        mean, variance = ops.moments(x, axes=(1, 2), keepdims=True)
        deviation = ops.sqrt(variance + 1e-6)
        mean, deviation = ops.stop_gradient(mean), ops.stop_gradient(deviation)
        others = ops.take(mean, order, axis=0), ops.take(deviation, order, axis=0)
        own = [share * a + (1.0 - share) * b for a, b in zip((mean, deviation), others)]
        return ops.where(applied, (x - mean) / deviation * own[1] + own[0], x)

    def get_config(self):
        return {**super().get_config(), "p": self.p, "alpha": self.alpha, "seed": self.seed}


class MixStyleUNet(UNet):
    """A U-Net with :class:`MixStyle` behind the first two levels of the contracting path."""

    def build(self, input_shape):
        if not self.built:
            self.mixing = [MixStyle(seed=level, name=f"mix{level}") for level in range(2)]
        super().build(input_shape)

    def contract(self, level, x, training=None):
        x = super().contract(level, x, training)
        return self.mixing[level](x, training=training) if level < len(self.mixing) else x
