"""Models of a few operations that export and load in no time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class MeanTone:
    """Moves the content's gray levels to the style's mean and spread.

    A style's code is (B, 2, 3): mean, spread and a constant, twice.
    """

    code_shape = (2, 3)

    def __init__(self):
        self.gain = tf.Variable(0.9)

    def code_of(self, style):
        mean, variance = tf.nn.moments(style, (1, 2, 3))
        row = tf.stack([mean, tf.sqrt(variance), tf.ones_like(mean)], axis=1)
        return tf.stack([row, row], axis=1)

    def generate_from_code(self, content, code, strength=None):
        mean, spread = code[:, 0, 0, None, None, None], code[:, 1, 1, None, None, None]
        toned = tf.clip_by_value(self.gain * (mean + spread * (2.0 * content - 1.0)), 0.0, 1.0)
        return toned if strength is None else content + strength * (toned - content)

    def generate(self, content, style, strength=None):
        return self.generate_from_code(content, self.code_of(style), strength)

    def stylize(self, content, style, strength=1.0):
        """What a served model is to give, for arrays of one image or of a batch."""
        content, style = (np.asarray(x, np.float32) for x in (content, style))
        batch = content.reshape(-1, *content.shape[-2:], 1) if content.ndim == 2 else content
        style = style[None, ..., None] if style.ndim == 2 else style
        return np.asarray(self.generate(batch, style, np.float32(strength))).reshape(content.shape)


class NoCodes:
    """A model that cannot keep a style."""

    def __init__(self):
        self.tone = MeanTone()

    def generate(self, content, style, strength=None):
        return self.tone.generate(content, style, strength)
