"""StyleAugmentation: training images in the gray scale of other scans, as a Keras layer."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstyle._private.images import checked_gray, number, number_range
from tfstyle.errors import ArgumentError
from tfstyle.metrics.structure import structure_scores
from tfstyle.presets import open_model
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.tone.model import ToneTransfer

log = logging.getLogger(__name__)

#: Key of the images in the dictionaries of Keras's own layers.
IMAGES = "images"

#: Least height and width of images that the gate can judge.
GATE_SIZE = 11
#: The gate looks at about so many pixels along the shorter side of large images.
GATE_SAMPLES = 64


@keras.saving.register_keras_serializable(package="tfstyle")
class StyleAugmentation(keras.layers.Layer):
    """Gives training images the gray scale of other scans, at random, and keeps their anatomy.

    For ``tf.data`` (``dataset.map(layer)``) and for use inside a model, as Keras's own random
    layers: it stylizes in training alone. Masks, labels and weights that come with the images are
    handed on as they are, since no pixel moves.

    The layer holds a frozen copy of the network and the codes of its styles, so that a saved model
    needs neither preset nor scans; and it is never trained, even where ``trainable`` is true.

    Args:
        network: A :class:`tfstyle.ToneTransfer` or :class:`tfstyle.StyleTransfer`; or the name or
            folder of a preset, or a ``.keras`` file. Defaults to ``tfstyle.from_preset()``.
        styles: Where styles come from: ``"batch"``, another image of the same batch; a
            :class:`tfstyle.StyleBank`, drawn by its weights; codes (N, …) of the network's
            ``encode_style``; or one or several paths of scans, folders of scans, or saved banks,
            which are encoded here (:meth:`tfstyle.StyleBank.from_scans`).
        p: Share of images that are stylized. Of a batch of B images, p·B are, rounded up or down
            at random, and the network runs on no more.
        strength: ``(low, high)`` within [0, 1], drawn evenly for each image; or one number.
        gate: Least structure term of SSIM between an image and its stylized form
            (:func:`tfstyle.metrics.structure_scores`). Below it the image stays as it was and
            is counted in ``gated``. None lets everything pass.
        value_range: The values that mean black and white: ``(0, 1)``; ``(0, 255)`` for 8 bits; a
            window such as ``(-160, 240)`` for HU. With ``(0, 1)`` other values are refused; a
            window clips all images to it, in training or not, stylized or not.
        seed: Seed of a ``keras.random.SeedGenerator``; a layer that is loaded draws from the
            beginning.
        **kwargs: Name and dtype; images come out in the compute dtype, computed in float32.

    Call arguments:
        images: Images (H, W, C) or (B, H, W, C) of any numeric type, NaN counting as black; a
            tuple that begins with them; or a dictionary with them under ``"images"``. Each channel
            is a gray image of its own (neighboring slices, or gray written three times), and all
            channels of an image get one style and strength.
        *others: Further components of a dataset's elements, handed on behind the images.
        training: False stylizes nothing. Defaults to what a surrounding model was told, by ``fit``
            and ``predict`` for example. A model that was told nothing, as in ``model(x)`` or an
            export, stylizes no image, unlike with Keras's own random layers; a
            ``keras.Sequential`` of augmentations in ``dataset.map`` needs ``training=True``.
            Outside of models it is True.
        seed: Integers (2,): the draws come from them alone, for example from
            ``tf.data.Dataset.counter()``. Needed for reproducible images under ``map`` with
            ``num_parallel_calls``, where the order of calls is open.

    Returns:
        What came in, with the images in the compute dtype and in ``value_range``.

    Raises:
        ArgumentError: an argument, shape or dtype that cannot be used; in eager code also values
            outside [0, 1] with that ``value_range``, for which a graph raises
            ``tf.errors.InvalidArgumentError``. XLA compiles no such check and clips.
        InputFileError: a style that cannot be read.
        WeightsError: an unknown preset, or codes of another model.

    Attributes:
        seen: Number of images in training so far, a variable.
        stylized: Number of those that came out stylized, a variable.
        gated: Number of those that the gate replaced by the original, a variable.

    The variables count in ``tf.data``, in models and over replicas; see :attr:`counts`. A pipeline
    counts what it made, which may be ahead of what was trained on.

    Example:
        >>> augment = StyleAugmentation(styles=["scanner_a/", "scanner_b/"], p=0.5, seed=1)
        >>> pairs = {"images": images, "segmentation_masks": masks}
        >>> data = tf.data.Dataset.from_tensor_slices(pairs).repeat(8)
        >>> data = data.batch(8).map(augment).prefetch(2)
        >>> sum(len(batch["images"]) for batch in data)
        8
        >>> augment.counts
        {'seen': 8, 'stylized': ..., 'gated': ...}

    In a model, on its device:

        >>> unet = tfstyle.segmentation.UNet(classes=2, depth=2, width=4)
        >>> model = keras.Sequential([StyleAugmentation(styles="batch"), unet])
    """

    def __init__(
        self,
        network: ToneTransfer | StyleTransfer | str | os.PathLike | None = None,
        styles: str | os.PathLike | Sequence | np.ndarray | StyleBank = "batch",
        p: float = 0.5,
        strength: float | tuple[float, float] = (0.5, 1.0),
        gate: float | None = 0.8,
        value_range: tuple[float, float] = (0.0, 1.0),
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.p = number("p", p, 0.0, 1.0)
        self.strength = number_range("strength", strength, 0.0, 1.0)
        self.gate = None if gate is None else number("gate", gate, -1.0, 1.0)
        self.value_range = number_range("value_range", value_range, -math.inf, math.inf)
        if not self.value_range[0] < self.value_range[1]:
            raise ArgumentError(f"value_range: black must lie below white, received {value_range}.")
        self.seed = seed
        if isinstance(network, (ToneTransfer, StyleTransfer)):
            model: ToneTransfer | StyleTransfer = network
        else:
            model = open_model(network)
            if not hasattr(model, "stylize"):
                raise ArgumentError(
                    f"network: must transfer styles, received a {type(model).__name__}."
                )
        bank = None
        if not (isinstance(styles, str) and styles == "batch"):
            bank = _bank(styles, model)
        # A copy: training the original does not change what the layer does, nor freezing the copy
        # the original; and the copy's weights live where the layer's do.
        self.network = type(model).from_config(model.get_config())
        self.network.set_weights(model.get_weights())
        self.network.trainable = False
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.codes = self.style_shares = None
        if bank is not None:
            weights = np.asarray(bank.weights)
            shares = np.cumsum(weights / weights.sum())
            self.codes = self._constant("style_codes", bank.codes)
            self.style_shares = self._constant("style_shares", shares.astype(np.float32))
        self.holds_weights = self._constant("holds_weights", np.ones((), np.float32))
        self._strategy = tf.distribute.get_strategy()
        self._has_warned = False
        self._has_warned_of_gray = False
        # In float64, so that saved sums are shared out to replicas without rounding.
        self.seen, self.stylized, self.gated = (
            keras.Variable(
                0.0,
                dtype="float64",
                trainable=False,
                autocast=False,
                aggregation="sum",
                synchronization="on_read",
                name=name,
            )
            for name in ("seen", "stylized", "gated")
        )
        self.built = True

    def _constant(self, name: str, value: np.ndarray):
        return self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype=None: tf.constant(value),
            dtype="float32",
            trainable=False,
            autocast=False,
            name=name,
        )

    @property
    def trainable(self):
        """Always False."""
        return False

    @trainable.setter
    def trainable(self, value):
        pass  # `model.trainable = True` must not set the network free

    @property
    def counts(self) -> dict[str, int]:
        """Images so far: ``seen`` in training, ``stylized``, and ``gated``, back to original."""
        return {
            name: round(float(getattr(self, name).value.numpy()))
            for name in ("seen", "stylized", "gated")
        }

    def reset_counts(self) -> None:
        """Sets the counts to 0."""
        for variable in (self.seen, self.stylized, self.gated):
            variable.assign(0.0)

    def __call__(self, images, *others, **kwargs):
        # Outside of Keras's own call: it would convert what comes with the images.
        if others and (others[0] is None or isinstance(others[0], bool)):
            raise ArgumentError(f"training: must be given by name, training={others[0]}.")
        if others:
            return (self(images, **kwargs), *others)
        if isinstance(images, tuple) and images:
            changed = (self(images[0], **kwargs), *images[1:])
            return images._make(changed) if hasattr(images, "_make") else changed
        if isinstance(images, Mapping):
            if IMAGES not in images:
                raise ArgumentError(
                    f"images: a dictionary needs the key {IMAGES!r}, received {', '.join(images)}."
                )
            return {**images, IMAGES: self(images[IMAGES], **kwargs)}
        if isinstance(images, (list, tf.RaggedTensor, tf.SparseTensor)):
            raise ArgumentError(
                f"images: must be a dense tensor, received a {type(images).__name__}; stack images "
                "of one size, or augment them one by one before they are batched."
            )
        return super().__call__(images, **kwargs)

    @property
    def metrics(self):
        """None: those of the network are of its own training, and have the name of any loss."""
        return []

    def call(self, images, training=None, seed=None):
        if training is None:
            training = not self._in_silent_model()
        images = tf.convert_to_tensor(images)
        rank = images.shape.rank
        if rank not in (3, 4):
            raise ArgumentError(
                f"images: need (H, W, C) or (B, H, W, C), received shape {images.shape}."
            )
        if images.shape[-1] is None:
            raise ArgumentError("images: the number of channels must be known.")
        if images.dtype.is_integer and self.value_range[1] <= 1:
            raise ArgumentError(
                f"images: integers ({images.dtype.name}) with value_range={self.value_range}; say "
                "what is black and white, for example value_range=(0, 255)."
            )
        if rank == 3 and self.codes is None:
            raise ArgumentError(
                'images: styles="batch" needs a batch; use it behind dataset.batch(), or give a '
                "style bank."
            )
        if self.gate is not None:
            sides = [side for side in images.shape[-3:-1] if side is not None]
            if min(sides, default=GATE_SIZE) < GATE_SIZE:
                raise ArgumentError(
                    f"images: the gate needs at least {GATE_SIZE} rows and columns, received shape "
                    f"{images.shape}; use gate=None."
                )
        images = self._in_range(images)
        if not training or self.p == 0:
            return tf.cast(images, self.compute_dtype)
        self._check_weights()
        batch = images[None] if rank == 3 else images
        results, stylized, gated = self._augment(batch, self._draw_seed(seed))
        self._count(self.seen, tf.shape(batch)[0])
        self._count(self.stylized, stylized)
        self._count(self.gated, gated)
        return results[0] if rank == 3 else results

    def _in_silent_model(self) -> bool:
        """Whether a model calls that was not told whether this is training."""
        # Keras has no public word for it; a test notices if it renames this one.
        caller = self._get_call_context().entry_layer
        if not isinstance(caller, keras.Model):
            return False
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: the model %s was called without training=True or False, so that images are "
                "left as they are.",
                self.name,
                caller.name,
            )
        return True

    def _in_range(self, images):
        """Images as floats in the range, NaN as black: those drawn later and those not, alike."""
        low, high = self.value_range
        if not images.dtype.is_floating:
            images = tf.cast(images, tf.float32)
        images = tf.where(tf.math.is_nan(images), tf.cast(low, images.dtype), images)
        self._warn_of_gray(images)
        if self.value_range == (0.0, 1.0):
            images = checked_gray(images, "images", "apply a window first, or give value_range.")
        return tf.clip_by_value(images, low, high)

    def _warn_of_gray(self, images) -> None:
        """Says once, in eager code, that images in [0, 1] do not fit a wider range."""
        low, high = self.value_range
        if self._has_warned_of_gray or high - low < 10 or not tf.executing_eagerly():
            return
        darkest, brightest = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        if 0 <= darkest < brightest <= 1:
            self._has_warned_of_gray = True
            log.warning(
                "%s: images from %g to %g with value_range=(%g, %g) are almost one gray level; "
                "leave value_range out for images in [0, 1].",
                self.name,
                darkest,
                brightest,
                low,
                high,
            )

    def _augment(self, images, seed):
        """Augmented images, and how many were stylized and gated."""
        seeds = tf.unstack(tf.random.split(seed, 5, alg="philox"))
        size = images.shape[0]
        known = size is not None
        size = size if known else tf.shape(images)[0]
        # Of p·B images, the last is done with the probability that is left.
        if known:
            count = max(math.ceil(self.p * size - 1e-4), min(size, 1))
        else:
            count = tf.cast(tf.math.ceil(self.p * tf.cast(size, tf.float32) - 1e-4), tf.int32)
            count = tf.maximum(count, tf.minimum(size, 1))
        rows = tf.range(size)
        if self.p < 1:
            rows = tf.argsort(_uniform(seeds[0], [size]))[:count]
        left = self.p * tf.cast(size, tf.float32) - tf.cast(count - 1, tf.float32)
        chosen = (tf.range(count) < count - 1) | (_uniform(seeds[1], []) < left)
        if self.codes is None:
            chosen &= size > 1

        def stylize():
            return self._stylize(images, rows, chosen, size, seeds[2:])

        def leave():
            return tf.cast(images, self.compute_dtype), *(tf.zeros((), tf.int32),) * 2

        if known and size == 0:
            return leave()
        if known and count == 1 and self.p < 1:
            return tf.cond(chosen[0], stylize, leave)
        # A replica may get no image of the last batch, which convolutions do not bear.
        return stylize() if known else tf.cond(size > 0, stylize, leave)

    def _stylize(self, images, rows, chosen, size, seeds):
        count, channels = tf.shape(rows)[0], images.shape[-1]
        low, high = self.strength
        strength = low + (high - low) * _uniform(seeds[1], [count])
        strength = tf.repeat(strength, channels)[:, None, None, None]
        content = self._planes(tf.gather(images, rows))
        if self.codes is None:
            # Any other image of the batch.
            steps = 1 + tf.cast(
                _uniform(seeds[0], [count]) * tf.cast(size - 1, tf.float32), tf.int32
            )
            partners = (rows + tf.minimum(steps, size - 1)) % size
            codes = self.network.code_of(self._planes(tf.gather(images, partners)))
        else:
            shares = tf.convert_to_tensor(self.style_shares)
            style = tf.searchsorted(shares, _uniform(seeds[0], [count]), side="right")
            style = tf.minimum(style, shares.shape[0] - 1)
            codes = tf.repeat(tf.gather(tf.convert_to_tensor(self.codes), style), channels, axis=0)
        generated = self.network.generate_from_code(content, codes, strength)
        passed = tf.ones([count], tf.bool)
        if self.gate is not None:
            # Every few pixels show as much of the structure as all of them.
            step = tf.maximum(tf.reduce_min(tf.shape(content)[1:3]) // GATE_SAMPLES, 1)
            seen = [  # slices with an unknown step have no static shape
                tf.ensure_shape(planes[:, ::step, ::step], [None, None, None, 1])
                for planes in (content, generated)
            ]
            scores = structure_scores(*seen)
            passed = tf.reduce_min(tf.reshape(scores, [count, channels]), axis=1) >= self.gate
        low, high = self.value_range
        generated = tf.cast(
            low + (high - low) * self._images(generated, channels), self.compute_dtype
        )
        original = tf.cast(images, self.compute_dtype)
        kept = chosen & passed
        updates = tf.where(kept[:, None, None, None], generated, tf.gather(original, rows))
        results = tf.tensor_scatter_nd_update(original, rows[:, None], updates)
        results.set_shape(images.shape)
        stylized, gated = (tf.reduce_sum(tf.cast(v, tf.int32)) for v in (kept, chosen & ~passed))
        return results, stylized, gated

    def _planes(self, images):
        """Every channel as a gray image: (B, H, W, C) to float32 (B·C, H, W, 1) in [0, 1]."""
        low, high = self.value_range
        unit = (tf.cast(images, tf.float32) - low) / (high - low)
        if images.shape[-1] == 1:
            return unit
        shape = tf.shape(images)
        return tf.reshape(tf.transpose(unit, [0, 3, 1, 2]), [-1, shape[1], shape[2], 1])

    def _images(self, planes, channels):
        """The way back of :meth:`_planes`, still in [0, 1]."""
        if channels == 1:
            return planes
        shape = tf.shape(planes)
        planes = tf.reshape(planes, [-1, channels, shape[1], shape[2]])
        return tf.transpose(planes, [0, 2, 3, 1])

    def _draw_seed(self, seed):
        seed = self.seed_generator.next() if seed is None else tf.reshape(seed, [2])
        # Replicas hold equal seeds and must not make equal draws.
        replica = tf.distribute.get_replica_context()
        number = 0 if replica is None else replica.replica_id_in_sync_group
        return tf.random.fold_in(tf.cast(seed, tf.int64), number, alg="philox")

    def _count(self, variable, amount):
        # The variable's own addition, which no parallel call interrupts; Keras's would read first.
        value = variable.value
        inside = tf.distribute.get_replica_context() is not None
        if not (inside and tf.distribute.get_strategy() is self._strategy):
            # In a pipeline, say: what replicas hold is summed up when read, so one will do.
            value = self._strategy.experimental_local_results(value)[0]
        value.assign_add(tf.cast(amount, tf.float64))

    def _check_weights(self):
        with tf.init_scope():
            held = self._strategy.experimental_local_results(self.holds_weights.value)[0]
            held = bool(held.numpy())
        if not held:
            raise ArgumentError(
                f"{self.name}: was made from its configuration alone, which holds no weights and "
                "no styles; load a saved model, or copy the weights with set_weights."
            )

    def compute_output_spec(self, images, training=None, seed=None):
        return keras.KerasTensor(images.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "styles": "batch" if self.codes is None else list(self.codes.shape),
            "p": self.p,
            "strength": list(self.strength),
            "gate": self.gate,
            "value_range": list(self.value_range),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["network"] = keras.saving.deserialize_keras_object(config["network"])
        if config["styles"] != "batch":
            config["styles"] = np.zeros(config["styles"], np.float32)
        layer = cls(**config)
        layer.holds_weights.assign(0.0)  # until they are loaded
        return layer


def _uniform(seed, shape):
    """float32 in [0, 1), the same on every device and under XLA."""
    return tf.random.stateless_uniform(shape, seed, alg="philox")


def _bank(styles, network: ToneTransfer | StyleTransfer) -> StyleBank:
    if isinstance(styles, StyleBank):
        bank = styles
    elif isinstance(styles, np.ndarray) or tf.is_tensor(styles):
        bank = StyleBank(np.asarray(styles))
    else:
        bank = StyleBank.from_scans(network, styles)
    bank.check(network)
    return bank
