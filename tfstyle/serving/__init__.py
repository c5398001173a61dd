"""A client for TensorFlow Serving, and a development server.

- :class:`Client` calls a served model over gRPC with NumPy arrays, wherever it runs;
- :class:`DevelopmentServer` answers the same protocol on loopback; :func:`serve` runs it.

All of it needs the extra ``serving``: ``pip install 'tfstyle[serving]'``. Importing this package
starts nothing and imports neither TensorFlow nor gRPC.

Example:
    >>> with DevelopmentServer("saved_models", port=0) as server:    # doctest: +SKIP
    ...     with Client(server.address) as client:
    ...         generated = client.stylize(content, style)
"""

from tfstyle.serving.client import Client
from tfstyle.serving.launch import serve
from tfstyle.serving.server import DevelopmentServer, Limits, resolve_models

__all__ = ["Client", "DevelopmentServer", "Limits", "resolve_models", "serve"]
