"""ToneTransfer: a scan in the gray scale of another, by one rising curve, as a ``keras.Model``."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfstyle._private.images import as_batch, check_batch_size, check_strength, gray_tensor, pair_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.presets import PresetModel
from tfstyle.style_codes import StyleCodes
from tfstyle.tone.curve import TABLE, ToneCurve, apply_curve, look_up, tabulate
from tfstyle.tone.features import TOKENS, ToneEncoder, merge_tokens
from tfstyle.tone.losses import LOSS_TERMS, tone_losses
from tfstyle.tone.matching import ToneMatcher

log = logging.getLogger(__name__)

#: Below this confidence a result is warned of.
LOW_CONFIDENCE = 0.35
#: An expected error of this much means a confidence of one half.
HALF_CONFIDENCE = 0.1
#: Slices of a scan, at most, from which its curve is taken.
SLICES = 16


@keras.saving.register_keras_serializable(package="tfstyle")
class ToneTransfer(PresetModel, StyleCodes, KerasFile, keras.Model):
    """Gives a scan the gray scale of another: which tissue of one is which of the other, one curve.

    Both images are described by the gray levels and features of some of their pixels
    (:class:`tfstyle.tone.ToneEncoder`); contextual similarity of the features says which gray level
    of the style belongs to each of the content's, and one rising curve follows
    (:class:`tfstyle.tone.ToneMatcher`), which is applied to every pixel at its full depth. So no
    structure can appear, vanish or move, and bright never becomes darker than dark.

    Args:
        encoder: A :class:`tfstyle.tone.ToneEncoder`; the default one by default.
        matcher: A :class:`tfstyle.tone.ToneMatcher`; the default one by default.
        name: Keras model name.

    Example:
        >>> model = tfstyle.from_preset()
        >>> generated = model.stylize(content, style)      # (H, W) float32 in [0, 1]
        >>> confidence = model.confidence(content, style)  # float32 (B,), from 0 to 1

    References: Mechrez, Talmi and Zelnik-Manor, "The contextual loss for image transformation with
    non-aligned data", ECCV 2018, for the affinities; Xu, Li and Shin, "Medical image processing
    with contextual style transfer", Hum. Cent. Comput. Inf. Sci. 10:46 (2020), for the task.
    """

    def __init__(
        self,
        encoder: ToneEncoder | None = None,
        matcher: ToneMatcher | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name or "tone_transfer")
        self.encoder = encoder or ToneEncoder(name="encoder")
        self.matcher = matcher or ToneMatcher(name="matcher")
        self.trackers = [keras.metrics.Mean(name=name) for name in LOSS_TERMS]
        self.build(dict.fromkeys(("content", "style"), (None, None, None, 1)))

    def build(self, input_shape):
        code = (None, *self.code_shape)
        for part, shape in ((self.encoder, (None, None, None, 1)), (self.matcher, (code, code))):
            if not part.built:
                part.build(shape)
        self.built = True

    # -- inference -------------------------------------------------------------------------
    def call(self, inputs, strength=None, training=False):
        """Generates from ``{"content": …, "style": …}`` or ``[content, style]``.

        Args:
            inputs: float tensors (B, H, W, 1) and (B or 1, H', W', 1) in [0, 1].
            strength: scalar, or tensor that broadcasts to (B, 1, 1, 1), in [0, 1]; None for 1.
            training: Unused; training goes through :meth:`train_step`.

        Returns:
            float32 tensor (B, H, W, 1) in [0, 1].
        """
        content, style = (
            gray_tensor(images, name) for images, name in zip(pair_of(inputs), ("content", "style"))
        )
        return self.generate(content, style, strength)

    def compute_output_shape(self, input_shape):
        return (*pair_of(input_shape)[0][:3], 1)

    @property
    def code_shape(self) -> tuple[int, int]:
        """Shape of a style code without the batch axis."""
        return (TOKENS, 2 + self.encoder.features)

    def code_of(self, style):
        """Codes, float32 (B, TOKENS, 2 + D), of float32 images (B, H, W, 1) in [0, 1], any size."""
        return self.encoder(style, training=False)

    def generate_from_code(self, content, code, strength=None):
        """:meth:`generate` with a code of :meth:`code_of`, B or 1, instead of a style."""
        return look_up(content, tabulate(self.curve(self.code_of(content), code)), strength)

    def curve(self, content_code, style_code) -> ToneCurve:
        """The curves that lead from contents to styles.

        Args:
            content_code: float32 tensor (B, TOKENS, 2 + D) of :meth:`code_of`.
            style_code: the same of the styles, B or 1.

        Returns:
            :class:`tfstyle.tone.ToneCurve` of B curves.
        """
        rows = ops.shape(content_code)[0]
        own = ops.cast(ops.arange(rows) % ops.shape(style_code)[0], "int32")
        return self.matcher((content_code, ops.take(style_code, own, axis=0)))

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
        one_curve: bool = False,
    ) -> np.ndarray:
        """Gives `content` the gray scale of `style`.

        Args:
            content: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            style: one image (H', W') or (H', W', 1); a batch (B, H', W', 1) with one style for
                each content; a code of :meth:`encode_style`; or a list of images and codes, whose
                curves are blended with `style_weights`.
            strength: 0 returns the content, 1 gives it the style's gray scale in full.
            style_weights: One weight for each style of a list, at least 0, not all 0; they are
                divided by their sum. Defaults to equal weights.
            batch_size: Images a call.
            one_curve: Whether the images are slices of one scan in one gray scale: one curve is
                taken from up to ``SLICES`` of them and applied to all.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: shapes, values, strength or weights that cannot be used.

        Example:
            >>> model = tfstyle.from_preset()
            >>> blended = model.stylize(content, [style, style**2], style_weights=[0.7, 0.3])
        """
        check_strength(strength)
        check_batch_size(batch_size)
        images, shape = as_batch(content, "content")
        curve = self._estimate(images, style, style_weights, batch_size, one_curve)
        self._warn(curve)
        return self._apply_curve(images, curve, strength).reshape(shape)

    def apply_curve(
        self, content: np.ndarray, curve: ToneCurve, strength: float = 1.0
    ) -> np.ndarray:
        """Applies curves of :meth:`estimate` to images.

        Args:
            content: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            curve: One curve for all images, or one for each.
            strength: See :meth:`stylize`.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: shapes, values or strength that cannot be used.
        """
        check_strength(strength)
        images, shape = as_batch(content, "content")
        return self._apply_curve(images, curve, strength).reshape(shape)

    def _apply_curve(self, images, curve, strength):
        if strength == 0:
            return images
        generated = apply_curve(images, curve, strength)
        return np.clip(generated, 0.0, 1.0, out=generated)

    def estimate(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
        one_curve: bool = False,
    ) -> ToneCurve:
        """The curves of :meth:`stylize`, to look at or to apply elsewhere.

        Takes the arguments of :meth:`stylize` and raises its errors.

        Returns:
            :class:`tfstyle.tone.ToneCurve` of float32 arrays (B, KNOTS), B = 1 for one curve.
        """
        images = as_batch(content, "content")[0]
        return self._estimate(images, style, style_weights, batch_size, one_curve)

    def _estimate(self, images, style, style_weights, batch_size, one_curve) -> ToneCurve:
        if one_curve:
            images = images[evenly(len(images), SLICES)]
        # A style of the same size goes through the network with the contents.
        style = style if isinstance(style, (list, tuple, np.ndarray)) else np.asarray(style)
        together = isinstance(style, np.ndarray) and style.ndim == 2 and style_weights is None
        if together:
            first = as_batch(style, "style")[0]
            together = first.shape[1:] == images.shape[1:]
        if together:
            codes = self.encode_batch(np.concatenate([images, first]), batch_size)
            codes, style = codes[:-1], codes[-1:]
        else:
            codes = self.encode_batch(images, batch_size)
        if one_curve and len(codes) > 1:
            codes = np.asarray(merge_tokens(codes))
        blended, total = None, len(codes)
        estimate = self.traced("curve", self.curve, self.code_spec, self.code_spec)
        for weight, code in self.weighted_codes(style, style_weights, total, batch_size):
            curves = []
            for start in range(0, total, batch_size):
                part = slice(start, start + batch_size)
                own = code if len(code) == 1 else code[part]
                curves.append([np.asarray(v) for v in estimate(codes[part], own)])
            curve = ToneCurve(*(np.concatenate(parts) for parts in zip(*curves)))
            parts = [weight * part for part in curve[1:]]
            if blended is not None:
                parts = [one + other for one, other in zip(blended[1:], parts)]
            blended = ToneCurve(curve.levels, *parts)
        assert blended is not None  # there is at least one style
        return blended

    def confidence(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        style_weights: Sequence[float] | None = None,
        one_curve: bool = False,
    ) -> np.ndarray:
        """How well the style shows what the content shows, from 0 to 1 for each content.

        The network says which error it expects at every gray level; an expected mean error e of
        the curve gives ``c·p / (1 + (e / 0.1)²)``, with the curve's coverage c, 0 where one of the
        images is empty, and the probability p that both are CT: inverted images, noise and other
        modalities lower it.

        Takes the arguments of :meth:`stylize` and raises its errors.

        Returns:
            float32 array (B,), B = 1 for one curve.
        """
        return confidence_of(self.estimate(content, style, style_weights, one_curve=one_curve))

    def encode_style(
        self, style: np.ndarray, batch_size: int = 8, one_code: bool = False
    ) -> np.ndarray:
        """All that the model takes from a style, to keep and to give to :meth:`stylize`.

        Args:
            style: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            batch_size: Images a call.
            one_code: Whether the images are slices of one scan: one code is made of them.

        Returns:
            float32 array (B, TOKENS, 2 + D), B = 1 for one image or code.

        Raises:
            ArgumentError: an image that cannot be used.

        Example:
            >>> model = tfstyle.from_preset()
            >>> code = model.encode_style(style)
            >>> generated = model.stylize(content, code)      # as with the style itself
        """
        codes = super().encode_style(style, batch_size)
        return np.asarray(merge_tokens(codes)) if one_code and len(codes) > 1 else codes

    def fingerprint(self) -> str:
        """Short text that is the same for models that generate the same images."""
        digest = hashlib.sha256(repr((TOKENS, TABLE)).encode())
        for part in (self.encoder, self.matcher):
            digest.update(repr(sorted(part.get_config().items())).encode())
            for weight in part.weights:
                if "seed" not in weight.name:
                    digest.update(np.asarray(weight).tobytes())
        return digest.hexdigest()[:32]

    def _warn(self, curve: ToneCurve) -> None:
        confidence = confidence_of(curve)
        low = int((confidence < LOW_CONFIDENCE).sum())
        if low:
            log.warning(
                "low confidence (%.2f) for %d of %d images: %s",
                float(confidence.min()),
                low,
                len(confidence),
                reason_of_doubt(curve),
            )

    # -- training --------------------------------------------------------------------------
    def compile(self, optimizer="adam", jit_compile: bool | str = "auto", **kwargs):
        """Chooses the optimizer; the loss is that of :func:`tfstyle.tone.losses.tone_losses`.

        Args:
            optimizer: Keras optimizer or its name.
            jit_compile: XLA; ``"auto"`` uses it where the platform supports it.
            **kwargs: Passed to ``keras.Model.compile``.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    @property
    def metrics(self):
        return self.trackers

    def train_step(self, data):
        """One step of ``fit`` on a batch of groups."""
        with tf.GradientTape() as tape:
            terms = tone_losses(self.encoder, self.matcher, data, training=True)
            weight = terms["weight"]
            # A mean over the replica's pairs; gradients are summed over replicas.
            loss = ops.sum(weight * terms["loss"]) / ops.maximum(ops.sum(weight), 1.0)
            loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._track(terms)

    def test_step(self, data):
        """One step of ``evaluate`` on a batch of groups."""
        return self._track(tone_losses(self.encoder, self.matcher, data))

    def _track(self, terms):
        for tracker in self.trackers:
            tracker.update_state(terms[tracker.name], sample_weight=terms["weight"])
        return self.get_metrics_result()

    # -- files -----------------------------------------------------------------------------
    def get_config(self):
        config = {"name": self.name}
        for key, part in (("encoder", self.encoder), ("matcher", self.matcher)):
            config[key] = keras.saving.serialize_keras_object(part)
            config[key].pop("build_config", None)  # built by the constructor
        return config

    @classmethod
    def from_config(cls, config):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("encoder", "matcher")
        }
        return cls(**parts, name=config.get("name"))

    def build_from_config(self, config):
        """Nothing to do: every weight exists after the constructor."""

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer)}

    def compile_from_config(self, config):
        self.compile(optimizer=keras.saving.deserialize_keras_object(config["optimizer"]))
        self.optimizer.build(self.trainable_variables)

    def preset_settings(self):
        return {
            key: {k: v for k, v in part.get_config().items() if k not in ("name", "dtype")}
            for key, part in (("encoder", self.encoder), ("matcher", self.matcher))
        }

    @classmethod
    def from_preset_settings(cls, settings):
        encoder, matcher = settings["encoder"], settings["matcher"]
        return cls(ToneEncoder(**encoder, name="encoder"), ToneMatcher(**matcher, name="matcher"))

    def preset_variables(self):
        variables = {}
        for part in (self.encoder, self.matcher):
            for variable in part.trainable_variables:
                name = variable.path.split(f"{part.name}/", 1)[1]
                variables[f"{part.name}/{name}"] = variable
        return variables


def confidence_of(curve: ToneCurve) -> np.ndarray:
    """Confidence (B,) of curves; see :meth:`ToneTransfer.confidence`."""
    error = np.mean(np.asarray(curve.errors), axis=1)
    known = np.asarray(curve.coverage)[:, 0] * np.asarray(curve.ct)[:, 0]
    return (known / (1.0 + (error / HALF_CONFIDENCE) ** 2)).astype(np.float32)


def reason_of_doubt(curve: ToneCurve) -> str:
    """Why the least confident of some curves is so, and what to do, in words."""
    worst = int(np.argmin(confidence_of(curve)))
    if float(np.asarray(curve.coverage)[worst, 0]) < 0.5:
        return (
            "content or style shows hardly more than one gray level (an empty slice?); choose "
            "another slice or scan"
        )
    if float(np.asarray(curve.ct)[worst, 0]) < 0.5:
        return (
            "content or style does not look like CT (another modality, or inverted); tfstyle knows "
            "CT alone"
        )
    return (
        "the style shows few of the content's tissues clearly, an error of about "
        f"{float(np.asarray(curve.errors)[worst].mean()):.2f} gray levels is to be expected; "
        "choose a style with more of them, or a wider window"
    )


def evenly(total: int, most: int) -> np.ndarray:
    """At most `most` numbers of 0 to `total` − 1, evenly spread."""
    count = min(total, most)
    return ((np.arange(count) + 0.5) * total / count).astype(int)
