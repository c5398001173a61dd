"""Encoders E: frozen feature extractors with taps named as in the papers."""

from __future__ import annotations

from tfstyle._private.images import one_of
from tfstyle.encoders.base import IMAGE_TAP, Encoder, Tap
from tfstyle.encoders.families import (
    ENCODERS,
    VGG16,
    VGG19,
    DenseNet121,
    DenseNet169,
    DenseNet201,
    ResNet50,
    ResNet101,
)


def family(name: str) -> type[Encoder]:
    """The class of an encoder by its name, a key of :data:`ENCODERS`.

    Raises:
        ArgumentError: unknown name.
    """
    name = str(name).lower()
    one_of("encoder", name, ENCODERS)
    return ENCODERS[name]


def get(name: str, **options) -> Encoder:
    """Builds an encoder by name, a key of :data:`ENCODERS`; options are those of :class:`Encoder`.

    Raises an ArgumentError for an unknown name.

    Example:
        >>> tfstyle.encoders.get("vgg16", weights=None, depth="relu1_1").name
        'vgg16'
    """
    return family(name)(**options)


__all__ = [
    "ENCODERS",
    "IMAGE_TAP",
    "VGG16",
    "VGG19",
    "DenseNet121",
    "DenseNet169",
    "DenseNet201",
    "Encoder",
    "ResNet50",
    "ResNet101",
    "Tap",
    "family",
    "get",
]
