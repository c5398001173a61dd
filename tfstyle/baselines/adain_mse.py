"""AdaIN with the content loss of its own paper: Huang and Belongie, ICCV 2017."""

from __future__ import annotations

import numpy as np

from tfstyle import presets
from tfstyle.baselines.base import Baseline
from tfstyle.encoders import Encoder
from tfstyle.errors import ArgumentError
from tfstyle.style_transfer import StyleTransfer

#: The preset that ``scripts/train_release.py train --name vgg16_ct_mse`` makes.
PRESET = "vgg16_ct_mse"


class AdaINMSE(Baseline):
    """A ``StyleTransfer`` trained with MSE between features instead of the contextual loss.

    It is the same model and another loss, ``compile(content_loss="mse")``, against AdaIN's output
    (equation 12), with the moments as style (equation 13); :meth:`recipe` gives it for training,
    and so does ``tfstyle train --content-loss mse``.

    Args:
        model: A trained :class:`tfstyle.StyleTransfer`, or what ``StyleTransfer.open`` takes: a
            preset folder, a run's folder, a ``.keras`` file. Unless given the preset
            ``vgg16_ct_mse``, where it comes with tfstyle.

    Raises:
        ArgumentError: without a model, or where the model says that it was trained with another
            content loss.
        InputFileError: if a model file is missing or damaged.
        WeightsError: if there is no such preset.

    Example:
        >>> encoder = tfstyle.encoders.VGG16(weights=None, depth="relu1_1")
        >>> model = AdaINMSE.recipe(encoder, "relu1_1", style_layers="relu1_1")
        >>> history = model.fit(images, images, verbose=0)
        >>> AdaINMSE(model).stylize(content, style).shape
        (64, 64)
    """

    method = "adain_mse"

    def __init__(self, model: StyleTransfer | str | None = None):
        if model is None and PRESET in presets.names():
            model = PRESET
        if model is None:
            raise ArgumentError(
                "model: adain_mse needs a trained model. Train one with `tfstyle train "
                "--content-loss mse`, or tfstyle.baselines.AdaINMSE.recipe(...).fit(...), and give "
                "the model or its path."
            )
        trained = None
        if not isinstance(model, StyleTransfer):
            trained = _content_loss_of_card(model)
            model = StyleTransfer.open(model)
        assert isinstance(model, StyleTransfer)
        if trained is None and model.compiled:
            trained = model.get_compile_config()["content_loss"]
        if trained not in (None, "mse"):
            raise ArgumentError(
                "model: was trained with another content loss than MSE; give one of "
                '`tfstyle train --content-loss mse` or compile(content_loss="mse").'
            )
        self.model = model

    @staticmethod
    def recipe(
        encoder: Encoder | str = "vgg19", layer: str | None = None, **options
    ) -> StyleTransfer:
        """An untrained model, compiled with the losses of the paper.

        Args:
            encoder: Encoder or its name.
            layer: Tap of AdaIN; the encoder's default (``relu4_1`` for VGG, the paper's).
            **options: Passed to ``StyleTransfer.compile``; ``style_weight`` is the paper's λ.
        """
        model = StyleTransfer(encoder, layer=layer)
        # Equation 12 compares at the layer of AdaIN.
        options = {"content_layers": (model.layer,), **options}
        model.compile(content_loss="mse", style_loss="moments", **options)
        return model

    def _generate(self, images, styles, strength, batch_size):
        return self.model.stylize(
            images,
            [np.asarray(one) for _, one in styles],
            strength=strength,
            style_weights=[weight for weight, _ in styles],
            batch_size=batch_size,
        )


def _content_loss_of_card(source) -> str | None:
    """The content loss that a preset's card names, None where there is no card or no word of it."""
    if str(source).endswith(".keras"):
        return None
    card = presets.card(source)
    return card.get("training", card.get("recipe", {})).get("content_loss")
