"""Measures of style transfer: how much of the style arrived, how much of the content stayed."""

from __future__ import annotations

import importlib

#: Where each name lives. Modules are imported on first use: some need Keras, some NumPy alone.
_PLACES = {
    "preservation": ("body_mask", "edge_displacement", "structure_map", "structure_similarity"),
    "structure": ("structure_scores",),
    "style": ("histogram_distance", "style_distance_ratio"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"tfstyle.metrics.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'tfstyle.metrics' has no attribute {name!r}")


__all__ = sorted(_MODULE_OF)
