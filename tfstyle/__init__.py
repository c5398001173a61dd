"""tfstyle: contextual style transfer for medical images, in TensorFlow and Keras.

Learns the gray-scale style of a single target scan and gives it to other scans without moving
or inventing anatomy. Start with :class:`tfstyle.StyleTransfer`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfstyle.augment import StyleAugmentation
    from tfstyle.style_bank import StyleBank
    from tfstyle.style_transfer import StyleTransfer

_LAZY = {
    "StyleAugmentation": "tfstyle.augment",
    "StyleBank": "tfstyle.style_bank",
    "StyleTransfer": "tfstyle.style_transfer",
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
    "losses",
    "metrics",
    "presets",
    "segmentation",
    "serving",
)


def __getattr__(name: str):
    """Loads TensorFlow only when something needs it."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tfstyle.{name}")
    raise AttributeError(f"module 'tfstyle' has no attribute {name!r}")


__all__ = ["StyleAugmentation", "StyleBank", "StyleTransfer", *_MODULES]
