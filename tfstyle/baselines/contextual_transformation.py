"""Contextual transformation: a generator for one target domain, trained by contextual losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
from keras import layers, ops

from tfstyle._private.images import gray_tensor, pair_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.baselines.base import NetworkBaseline, cut_encoder, known_taps
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError
from tfstyle.layers import ReflectionPadding2D
from tfstyle.layers.padding import extend_to_stride
from tfstyle.losses import ContextualLoss

#: The layers of the paper, of VGG.
CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu3_2", "relu4_2")
#: h of the losses. With hard matches, 0.1 say, the losses of an image and of its negative differ so
#: little that training may end with either.
BANDWIDTH = 0.5
#: Name of the model in a folder that ``ContextualTransformation.open`` takes.
MODEL_FILE = "model.keras"


@keras.saving.register_keras_serializable(package="tfstyle")
class CascadedRefinement(KerasFile, keras.Model):
    """Cascaded refinement network: the image at rising sizes, each refining the one before.

    A module at each size takes the image reduced to it, beside the features of the module before
    enlarged twofold, and has two 3x3 convolutions with layer normalization and leaky ReLU; a 1x1
    convolution makes the last features an image. Enlarging is by nearest neighbor and padding by
    reflection, as in :class:`tfstyle.decoder.Decoder`.

    Args:
        widths: Channels of the modules from the smallest size to the full one.
        name: Keras model name.

    Call arguments:
        images: float tensor (B, H, W, 1) in [0, 1]; H and W are multiples of `stride`, at least
            twice it.

    Returns:
        float tensor (B, H, W, 1), nominally in [0, 1] but not clipped.

    Raises:
        ArgumentError: if a width is below 1.

    Reference: Chen and Koltun, "Photographic image synthesis with cascaded refinement networks",
    ICCV 2017, section 3.
    """

    def __init__(
        self,
        widths: Sequence[int] = (256, 256, 128, 64, 32),
        name: str | None = None,
    ):
        super().__init__(name=name or "cascaded_refinement")
        self.widths = tuple(int(width) for width in widths)
        if not self.widths or min(self.widths) < 1:
            raise ArgumentError(f"widths: need numbers of at least 1, received {widths!r}.")
        self.reduce = layers.AveragePooling2D(2, data_format="channels_last", name="reduce")
        self.enlarge = layers.UpSampling2D(
            2, data_format="channels_last", interpolation="nearest", name="enlarge"
        )
        self.refinements = []
        for level, width in enumerate(self.widths):
            steps = []
            for part in "ab":
                steps += [
                    ReflectionPadding2D(1, name=f"pad{level}{part}"),
                    layers.Conv2D(width, 3, data_format="channels_last", name=f"conv{level}{part}"),
                    # With one group: over height, width and channels.
                    layers.GroupNormalization(1, epsilon=1e-5, name=f"norm{level}{part}"),
                    layers.LeakyReLU(0.2, name=f"relu{level}{part}"),
                ]
            self.refinements.append(steps)
        self.last = layers.Conv2D(1, 1, data_format="channels_last", name="last")
        self.build((None, None, None, 1))

    @property
    def stride(self) -> int:
        """Pixels per position of the smallest size."""
        return 2 ** (len(self.widths) - 1)

    def build(self, input_shape):
        channels = 1
        for steps in self.refinements:
            shape = (None, None, None, channels)
            for step in steps:
                step.build(shape)
                shape = step.compute_output_shape(shape)
            channels = 1 + shape[-1]
        self.last.build((None, None, None, channels - 1))
        self.built = True

    def call(self, images):
        sizes = [images]
        for _ in self.widths[1:]:
            sizes.append(self.reduce(sizes[-1]))
        x = None
        for steps, image in zip(self.refinements, reversed(sizes)):
            x = image if x is None else ops.concatenate([image, self.enlarge(x)], axis=-1)
            for step in steps:
                x = step(x)
        return self.last(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], 1)

    def get_config(self):
        return {"widths": list(self.widths), "name": self.name}


@keras.saving.register_keras_serializable(package="tfstyle")
class ContextualTransformation(KerasFile, NetworkBaseline, keras.Model):
    """A generator G that gives images the look of one target domain, in one pass.

    It is trained by ``fit`` on unpaired images X of any kind and Y of the target domain::

        L(G) = w · Σ_l L_CX(G(X), X, l) + α · Σ_l L_CX(G(X), Y, l)

    with ``L_CX(a, b, l) = −log CX(Φ_l(a), Φ_l(b))``, Φ_l the encoder's features, against the
    content at ``conv4_2`` and against the target domain at ``conv3_2`` and ``conv4_2``. Every
    domain needs a training of its own; the style images of :meth:`stylize` have no part.

    Args:
        encoder: An :class:`tfstyle.encoders.Encoder`, frozen, or its name.
        weights: Of an encoder given by name, see :class:`tfstyle.encoders.VGG16`.
        widths: Channels of the generator, see :class:`CascadedRefinement`; the paper's has more.
        generator: A model from (B, H, W, 1) to (B, H, W, 1) with an attribute ``stride``, instead
            of the cascaded refinement network.
        name: Keras model name.

    Raises:
        ArgumentError: unknown encoder, or widths that cannot be used.
        WeightsError: weights that cannot be had.

    Example:
        >>> model = ContextualTransformation("vgg19")                        # doctest: +SKIP
        >>> model.compile(optimizer="adam")                                  # doctest: +SKIP
        >>> model.fit(tfstyle.data.pair_dataset(scans), steps_per_epoch=100) # doctest: +SKIP
        >>> generated = model.stylize(content)                               # doctest: +SKIP

    It fetches weights and trains for an hour.

    Reference: Mechrez, Talmi and Zelnik-Manor, "The contextual loss for image transformation with
    non-aligned data", arXiv:1803.02077, section 5: loss and generator of unpaired domain transfer.
    """

    method = "contextual_transformation"
    needs_style = False

    def __init__(
        self,
        encoder: Encoder | str = "vgg19",
        weights: str | None = "imagenet",
        widths: Sequence[int] = (256, 256, 128, 64, 32),
        generator: keras.Model | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name or self.method)
        self.encoder = cut_encoder(
            encoder, weights, lambda family: [*_content_layers(family), *_style_layers(family)]
        )
        self.generator = generator or CascadedRefinement(widths)
        self.content_tracker = keras.metrics.Mean(name="content_loss")
        self.style_tracker = keras.metrics.Mean(name="style_loss")
        self._settings: dict = {}
        self.build((None, None, None, 1))

    @classmethod
    def ready(  # type: ignore[override]
        cls, model: str | Path | ContextualTransformation | None = None
    ) -> ContextualTransformation:
        """A trained model: the model itself, its ``.keras`` file, or a folder with ``model.keras``.

        Raises:
            ArgumentError: without `model`, since there is nothing to run before training.
            InputFileError: if the file is missing, damaged or holds something else.
        """
        if isinstance(model, cls):
            return model
        if model is None:
            raise ArgumentError(
                "model: contextual_transformation is trained for one target domain; give a trained "
                "model's .keras file. Train one with tfstyle.baselines.ContextualTransformation, "
                "compile, fit on pair_dataset(scans, target_scans), and save."
            )
        path = Path(model)
        return cls.load(path / MODEL_FILE if path.is_dir() else path)

    def _made_of(self) -> dict:
        return {"generator": self.generator}

    # -- inference -------------------------------------------------------------------------
    def call(self, inputs):
        """Generates from ``{"content": …}`` or the content itself; sizes as the generator's."""
        return self.generator(gray_tensor(_content_of(inputs), "content"))

    def build(self, input_shape):
        self.built = True  # the parts are

    def compute_output_shape(self, input_shape):
        return (*_content_of(input_shape)[:3], 1)

    def _plain(self, content, styles, strength):
        shape = ops.shape(content)
        extended = extend_to_stride(content, self.generator.stride)
        generated = ops.clip(self.generator(extended)[:, : shape[1], : shape[2]], 0.0, 1.0)
        if strength is not None:
            generated = strength * generated + (1.0 - strength) * content
        return generated

    # -- training --------------------------------------------------------------------------
    def compile(
        self,
        optimizer="adam",
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        content_layers: Sequence[str] | Mapping[str, float] | None = None,
        style_layers: Sequence[str] | Mapping[str, float] | None = None,
        contextual: ContextualLoss | None = None,
        jit_compile: bool | str = "auto",
        **kwargs,
    ):
        """Chooses L = w·Σ L_CX(G, X) + α·Σ L_CX(G, Y).

        Args:
            optimizer: Keras optimizer or its name.
            content_weight: w.
            style_weight: α.
            content_layers: Taps of the loss against the content, or a dict from tap to weight;
                ``relu4_2``, or the default of a family that has no such tap.
            style_layers: Taps of the loss against the target domain, the same; ``relu3_2`` and
                ``relu4_2``.
            contextual: L_CX with other settings than ``ContextualLoss(BANDWIDTH)``.
            jit_compile: XLA; ``"auto"`` is Keras's choice.
            **kwargs: Passed to ``keras.Model.compile``.

        Raises:
            ArgumentError: unknown layer, or a layer behind the encoder's depth.
        """
        own, self._contextual = self.encoder, contextual or ContextualLoss(BANDWIDTH)
        self._settings = {
            "content_weight": float(content_weight),
            "style_weight": float(style_weight),
            "content_layers": own.weigh(content_layers or _content_layers(own), "content_layers"),
            "style_layers": own.weigh(style_layers or _style_layers(own), "style_layers"),
        }
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "contextual": keras.saving.serialize_keras_object(self._contextual),
            **self._settings,
        }

    def compile_from_config(self, config):
        config = dict(config)
        for name in ("optimizer", "contextual"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    def losses_of(self, content, style, generated) -> dict:
        """A dict of "loss", "content_loss" and "style_loss", each (B,), of X, Y and G(X).

        All are float tensors (B, H, W, 1) in [0, 1]; Y may have another size.
        """
        rules = self._settings
        taps = sorted({*rules["content_layers"], *rules["style_layers"]}, key=self.encoder.order)
        features = self.encoder(generated, taps=taps)

        def term(target, chosen):
            targets = self.encoder(target, taps=[*chosen])
            return sum(
                weight * self._contextual.call(ops.stop_gradient(targets[name]), features[name])
                for name, weight in chosen.items()
            )

        content_loss = term(content, rules["content_layers"])
        style_loss = term(style, rules["style_layers"])
        loss = rules["content_weight"] * content_loss + rules["style_weight"] * style_loss
        return {"loss": loss, "content_loss": content_loss, "style_loss": style_loss}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ArgumentError("sample_weight: has no meaning here; give content and style alone.")
        content, style = pair_of(x if y is None else (x, y))
        terms = self.losses_of(content, gray_tensor(style, "style"), y_pred)
        self.content_tracker.update_state(terms["content_loss"])
        self.style_tracker.update_state(terms["style_loss"])
        # Keras adds up the replicas' gradients, and multiplies what it reports.
        return ops.mean(terms["loss"]) / self.distribute_strategy.num_replicas_in_sync

    # -- saving ----------------------------------------------------------------------------
    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "generator": keras.saving.serialize_keras_object(self.generator),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("encoder", "generator"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def build_from_config(self, config):
        """Nothing to do: every weight exists after the constructor."""


def _content_of(inputs):
    """The content, or its shape, out of what ``fit`` takes: it itself, a pair, or a dictionary."""
    if isinstance(inputs, Mapping):
        return inputs["content"]
    pair = isinstance(inputs, (list, tuple)) and not isinstance(inputs[0], (int, type(None)))
    return inputs[0] if pair else inputs


def _content_layers(family) -> tuple[str, ...]:
    return known_taps(family, CONTENT_LAYERS, family.default_content_layers)


def _style_layers(family) -> tuple[str, ...]:
    return known_taps(family, STYLE_LAYERS, family.default_style_layers)
