"""StyleTransfer: the model of the paper, as a ``keras.Model`` with fit, stylize and presets."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfstyle import encoders
from tfstyle._private.images import as_batch, check_strength, gray_tensor, one_of, pair_of
from tfstyle._private.keras_files import KerasFile
from tfstyle.decoder import Decoder
from tfstyle.encoders import IMAGE_TAP, Encoder
from tfstyle.errors import ArgumentError, WeightsError
from tfstyle.layers import AdaIN, moments
from tfstyle.layers.padding import extend_to_stride
from tfstyle.losses import (
    CONTENT_LOSSES,
    STYLE_LOSSES,
    ContextualLoss,
    histogram_loss,
    mse_loss,
    total_variation_loss,
)
from tfstyle.presets import PresetModel
from tfstyle.style_codes import StyleCodes

#: Terms of the loss in the training history, each a mean over samples, before its weight.
LOSS_TERMS = ("loss", "content_loss", "style_loss", "histogram_loss", "paired_loss", "tv_loss")


@keras.saving.register_keras_serializable(package="tfstyle")
class StyleTransfer(PresetModel, StyleCodes, KerasFile, keras.Model):
    """Gives content images the gray-scale style of other images: G = D(AdaIN(E(X), E(Y))).

    Args:
        encoder: An :class:`tfstyle.encoders.Encoder`, or its name (a key of
            ``tfstyle.encoders.ENCODERS`` such as ``"vgg16"``), which is then built with ImageNet
            weights, as deep as `layer` asks.
        layer: Tap at which AdaIN works, from where the decoder goes back to the image.
            Defaults to the encoder's. The paper's is VGG's ``"relu4_1"``; shallower taps keep
            anatomy better.
        decoder: A :class:`tfstyle.decoder.Decoder` for that tap. Defaults to one made from
            the encoder's tap table.
        name: Keras model name.

    Raises:
        ArgumentError: unknown encoder, a layer that the encoder has not or that is the image
            itself, or a decoder for another map than the layer's.

    Example:
        >>> encoder = tfstyle.encoders.VGG16(weights=None, depth="relu2_1")
        >>> model = StyleTransfer(encoder, layer="relu2_1")
        >>> model.compile("adam", content_layers="relu2_1", style_layers=["relu1_1", "relu2_1"])
        >>> history = model.fit(images, images, verbose=0)   # or tfstyle.data.pair_dataset(scans)
        >>> model.stylize(content, style).shape              # float32 in [0, 1]
        (64, 64)

    Reference: Xu, Li and Shin, "Medical image processing with contextual style transfer",
    Hum. Cent. Comput. Inf. Sci. 10:46 (2020).
    """

    def __init__(
        self,
        encoder: Encoder | str = "vgg16",
        layer: str | None = None,
        decoder: Decoder | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name or "style_transfer")
        if isinstance(encoder, str):
            family = encoders.family(encoder)
            encoder = family(depth=family.deepest([family.default_depth, layer or IMAGE_TAP]))
        self.encoder = encoder
        self.layer = layer or self.encoder.default_layer
        self.encoder.check_depth(self.layer)
        self.adain = AdaIN(name="adain")
        self.decoder = decoder or Decoder.for_encoder(self.encoder, self.layer)
        tap = self.encoder.tap(self.layer)
        if (self.decoder.channels[0], self.decoder.strides[0]) != (tap.channels, tap.stride):
            raise ArgumentError(
                f"decoder: takes {self.decoder.channels[0]} channels of stride "
                f"{self.decoder.strides[0]}, but {self.layer!r} has {tap.channels} of stride "
                f"{tap.stride}; use Decoder.for_encoder(encoder, {self.layer!r})."
            )
        self.trackers = [keras.metrics.Mean(name=name) for name in LOSS_TERMS]
        self._settings: dict = {}
        self._contextual: ContextualLoss | None = None
        self._xla = False
        self.build(dict.fromkeys(("content", "style"), (None, None, None, 1)))

    def build(self, input_shape):
        features = (None, None, None, self.decoder.channels[0])
        self.adain.build(features, features)
        self.built = True

    # -- inference -------------------------------------------------------------------------
    @property
    def stride(self) -> int:
        """Image sizes that are multiples of it need no padding."""
        return self.encoder.tap(self.layer).stride

    def encode(self, images):
        """Feature map of `images` at the model's layer; no padding is applied."""
        return self.encoder(images, taps=(self.layer,))[self.layer]

    def call(self, inputs, strength=None):
        """Generates from ``{"content": …, "style": …}`` or ``[content, style]``, of any size.

        Args:
            inputs: float tensors (B, H, W, 1) in [0, 1]; the style may have another size, and a
                batch of 1.
            strength: scalar in [0, 1] or None for 1.

        Returns:
            float tensor (B, H, W, 1), not clipped.

        Raises:
            ArgumentError: what :func:`tfstyle._private.images.gray_tensor` refuses.
        """
        content, style = (
            gray_tensor(images, name) for images, name in zip(pair_of(inputs), ("content", "style"))
        )
        features = [self.encode(self._extend(images)) for images in (content, style)]
        shape = ops.shape(content)
        return self.decoder(self.adain(*features, strength=strength))[:, : shape[1], : shape[2]]

    def compute_output_shape(self, input_shape):
        return (*pair_of(input_shape)[0][:3], 1)

    def code_of(self, style):
        """Moments of the features of `style`, float32 (B, 2, C): all that AdaIN takes from it."""
        found = moments(self.encode(self._extend(style)), self.adain.epsilon)
        return ops.concatenate([ops.cast(values, "float32")[:, 0] for values in found], axis=1)

    @property
    def code_shape(self) -> tuple[int, int]:
        """Shape of a style code without the batch axis: (2, C)."""
        return (2, self.encoder.tap(self.layer).channels)

    def generate_from_code(self, content, code, strength=None):
        """:meth:`generate` with a code of :meth:`code_of`, B or 1, instead of a style.

        Sizes that are not multiples of the stride are extended by reflection below and to the
        right, and the result is cropped back.
        """
        shape = ops.shape(content)
        features = self.encode(self._extend(content))
        mean, std = code[:, 0, None, None], code[:, 1, None, None]
        result = self.decoder(self.adain.transfer(features, mean, std, strength=strength))
        return ops.cast(ops.clip(result[:, : shape[1], : shape[2]], 0.0, 1.0), "float32")

    def _extend(self, images):
        return extend_to_stride(images, self.stride)

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
    ) -> np.ndarray:
        """Gives `content` the gray-scale style of `style`: D(AdaIN(E(X), E(Y))).

        Args:
            content: float array (H, W), (H, W, 1) or (B, H, W, 1) with values in [0, 1].
            style: one image (H', W') or (H', W', 1); a batch (B, H', W', 1) with one style for
                each content; a code of :meth:`encode_style`; or a list of images and codes,
                blended with `style_weights`.
            strength: 0 keeps the content's features, 1 takes the style's statistics in full;
                between them AdaIN is interpolated (Huang and Belongie, equation 14).
            style_weights: One weight for each style of a list, at least 0, not all 0; they are
                divided by their sum. Defaults to equal weights.
            batch_size: Images a call.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: shapes, values, strength or weights that cannot be used.

        Example:
            >>> model.stylize(content, [style, content], style_weights=[0.7, 0.3]).shape
            (64, 64)
        """
        check_strength(strength)
        images, shape = as_batch(content, "content")
        codes = self.weighted_codes(style, style_weights, len(images), batch_size)
        code = functools.reduce(np.add, (weight * one for weight, one in codes))
        generate = self.traced(
            "generate",
            self.generate_from_code,
            self.images_spec,
            self.code_spec,
            tf.TensorSpec((), tf.float32),
        )
        results = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            own = code if len(code) == 1 else code[part]
            results.append(generate(images[part], own, np.float32(strength)).numpy())
        return np.concatenate(results).reshape(shape)

    def fingerprint(self) -> str:
        """Short text that is the same for models that generate the same images."""
        digest = hashlib.sha256(self.layer.encode())
        for part in (self.encoder, self.decoder):
            digest.update(repr(sorted(part.get_config().items())).encode())
            for weight in part.get_weights():
                digest.update(weight.tobytes())
        return digest.hexdigest()[:32]

    # -- training --------------------------------------------------------------------------
    def compile(
        self,
        optimizer="adam",
        content_loss: str | ContextualLoss = "contextual",
        style_loss: str = "moments",
        style_weight: float = 1.0,
        content_layers: Sequence[str] | Mapping[str, float] | None = None,
        style_layers: Sequence[str] | Mapping[str, float] | None = None,
        content_weight: float = 1.0,
        histogram_weight: float = 0.0,
        paired_weight: float = 0.0,
        tv_weight: float = 0.0,
        bandwidth: float = 0.1,
        spatial_weight: float = 0.0,
        jit_compile: bool | str = "auto",
        **kwargs,
    ):
        """Chooses L = w·L_content(G, X) + α·L_style(G, Y) + γ·W₁(G, Y) + δ·|G − Y| + β·TV(G).

        Args:
            optimizer: Keras optimizer or its name.
            content_loss: ``"contextual"`` (against E(X), the paper's) or ``"mse"`` (against
                AdaIN's output at the model's layer, Huang 2017; other layers against E(X)), or a
                :class:`tfstyle.losses.ContextualLoss` for its further settings.
            style_loss: ``"moments"`` or ``"gram"``.
            style_weight: α.
            content_layers: Taps of the content loss, or a dict from tap to weight.
                Defaults to the encoder's.
            style_layers: Taps of the style loss, or a dict from tap to weight; ``"image"`` is
                the gray image itself.
            content_weight: w.
            histogram_weight: γ, of :func:`tfstyle.losses.histogram_loss`; 0 leaves it out.
            paired_weight: δ, of the mean absolute difference of generated and style, over the
                pairs that the data marks as ``"paired"``: the same crop in two windows, where
                the style is what the generated image ought to be
                (:func:`tfstyle.data.pair_dataset` with ``same_place``).
            tv_weight: β.
            bandwidth: h of ``content_loss="contextual"``.
            spatial_weight: Bilateral variant of ``content_loss="contextual"``; 0 is the paper's.
            jit_compile: XLA; ``"auto"`` uses it where the platform supports it.
            **kwargs: Passed to ``keras.Model.compile``.

        Raises:
            ArgumentError: unknown loss or layer, or a layer behind the encoder's depth.
        """
        if isinstance(content_loss, ContextualLoss):
            self._contextual = content_loss
        elif content_loss == "contextual":
            self._contextual = ContextualLoss(bandwidth, spatial_weight)
        else:
            one_of("content_loss", content_loss, CONTENT_LOSSES)
        one_of("style_loss", style_loss, STYLE_LOSSES)
        own = self.encoder
        content_layers = content_layers or own.default_content_layers
        style_layers = style_layers or own.default_style_layers
        self._settings = {
            "content_loss": content_loss,
            "style_loss": style_loss,
            "style_weight": float(style_weight),
            "content_weight": float(content_weight),
            "tv_weight": float(tv_weight),
            "histogram_weight": float(histogram_weight),
            "paired_weight": float(paired_weight),
            "bandwidth": float(bandwidth),
            "spatial_weight": float(spatial_weight),
            "content_layers": own.weigh(content_layers, "content_layers"),
            "style_layers": own.weigh(style_layers, "style_layers"),
        }
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        # Keras would compile whole steps of all replicas as one program. XLA refuses that for more
        # than one device, and leaves out assertions: it gets the losses and gradients alone.
        self._xla = bool(self.jit_compile)  # type: ignore[has-type]
        self.jit_compile = False
        parts: tuple[Callable, ...] = (self.encoder, self.decoder)
        # Fewer products, more sums: faster where XLA fuses the sums, on the CPU.
        if self._xla and not tf.config.list_logical_devices("GPU"):
            parts = (self.encoder.faster(), self.decoder.faster())
        # A function: what is behind it Keras does not count among the model's layers.
        self._parts = lambda: parts

    def get_compile_config(self):
        if not self.compiled:
            return None
        settings = dict(self._settings)
        if isinstance(settings["content_loss"], ContextualLoss):
            settings["content_loss"] = keras.saving.serialize_keras_object(self._contextual)
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer), **settings}

    def compile_from_config(self, config):
        config = dict(config)
        for name in ("optimizer", "content_loss"):
            if isinstance(config[name], dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        return self.trackers

    def losses_of(self, content, style, paired=None) -> dict:
        """A dict of the terms of ``LOSS_TERMS``, each (B,), and "generated" (B, H, W, 1).

        `content` and `style` are float tensors (B, H, W, 1) in [0, 1], H and W multiples of the
        stride; `paired` (B,) is 1 where the style is the content in another window, or None.
        """
        rules = self._settings
        content_layers, style_layers = rules["content_layers"], rules["style_layers"]
        taps = sorted({*content_layers, *style_layers, self.layer}, key=self.encoder.order)
        encoder, decoder = self._parts()
        if content.shape[1:] == style.shape[1:]:
            both = encoder(ops.concatenate([content, style], axis=0), taps=taps)
            half = ops.shape(content)[0]
            content_features = {k: v[:half] for k, v in both.items()}
            style_features = {k: v[half:] for k, v in both.items()}
        else:
            content_features = encoder(content, taps=taps)
            style_features = encoder(style, taps=taps)
        content_features = {k: ops.stop_gradient(v) for k, v in content_features.items()}
        style_features = {k: ops.stop_gradient(v) for k, v in style_features.items()}
        mixed = self.adain(content_features[self.layer], style_features[self.layer])
        generated = decoder(mixed)
        wanted = sorted({*content_layers, *style_layers}, key=self.encoder.order)
        features = encoder(generated, taps=wanted)

        content_loss = 0.0
        for name, weight in content_layers.items():
            target = content_features[name]
            if rules["content_loss"] == "mse":
                target = mixed if name == self.layer else target
                content_loss += weight * mse_loss(features[name], target)
            elif self._contextual is not None:
                content_loss += weight * self._contextual.call(target, features[name])
        style_function = STYLE_LOSSES[rules["style_loss"]]
        style_loss = 0.0
        for name, weight in style_layers.items():
            style_loss += weight * style_function(features[name], style_features[name])
        variation = total_variation_loss(generated)
        nothing = ops.zeros_like(variation)
        histogram = histogram_loss(generated, style) if rules["histogram_weight"] else nothing
        difference = nothing
        if paired is not None and rules["paired_weight"]:
            difference = ops.abs(ops.cast(generated, "float32") - ops.cast(style, "float32"))
            difference = ops.cast(paired, "float32") * ops.mean(difference, axis=(1, 2, 3))
        terms = {
            "content_loss": content_loss,
            "style_loss": style_loss,
            "histogram_loss": histogram,
            "paired_loss": difference,
            "tv_loss": variation,
        }
        weighted = (rules[name.replace("loss", "weight")] * term for name, term in terms.items())
        return {"generated": generated, "loss": functools.reduce(ops.add, weighted), **terms}

    def _track(self, terms):
        for tracker in self.trackers:
            tracker.update_state(terms[tracker.name])
        results = {metric.name: metric.result() for metric in self.metrics}
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Over several machines Keras averages along the first axis, which a scalar does not
            # have (keras-team/keras issue 20585).
            results = {name: ops.expand_dims(value, 0) for name, value in results.items()}
        return results

    def _inputs(self, data) -> dict:
        """A batch as ``fit`` takes it, as the arguments of :meth:`losses_of`.

        It is ``{"content": …, "style": …}``, with ``"paired"`` or without, or (content, style).
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None or (y is not None and isinstance(x, Mapping)):
            raise ArgumentError(
                "x, y, sample_weight: give content as x and style as y, or both in a dictionary "
                "as x; samples have no weights."
            )
        content, style = pair_of(x if y is None else (x, y))
        inputs = {
            name: self._extend(gray_tensor(images, name))
            for name, images in (("content", content), ("style", style))
        }
        if isinstance(x, Mapping):
            inputs = {**x, **inputs}
            if set(inputs) - {"content", "style", "paired"}:
                raise ArgumentError(
                    "x: must hold 'content' and 'style', and may hold 'paired', received "
                    f"{', '.join(map(repr, x))}."
                )
        return inputs

    def _compiled(self, function):
        return tf.function(function, jit_compile=True, autograph=False) if self._xla else function

    def train_step(self, data):
        inputs = self._inputs(data)
        step = self._compiled(self._terms_and_gradients)
        terms, gradients = step(inputs, self._global_batch(inputs))
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        return self._track(terms)

    def _terms_and_gradients(self, data, batch):
        """This replica's terms, each (B,), and its share of the gradients of their mean."""
        with tf.GradientTape() as tape:
            terms = self.losses_of(**data)
            loss = ops.sum(terms["loss"]) / ops.cast(batch, terms["loss"].dtype)
            scaled = self.optimizer.scale_loss(loss)
        return terms, tape.gradient(scaled, self.trainable_weights)

    def _global_batch(self, data):
        """Number of samples on all replicas; their shares may differ, and the optimizer sums."""
        batch = ops.cast(ops.shape(data["content"])[0], "float32")
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return batch
        return tf.distribute.get_replica_context().all_reduce("SUM", batch)

    def test_step(self, data):
        return self._track(self._compiled(self.losses_of)(**self._inputs(data)))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras would draw a batch and average its replicas' shares, which fails where they differ
        # in size. Only the optimizer has variables to make.
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            with self.distribute_strategy.scope():
                optimizer.build(self.trainable_variables)

    # -- saving ----------------------------------------------------------------------------
    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "layer": self.layer,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        config["decoder"] = keras.saving.deserialize_keras_object(config["decoder"])
        return cls(**config)

    def build_from_config(self, config):
        """Nothing to do: every weight exists after the constructor."""

    # -- presets ---------------------------------------------------------------------------
    def preset_settings(self):
        family = {cls: name for name, cls in encoders.ENCODERS.items()}.get(type(self.encoder))
        decoder = self.decoder.channels, self.decoder.strides
        if family is None or decoder != Decoder.plan(self.encoder, self.layer):
            raise WeightsError(
                "only models of a known encoder with the decoder that Decoder.for_encoder makes "
                "for it become presets; use save()."
            )
        return {
            "encoder": family,
            "layer": self.layer,
            "preprocessing": self.encoder.preprocessing,
        }

    @classmethod
    def from_preset_settings(cls, settings):
        encoder = encoders.get(
            settings["encoder"],
            weights=None,
            depth=settings["layer"],
            preprocessing=settings["preprocessing"],
        )
        return cls(encoder, layer=settings["layer"])

    def preset_variables(self):
        parts = {"encoder": self.encoder.weighted_layers(self.layer), "decoder": self.decoder.steps}
        return {
            f"{part}/{layer.name}/{variable.name}": variable
            for part, layers in parts.items()
            for layer in layers
            for variable in layer.weights
        }
