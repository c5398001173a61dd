"""AdaIN with the content loss of its own paper: Huang and Belongie, ICCV 2017."""

from __future__ import annotations

import numpy as np

from tfstyle.baselines.base import Baseline
from tfstyle.style_transfer import StyleTransfer


class AdaINMSE(Baseline):
    """A ``StyleTransfer`` trained with MSE between features instead of the contextual loss.

    It is the same model and another loss, ``compile(content_loss="mse", style_loss="moments")``,
    against AdaIN's output (equation 12) and with the moments as style (equation 13), or
    ``tfstyle train --content-loss mse``.

    Args:
        model: A trained :class:`tfstyle.StyleTransfer`, or what ``StyleTransfer.open`` takes: a
            preset, a run's folder, a ``.keras`` file.

    Raises:
        InputFileError: if a model file is missing or damaged.
        WeightsError: if there is no such preset.

    Example:
        >>> AdaINMSE("vgg16_ct_mse").stylize(content, style).shape
        (64, 64)
    """

    method = "adain_mse"

    def __init__(self, model: StyleTransfer | str = "vgg16_ct_mse"):
        self.model = model if isinstance(model, StyleTransfer) else StyleTransfer.open(model)

    def _generate(self, images, styles, strength, batch_size):
        return self.model.stylize(
            images,
            [np.asarray(one) for _, one in styles],
            strength=strength,
            style_weights=[weight for weight, _ in styles],
            batch_size=batch_size,
        )
