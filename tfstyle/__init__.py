"""tfstyle: style transfer for medical images, in TensorFlow and Keras.

Gives a scan the gray scale of another scan without moving or inventing anatomy. Start with
:func:`tfstyle.from_preset`, or with :class:`tfstyle.StyleAugmentation` in training.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tfstyle._registration import register

__version__ = "0.2.0"

if TYPE_CHECKING:
    import os

    from tfstyle.augment import StyleAugmentation
    from tfstyle.style_bank import StyleBank
    from tfstyle.style_transfer import StyleTransfer
    from tfstyle.tone import ToneTransfer

_LAZY = {
    "StyleAugmentation": "tfstyle.augment",
    "StyleBank": "tfstyle.style_bank",
    "StyleTransfer": "tfstyle.style_transfer",
    "ToneTransfer": "tfstyle.tone",
}
_MODULES = (
    "baselines",
    "beam",
    "callbacks",
    "convert",
    "data",
    "encoders",
    "errors",
    "export",
    "layers",
    "limits",
    "losses",
    "metrics",
    "presets",
    "runs",
    "segmentation",
    "serving",
    "tone",
)


def from_preset(preset: str | os.PathLike | None = None) -> ToneTransfer | StyleTransfer:
    """The model of a released preset or of a preset folder.

    Args:
        preset: A name of ``tfstyle.presets.names()``, or a folder that ``save_to_preset`` or
            ``tfstyle train`` wrote. Defaults to the tone transfer that tfstyle recommends.

    Returns:
        A ``keras.Model`` with ``stylize(content, style, strength=1.0)``.

    Raises:
        WeightsError: unknown name, missing file or wrong checksum.

    Example:
        >>> model = tfstyle.from_preset()
        >>> generated = model.stylize(content, style)      # (H, W) float32 in [0, 1]
    """
    return importlib.import_module("tfstyle.presets").load(preset)


def __getattr__(name: str):
    """Loads TensorFlow only when something needs it."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tfstyle.{name}")
    raise AttributeError(f"module 'tfstyle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


register()

__all__ = ["StyleAugmentation", "StyleBank", "StyleTransfer", "ToneTransfer", "from_preset"]
__all__ += _MODULES
