"""Export to SavedModels, for TensorFlow Serving and whatever else loads them.

:func:`export_stylize` and :func:`export_unet` write a model as ``<folder>/<version>/``, the layout
that TensorFlow Serving watches, with its signatures, metadata and warm-up records;
:func:`export_servable` does it for any table of signatures. :class:`Servable` loads and runs what
was written through TensorFlow's session loader, without the model's Python code.

Importing this package does not import TensorFlow: each name is loaded when it is first used.

Example:
    >>> from tfstyle.export import export_stylize
    >>> export_stylize(model, "saved_models/stylize")             # doctest: +SKIP
    PosixPath('saved_models/stylize/1')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.export.saved_model import export_servable, export_stylize, read_metadata
    from tfstyle.export.segment import export_unet
    from tfstyle.export.servable import Servable, list_versions, resolve_models

_MODULES = {
    "Servable": "servable",
    "export_servable": "saved_model",
    "export_stylize": "saved_model",
    "export_unet": "segment",
    "list_versions": "servable",
    "read_metadata": "saved_model",
    "resolve_models": "servable",
}

__all__ = [
    "Servable",
    "export_servable",
    "export_stylize",
    "export_unet",
    "list_versions",
    "read_metadata",
    "resolve_models",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
