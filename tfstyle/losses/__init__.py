"""Losses of style transfer, each a function per sample of two feature maps."""

from tfstyle.losses.contextual import ContextualLoss, contextual_loss, contextual_similarity
from tfstyle.losses.simple import (
    gram_loss,
    gram_matrix,
    histogram_loss,
    moments_loss,
    mse_loss,
    total_variation_loss,
)

#: Content losses by the name that ``StyleTransfer.compile`` takes.
CONTENT_LOSSES = {"contextual": contextual_loss, "mse": mse_loss}
#: Style losses by the name that ``StyleTransfer.compile`` takes.
STYLE_LOSSES = {"moments": moments_loss, "gram": gram_loss}

__all__ = [
    "CONTENT_LOSSES",
    "STYLE_LOSSES",
    "ContextualLoss",
    "contextual_loss",
    "contextual_similarity",
    "gram_loss",
    "gram_matrix",
    "histogram_loss",
    "moments_loss",
    "mse_loss",
    "total_variation_loss",
]
