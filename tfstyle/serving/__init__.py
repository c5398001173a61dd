"""Export to SavedModel, a local server that speaks TensorFlow Serving's protocol, and a client.

Three steps, each usable on its own:

- :func:`export_stylize` writes a trained model as ``saved_models/stylize/<version>/``, the layout
  that TensorFlow Serving watches; :func:`export_servable` does it for any table of signatures;
- :func:`serve` serves such folders over gRPC and REST with ``tensorflow_model_server`` where that
  is on PATH, otherwise with :class:`EmbeddedServer`, which answers the same protocol;
- :class:`Client` and :class:`AsyncClient` call either of them (or TensorFlow Serving anywhere)
  with NumPy arrays or DICOM.

Importing this package starts nothing and does not import TensorFlow: each name below is loaded
when it is first used.

Example:
    >>> from tfstyle.export import export_stylize
    >>> from tfstyle.serving import Client, EmbeddedServer
    >>> export_stylize(model, "saved_models/stylize")             # doctest: +SKIP
    >>> with EmbeddedServer("saved_models", port=0) as server:    # doctest: +SKIP
    ...     with Client(f"127.0.0.1:{server.port}") as client:
    ...         generated = client.stylize(content, style)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.serving.client import AsyncClient, Client
    from tfstyle.serving.scheduler import Batching
    from tfstyle.serving.server import EmbeddedServer, Limits, ServerInfo, serve

_MODULES = {
    "AsyncClient": "client",
    "Client": "client",
    "Batching": "scheduler",
    "EmbeddedServer": "server",
    "Limits": "server",
    "ServerInfo": "server",
    "serve": "server",
}

__all__ = [
    "AsyncClient",
    "Batching",
    "Client",
    "EmbeddedServer",
    "Limits",
    "ServerInfo",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
