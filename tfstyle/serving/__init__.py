"""A client for TensorFlow Serving, a development server, and what starts a server.

- :class:`Client` and :class:`AsyncClient` call a served model over gRPC with NumPy arrays,
  wherever it runs;
- :func:`serve` starts TensorFlow Serving where it is at hand, else :class:`DevelopmentServer`,
  which answers the same protocol on loopback.

All of it needs the extra ``serving``: ``pip install 'tfstyle[serving]'``. Importing this package
starts nothing and imports neither TensorFlow nor gRPC.

Example:
    >>> with DevelopmentServer("saved_models", port=0) as server:    # doctest: +SKIP
    ...     with Client(server.address) as client:
    ...         generated = client.stylize(content, style)
"""

from tfstyle.serving.aio import AsyncClient
from tfstyle.serving.client import Client
from tfstyle.serving.launch import ServerInfo, serve
from tfstyle.serving.server import DevelopmentServer, Limits, resolve_models

__all__ = [
    "AsyncClient",
    "Client",
    "DevelopmentServer",
    "Limits",
    "ServerInfo",
    "resolve_models",
    "serve",
]
