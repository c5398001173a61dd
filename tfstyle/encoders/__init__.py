"""Encoders E: frozen feature extractors with taps named as in the papers."""

from __future__ import annotations

from tfstyle.encoders.base import IMAGE_TAP, Encoder, Tap
from tfstyle.encoders.vgg import VGG16, VGG19
from tfstyle.errors import ArgumentError

#: Encoders by the name that the command line and presets use.
ENCODERS: dict[str, type[Encoder]] = {"vgg16": VGG16, "vgg19": VGG19}


def get(name: str, **options) -> Encoder:
    """Builds an encoder by name.

    Args:
        name: A key of :data:`ENCODERS`, for example ``"vgg16"``.
        **options: Passed to the encoder: ``weights``, ``depth``.

    Raises:
        ArgumentError: unknown name.
    """
    try:
        return ENCODERS[name.lower()](**options)
    except KeyError:
        raise ArgumentError(
            f"encoder: unknown name {name!r}; use one of {', '.join(ENCODERS)}."
        ) from None


__all__ = ["ENCODERS", "IMAGE_TAP", "VGG16", "VGG19", "Encoder", "Tap", "get"]
