"""Which gray level of a style belongs to which of a content, by contextual similarity."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from tfstyle.tone.curve import ToneCurve, evaluate, rising, strictly_rising

#: Knots of a curve; each stands for TOKENS / KNOTS tokens of neighboring gray levels.
KNOTS = 32
#: Above this probability that both have one gray scale the content stays as it is, and where the
#: curve changes less than the error that it expects. Chosen on the patients "shoulder" and "head",
#: whose models do not know them, for all others.
ALIKE = 0.1
#: Standard deviation of an image's tokens, below which it shows hardly more than one gray level.
LEAST_SPREAD = 0.05
#: Gray levels up to here are the floor of the scale: air, or what the window makes black.
FLOOR = 0.01
#: Gray levels and ranks by which an image is recognized as CT, beside its features.
CT_LEVELS = 16
#: Added to the weight of the evidence from the style's side, as evidence from the content's.
PRIOR = 0.05


def by_knot(tokens):
    """Means over the tokens of each knot: (B, M, C) to (B, KNOTS, C)."""
    shape = tokens.shape
    return ops.mean(ops.reshape(tokens, (-1, KNOTS, shape[1] // KNOTS, shape[2])), axis=2)


@keras.saving.register_keras_serializable(package="tfstyle")
class ToneMatcher(keras.layers.Layer):
    """Estimates the tone curve that gives a content the gray scale of a style.

    Every token i of the content is compared with every token j of the style by the cosine of their
    features, and the similarities become affinities, as in the contextual loss (Mechrez 2018)::

        CA_ij = exp(cos_ij / h) / Σ_k exp(cos_ik / h)

    The gray level to expect for token i is then ``Σ_j CA_ij·y_j``. The same is done from the
    style's side, and within each image, which shows how far expectation blurs. Where both show
    the same part of a body, ranks say much too: the levels that histogram matching would give, of
    all pixels and of those above the floor, are further evidence. A small network along the gray
    scale weighs it all, and gives a rising curve.

    Args:
        width: Channels of the network along the gray scale.
        blocks: Its residual blocks.
        **kwargs: Of ``keras.layers.Layer``; the layer computes in float32.

    Call arguments:
        inputs: pair of float tensors (B, TOKENS, 2 + D) of :class:`ToneEncoder`: of the contents
            and of the styles.

    Returns:
        :class:`tfstyle.tone.ToneCurve` with ``KNOTS`` knots.
    """

    def __init__(self, width: int = 64, blocks: int = 3, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.width, self.blocks = int(width), int(blocks)
        self.of_content = self._dense(width, "of_content")
        self.of_style = self._dense(width, "of_style")
        numbers = range(self.blocks)
        self.norms = [layers.LayerNormalization(dtype="float32", name=f"norm_{i}") for i in numbers]
        self.along = [
            layers.Conv1D(
                width,
                5,
                padding="same",
                data_format="channels_last",
                dtype="float32",
                name=f"along_{i}",
            )
            for i in numbers
        ]
        self.whole = [self._dense(width, f"whole_{i}") for i in numbers]
        self.back = [self._dense(width, f"back_{i}") for i in numbers]
        self.draft = self._dense(7, "draft", kernel_initializer="zeros")
        self.of_draft = self._dense(width, "of_draft")
        self.out = self._dense(9, "out", kernel_initializer="zeros")
        self.alike = [self._dense(32, "alike_0", activation="relu"), self._dense(1, "alike_1")]
        self.ct = [self._dense(64, "ct_0", activation="relu"), self._dense(1, "ct_1")]

    @staticmethod
    def _dense(units: int, name: str, **options):
        return layers.Dense(units, dtype="float32", name=name, **options)

    def build(self, input_shape):
        self.sharpness = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(math.log(12.0)), name="sharpness"
        )
        self.of_content.build((None, KNOTS, 18))
        self.of_style.build((None, 4 * KNOTS))
        for norm, along, whole, back in zip(self.norms, self.along, self.whole, self.back):
            norm.build((None, KNOTS, self.width))
            along.build((None, KNOTS, self.width))
            whole.build((None, self.width))
            back.build((None, KNOTS, self.width))
        self.draft.build((None, KNOTS, self.width))
        self.of_draft.build((None, KNOTS, 7))
        self.out.build((None, KNOTS, self.width))
        self.alike[0].build((None, 3 * self.width))
        self.alike[1].build((None, 32))
        self.alike[1].bias.assign([-1.5])
        features = input_shape[0][-1] - 2
        self.ct[0].build((None, 2 * features + 2 * CT_LEVELS))
        self.ct[1].build((None, 64))
        self.ct[1].bias.assign([3.0])
        # Begins as the expectation from the content's side, and an error of 0.08.
        self.draft.bias.assign(np.array([1, 0, 0, 0, 0, 0, 0], np.float32))
        self.out.bias.assign(np.array([1, 0, 0, 0, 0, 0, 0, 0, -2.5], np.float32))
        self.built = True

    def call(self, inputs):
        content, style = inputs
        curve = self.curve(content, style, self.own(content), self.own(style))
        change = ops.mean(ops.abs(curve.values - curve.levels), axis=1, keepdims=True)
        doubted = change < ops.mean(curve.errors, axis=1, keepdims=True)
        same = ops.logical_or(curve.alike > ALIKE, doubted)
        return curve._replace(values=ops.where(same, curve.levels, curve.values))

    def own(self, tokens):
        """Gray level to expect and its spread where an image is matched with itself: (B, M, 2)."""
        gray, feature = _given(tokens)[..., :1], tokens[..., 2:]
        cosine = ops.matmul(feature, ops.transpose(feature, (0, 2, 1)))
        affinity = ops.softmax(ops.exp(self.sharpness) * cosine, axis=-1)
        return _mean_and_spread(ops.matmul(affinity, ops.concatenate([gray, gray**2], axis=-1)))

    def evidence(self, content, style):
        """What each token of the content should become: from either side, with the cosines.

        From the content's side the expectation and its spread (B, M, 2), the cosines (B, M, M), and
        from the style's side the weight and the weighted sum (B, M, 2).
        """
        gray = _given(style)[..., :1]
        cosine = ops.matmul(content[..., 2:], ops.transpose(style[..., 2:], (0, 2, 1)))
        sharp = ops.exp(self.sharpness) * cosine
        # Softmax, which divides by no sum of nothing where no token resembles another.
        forward = ops.matmul(ops.softmax(sharp, axis=-1), ops.concatenate([gray, gray**2], -1))
        shares = ops.concatenate([ops.ones_like(gray), gray], axis=-1)
        backward = ops.matmul(ops.softmax(sharp, axis=1), shares)
        forward = _mean_and_spread(forward)
        return forward, cosine, backward

    def curve(self, content, style, own_content, own_style, evidence=None) -> ToneCurve:
        """The curve, with :meth:`own` of both images, perhaps :meth:`evidence` at hand."""
        forward, cosine, backward = evidence or self.evidence(content, style)
        closest = ops.max(cosine, axis=-1, keepdims=True)
        given, given_style = _given(content), _given(style)
        x = by_knot(given[..., :1])
        of, closest, backward = by_knot(forward), by_knot(closest), by_knot(backward)
        own = by_knot(own_content)
        expected, spread = of[..., :1], of[..., 1:]
        weight = backward[..., :1]
        back = (backward[..., 1:] + PRIOR * expected) / (weight + PRIOR)
        within = by_knot(forward[..., :1] ** 2) - expected**2
        matched = by_knot(matched_levels(given, given_style))
        evidence = ops.concatenate(
            [
                x,
                expected,
                back,
                4.0 * spread,
                closest,
                0.3 * ops.log(weight + 1e-3),
                own[..., :1],
                4.0 * own[..., 1:],
                4.0 * ops.sqrt(ops.relu(within) + 1e-6),
                expected - x,
                back - x,
                matched,
                matched - x,
                by_knot(given[..., 1:]),
                ops.cast(x < 0.002, "float32"),
                ops.cast(x > 0.998, "float32"),
            ],
            axis=-1,
        )
        about = by_knot(ops.concatenate([given_style, own_style], axis=-1))
        about = ops.reshape(ops.transpose(about, (0, 2, 1)), (-1, 4 * KNOTS))
        h = self.of_content(2.0 * evidence - 0.5) + self.of_style(2.0 * about - 1.0)[:, None]
        for number in range(self.blocks - 1):
            h = self._block(number, h)
        offered = ops.concatenate([expected, back, x, matched], axis=-1)
        draft, trust = _choose(self.draft(h), offered)
        trust = ops.softmax(trust, axis=1)
        line = straight(x, draft, trust)
        seen = [draft, line, line - draft, draft - x, line - x, 8.0 * trust]
        seen = ops.concatenate([*seen, ops.cast(ops.abs(line - x) < 0.02, "float32")], axis=-1)
        h = self._block(self.blocks - 1, h + self.of_draft(seen))
        values, log_errors = _choose(self.out(h), ops.concatenate([offered, draft, line], axis=-1))
        whole = [ops.mean(h, axis=1), ops.max(h, axis=1), ops.sum(trust * h, axis=1)]
        alike = ops.sigmoid(self.alike[1](self.alike[0](ops.concatenate(whole, axis=-1))))
        values = rising(values[..., 0])
        values = alike * x[..., 0] + (1.0 - alike) * values
        errors = ops.exp(ops.clip(log_errors[..., 0], -6.0, 1.0))
        coverage = _coverage(given[..., 0], given_style[..., 0])
        ct = self.probability_of_ct(content) * self.probability_of_ct(style)
        return ToneCurve(strictly_rising(x[..., 0]), values, errors, alike, coverage, ct)

    def probability_of_ct(self, tokens):
        """The probability (B, 1) that images are CT."""
        return ops.sigmoid(self.ct[1](self.ct[0](self.look(tokens))))

    @staticmethod
    def look(tokens):
        """What tells CT from other images (B, 2·D + 2·CT_LEVELS), scaled to about 1.

        Means and spreads of features, gray levels and ranks; no gradient goes into the features,
        which serve the curve alone.
        """
        tokens = ops.stop_gradient(tokens)
        features, given = tokens[..., 2:], tokens[:, :: tokens.shape[1] // CT_LEVELS, :2]
        given = ops.reshape(given, (-1, 2 * CT_LEVELS))
        seen = [ops.mean(features, axis=1), ops.std(features, axis=1), given]
        return 4.0 * ops.concatenate(seen, axis=-1)

    def _block(self, number, h):
        z = self.norms[number](h)
        z = ops.relu(self.along[number](z) + self.whole[number](ops.mean(z, axis=1))[:, None])
        return h + self.back[number](z)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "blocks": self.blocks}


def _given(tokens):
    """Gray levels and ranks (B, M, 2); to learn nothing of them saves a third of a step."""
    return ops.stop_gradient(tokens[..., :2])


def _choose(out, offered):
    """A weighted mean of what is offered (B, K, N), with an offset; and the last of `out`."""
    choice = ops.softmax(2.0 * out[..., :-2], axis=-1)
    values = ops.sum(choice * offered, axis=-1, keepdims=True)
    return values + 0.3 * out[..., -2:-1], out[..., -1:]


def straight(x, y, weights):
    """The line through points, all (B, K, 1), by least squares with weights that sum to 1.

    Of two windows it is exact; points with little spread give a slope near 1.
    """
    mean_x, mean_y = (ops.sum(weights * v, axis=1, keepdims=True) for v in (x, y))
    off_x, off_y = x - mean_x, y - mean_y
    spread = ops.sum(weights * off_x**2, axis=1, keepdims=True) + 1e-4
    common = ops.sum(weights * off_x * off_y, axis=1, keepdims=True) + 1e-4
    return mean_y + common / spread * off_x


def matched_levels(content, style):
    """The style's gray levels at the content's ranks among all pixels, and above the floor.

    Both images are given, and the result is, as (B, M, 2).
    """
    (x, own), (y, rank) = (ops.unstack(image, axis=-1) for image in (content, style))
    ranks = ((own, rank), (_ranks_above_floor(x, own), _ranks_above_floor(y, rank)))
    matched = [evaluate(strictly_rising(style_rank), y, at) for at, style_rank in ranks]
    return ops.clip(ops.stack(matched, axis=-1), 0.0, 1.0)


def _ranks_above_floor(gray, rank):
    """Ranks among the pixels above the floor, 0 for those of the floor itself."""
    below = ops.max(ops.where(gray <= FLOOR, rank, 0.0), axis=1, keepdims=True)
    return ops.clip((rank - below) / (1.0 - below + 1e-3), 0.0, 1.0)


def _coverage(content, style):
    """How far both images show more than one gray level, (B, 1); see :class:`ToneCurve`."""
    shown = ops.minimum(ops.std(content, axis=1), ops.std(style, axis=1))
    return ops.clip(shown / LEAST_SPREAD, 0.0, 1.0)[:, None]


def _mean_and_spread(moments):
    """Standard deviation in place of the mean square: (…, 2) to (…, 2)."""
    mean = moments[..., :1]
    spread = ops.sqrt(ops.relu(moments[..., 1:] - mean**2) + 1e-6)
    return ops.concatenate([mean, spread], axis=-1)
