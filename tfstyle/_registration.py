"""Registers what the package has with Keras, whichever of the two is imported first."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

#: Where layers, models, losses and metrics register with Keras, for the files that hold them.
_MODULES = (
    "augment",
    "baselines.contextual_transformation",
    "metrics.inception",
    "metrics.perceptual",
    "metrics.segmentation",
    "metrics.structure",
    "segmentation",
    "tone",
)


def register() -> None:
    """Registers now if Keras or TensorFlow is there, else as soon as Keras is imported.

    So ``keras.saving.load_model`` knows these classes, and ``import tfstyle`` loads neither.
    """
    if {"keras", "tensorflow"} & {*sys.modules}:
        _import_all()
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _import_all() -> None:
    for name in _MODULES:
        importlib.import_module(f"tfstyle.{name}")


class _AfterKeras(MetaPathFinder):
    """Finds Keras and the modules of this package as Python does, and sees them imported.

    A module of this package that imports Keras is let finish first: others import from it.
    """

    def __init__(self) -> None:
        self._unfinished = 0

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        own = name.startswith("tfstyle.")
        spec = PathFinder.find_spec(name, path, target) if own or name == "keras" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module) -> None:
            self._unfinished += own
            try:
                execute(module)
            finally:
                self._unfinished -= own
            if "keras" in sys.modules and not self._unfinished and self in sys.meta_path:
                sys.meta_path.remove(self)
                with suppress(ImportError):  # Keras without TensorFlow: nothing can be loaded
                    _import_all()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
