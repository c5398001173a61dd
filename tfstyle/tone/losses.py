"""The loss of the tone transfer: the tone error against the right answer, and what helps it."""

from __future__ import annotations

from keras import ops

from tfstyle.tone.curve import evaluate
from tfstyle.tone.features import ToneEncoder
from tfstyle.tone.matching import ToneMatcher, by_knot
from tfstyle.tone.pairs import PARTNERS

#: Terms of the loss in the training history.
LOSS_TERMS = (
    "loss",
    "tone_error",
    "expectation_error",
    "surround_error",
    "error_estimate",
    "alike_error",
    "ct_error",
)
#: Every third pixel counts in training.
TRAINING_STEP = 3


def tone_losses(
    encoder: ToneEncoder, matcher: ToneMatcher, groups: dict, training: bool = False
) -> dict:
    """Terms of the loss for batches of :func:`tfstyle.tone.tone_groups`.

    With the right answer r, the curve f, balanced weights w (tissues count alike) and the
    error b that the network expects::

        tone_error        = Σ w·|f(x) − r|
        expectation_error = the same for the expectation from the content's side alone
        surround_error    = mean |f(x) − r| over the pixels without weight: air around the
                            body, and where the content is clipped
        error_estimate    = Σ w·(|f(x) − r| / b + log b), which does not change f
        alike_error       = cross-entropy of the probability of one gray scale
        loss              = tone_error + 0.5·expectation_error + 0.15·surround_error
                            + 0.02·error_estimate + 0.02·alike_error + 0.02·ct_error

    A pair of which one image is not CT has no right answer and does not count, except for

    ::

        ct_error          = cross-entropy of the probability that an image is CT, the mean over
                            all images

    Gives the terms of ``LOSS_TERMS``, each (pairs,), and ``"weight"`` (pairs,): 0 for pairs in
    which nothing counts.
    """
    images, right, weights = (groups[key] for key in ("images", "right", "weights"))
    _, count, size, _, partners = right.shape
    tokens = encoder(ops.reshape(images, (-1, size, size, 1)), training=training)
    own = matcher.own(tokens)

    def pairs(values):
        """Of contents, once for each partner."""
        return ops.concatenate([values] * partners, axis=0)

    def partner(values):
        """Of the styles that belong to them."""
        grouped = ops.reshape(values, (-1, count, *values.shape[1:]))
        rolled = [ops.roll(grouped, -step, axis=1) for step in PARTNERS[:partners]]
        return ops.concatenate([ops.reshape(r, (-1, *values.shape[1:])) for r in rolled], 0)

    style = partner(tokens)
    evidence = matcher.evidence(pairs(tokens), style)
    curve = matcher.curve(pairs(tokens), style, pairs(own), partner(own), evidence)
    expected = by_knot(evidence[0])[..., 0]

    def thinned(values):
        values = values[:, :, ::TRAINING_STEP, ::TRAINING_STEP]
        return ops.reshape(values, (-1, values.shape[2] * values.shape[3], values.shape[4]))

    x, w = pairs(thinned(images)[..., 0]), pairs(thinned(weights)[..., 0])
    r = ops.concatenate(ops.unstack(thinned(right), axis=-1), axis=0)
    total = ops.sum(w, axis=1)
    rest = ops.cast(w <= 0, "float32")
    rest = rest / ops.maximum(ops.sum(rest, axis=1), 1.0)[:, None]
    w = w / ops.maximum(total, 1e-6)[:, None]

    def clipped(y):
        inside = ops.clip(y, 0.0, 1.0)
        return inside + 0.1 * (y - inside)  # with a slope beyond, so that it can come back

    def at_pixels(values):
        return evaluate(curve.levels, values, x)

    generated = at_pixels(curve.values)
    difference = ops.abs(clipped(generated) - r)
    tone, surround = (ops.sum(v * difference, axis=1) for v in (w, rest))
    expectation = ops.sum(w * ops.abs(clipped(at_pixels(expected)) - r), axis=1)
    estimate = ops.clip(at_pixels(ops.log(curve.errors)), -6.0, 1.0)
    found = ops.clip(generated, 0.0, 1.0)
    found = ops.stop_gradient(ops.abs(found - r))
    flags = ops.reshape(groups["not_ct"], (-1,))
    foreign = ops.maximum(pairs(flags), partner(flags))
    estimate = ops.sum(w * (found * ops.exp(-estimate) + estimate), axis=1)
    ct = ops.clip(matcher.probability_of_ct(tokens), 1e-5, 1 - 1e-5)
    ct = ops.mean(ops.binary_crossentropy(1.0 - flags[:, None], ct))
    ct = ops.broadcast_to(ct, ops.shape(tone))
    same = ops.concatenate(
        [ops.reshape(one, (-1,)) for one in ops.unstack(groups["same"], axis=-1)], axis=0
    )
    alike = ops.binary_crossentropy(same[:, None], ops.clip(curve.alike, 1e-5, 1 - 1e-5))
    alike = ops.reshape(alike, (-1,))
    return {
        "loss": tone + 0.5 * expectation + 0.15 * surround + 0.02 * (estimate + alike + ct),
        "surround_error": surround,
        "alike_error": alike,
        "ct_error": ct,
        "tone_error": tone,
        "expectation_error": expectation,
        "error_estimate": estimate,
        "weight": ops.cast(total > 0, "float32") * (1.0 - foreign),
    }
