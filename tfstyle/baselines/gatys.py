"""Style transfer by optimizing pixels: Gatys, Ecker and Bethge, CVPR 2016."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from tfstyle._private.images import checked_whole, one_of
from tfstyle.baselines.base import Baseline, cut_encoder, known_taps
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError
from tfstyle.layers.padding import extend_to_stride
from tfstyle.losses import gram_loss, mse_loss

#: The layers of the paper, of VGG.
CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STARTS = ("content", "noise")

#: Gray levels by which the first step of L-BFGS may change a pixel.
FIRST_STEP = 0.05


class Gatys(Baseline):
    """The image that minimizes a content and a style loss, found by changing its pixels.

    With F, P and A the features of the generated image g, of the content and of the style::

        L(g) = w · Σ_l v_l · mean (F_l − P_l)² + α · Σ_l w_l · E_l
        E_l  = Σ (G_l − A_l)² / (4 N_l² M_l²)

    where G and A in E_l are the Gram matrices of N_l channels over M_l positions (equations 3 to
    5). The content term is the paper's equation 1 divided by half the number of feature values, so
    that weights mean the same at any size; the weight of a paper's ratio does not carry over.
    Features are divided by their layer's mean over the style image, which stands for the paper's
    network with weights scaled to mean activation 1; pooling is the encoder's, by maximum.

    Each image is optimized by itself, so that it does not depend on the others of a batch, and is
    the same in every run. It takes `steps` passes forward and back: a minute or more for a slice
    on a CPU.

    Args:
        encoder: An :class:`tfstyle.encoders.Encoder`, or its name.
        weights: Of an encoder given by name, see :class:`tfstyle.encoders.VGG16`.
        content_layers: Taps of the content loss, or a dict from tap to weight v; ``relu4_2``, or
            the default of a family that has no such tap. A list has equal weights with sum 1.
        style_layers: Taps of the style loss, the same; ``relu1_1`` to ``relu5_1``.
        content_weight: w.
        style_weight: α.
        steps: Steps of L-BFGS at most; pixels are kept in [0, 1].
        start: ``"content"``, or ``"noise"`` for uniform noise as in the paper.
        seed: Of the noise, which is the same for every image of one size.
        progress: Called as ``progress(step, steps, loss)`` after each step of an image; what it
            raises ends the optimization.

    Raises:
        ArgumentError: unknown names, or numbers out of range.
        WeightsError: weights that cannot be had.

    Example:
        >>> gatys = Gatys("vgg19", steps=300, start="noise")   # fetches weights   # doctest: +SKIP
        >>> generated = gatys.stylize(content, style)          # doctest: +SKIP

    `strength` s blends the styles with the content as one more style of weight 1 − s, so that 0
    leaves the content; several styles add up as E_l of each with its weight.

    Reference: Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks",
    CVPR 2016, equations 1, 3 to 5 and 7.
    """

    method = "gatys"

    def __init__(
        self,
        encoder: Encoder | str = "vgg19",
        weights: str | None = "imagenet",
        content_layers: Sequence[str] | Mapping[str, float] | None = None,
        style_layers: Sequence[str] | Mapping[str, float] | None = None,
        content_weight: float = 1.0,
        style_weight: float = 100.0,
        steps: int = 300,
        start: str = "content",
        seed: int = 0,
        progress: Callable[[int, int, float], None] | None = None,
    ):
        one_of("start", start, STARTS)
        for name, number in (("content_weight", content_weight), ("style_weight", style_weight)):
            if not 0.0 <= number < float("inf"):
                raise ArgumentError(f"{name}: must be at least 0, received {number!r}.")
        checked_whole("steps", steps, 1)

        def layers_of(family):
            content = content_layers or known_taps(
                family, CONTENT_LAYERS, family.default_content_layers
            )
            style = style_layers or known_taps(family, STYLE_LAYERS, family.default_style_layers)
            return [(one,) if isinstance(one, str) else one for one in (content, style)]

        self.encoder = cut_encoder(
            encoder, weights, lambda family: [tap for part in layers_of(family) for tap in part]
        )
        content, style = layers_of(self.encoder)
        self.content_layers = _shares(self.encoder, content, "content_layers")
        self.style_layers = _shares(self.encoder, style, "style_layers")
        self.content_weight, self.style_weight = float(content_weight), float(style_weight)
        self.steps, self.start, self.seed = int(steps), start, int(seed)
        self.progress = progress
        self._taps = sorted({*self.content_layers, *self.style_layers}, key=self.encoder.order)
        self._stride = max(self.encoder.tap(name).stride for name in self._taps)
        self._slope = tf.function(self._value_and_gradient, autograph=False)

    def features(self, images):
        """Feature maps at every layer of the losses; images are extended to whole strides."""
        return self.encoder(extend_to_stride(images, self._stride), taps=self._taps)

    def loss(self, generated, content, styles, scales=None):
        """L(g), a float32 scalar, of one image (1, H, W, 1), given :meth:`features` of the others.

        `styles` are pairs of a weight and features, `scales` the factors of taps, 1 by default.
        """
        scales = scales or dict.fromkeys(self._taps, 1.0)
        features = self.features(generated)

        def term(function, name, target):
            scale = scales[name]
            return function(features[name] * scale, target[name] * scale)

        total = 0.0
        if self.content_weight:
            total += self.content_weight * sum(
                share * term(mse_loss, name, content) for name, share in self.content_layers.items()
            )
        if self.style_weight:
            total += self.style_weight * sum(
                weight * share * term(gram_loss, name, style)
                for weight, style in styles
                for name, share in self.style_layers.items()
            )
        return ops.sum(total)

    def _value_and_gradient(self, generated, content, weights, styles, scales):
        styles = list(zip(tf.unstack(weights, num=len(styles)), styles))
        with tf.GradientTape() as tape:
            tape.watch(generated)
            value = self.loss(generated, content, styles, scales)
        gradient = tape.gradient(value, generated, unconnected_gradients="zero")
        return value, gradient

    def _generate(self, images, styles, strength, batch_size):
        results = np.empty_like(images)
        for number, image in enumerate(images.clip(0.0, 1.0)):
            own = [(w, one[number if len(one) > 1 else 0][None]) for w, one in styles]
            results[number] = self._optimize(image[None], own, strength)[0]
        return results

    def _optimize(self, image, styles, strength):
        """The optimized image (1, H, W, 1)."""
        content = self.features(tf.constant(image))
        targets = [self.features(tf.constant(style)) for _, style in styles]
        shares = [weight for weight, _ in styles]
        scales = {}
        for name in self._taps:
            mean = sum(w * tf.reduce_mean(target[name]) for w, target in zip(shares, targets))
            scales[name] = 1.0 / tf.maximum(mean, 1e-8)
        shares = [strength * share for share in shares]
        if strength < 1.0:
            targets, shares = [*targets, content], [*shares, 1.0 - strength]
        weights = tf.constant(shares, tf.float32)

        def slope(pixels):
            value, gradient = self._slope(pixels, content, weights, targets, scales)
            return float(value), gradient

        start = image
        if self.start == "noise":
            start = np.random.default_rng(self.seed).random(image.shape, np.float32)
        return self._minimize(start, slope)

    def _minimize(self, start, slope):
        from scipy.optimize import Bounds, minimize

        # The network computes in float32, L-BFGS in float64. The tolerances are 0, since their
        # defaults lie far below the rounding of float32: it ends after `steps`, or where rounding
        # leaves nothing to gain.
        def evaluate(pixels):
            value, gradient = slope(tf.constant(pixels.reshape(start.shape), tf.float32))
            return factor * value, factor * np.asarray(gradient, np.float64).ravel()

        factor = 1.0
        first = start.astype(np.float64).ravel()
        steepest = np.abs(evaluate(first)[1]).max()
        if steepest == 0.0:
            return start
        factor = FIRST_STEP / float(steepest)
        done = 0

        def report(intermediate_result):
            nonlocal done
            done += 1
            if self.progress is not None:
                self.progress(done, self.steps, float(intermediate_result.fun) / factor)

        found = minimize(
            evaluate,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(0.0, 1.0),
            callback=report,
            options={"maxiter": self.steps, "maxfun": 4 * self.steps, "ftol": 0.0, "gtol": 0.0},
        )
        return found.x.reshape(start.shape).astype(np.float32)


def _shares(encoder, layers, argument: str) -> dict[str, float]:
    """Taps and their weights; a list shares out 1, as the paper's w_l."""
    taps = encoder.weigh(layers, argument)
    if isinstance(layers, Mapping):
        return taps
    return {name: 1.0 / len(taps) for name in taps}
