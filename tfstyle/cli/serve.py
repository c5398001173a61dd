"""``tfstyle serve``."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from tfstyle.cli.options import Reporting
from tfstyle.cli.output import complain, console, plain

EXAMPLES = """Examples:
  tfstyle export && tfstyle serve
  tfstyle serve --models saved_models --port 9000
  tfstyle serve --port 0 --json"""

_SERVERS = {
    "tensorflow_model_server": "tensorflow_model_server, on all interfaces",
    "docker": "TensorFlow Serving in Docker",
    "development": "tfstyle's development server",
}


def serve(
    *,
    models: str = "saved_models",
    port: int = 8500,
    backend: Literal["auto", "tensorflow_model_server", "docker", "development"] = "auto",
    reporting: Reporting = Reporting(),
) -> None:
    """Serve exported models over gRPC.

    Starts TensorFlow Serving: tensorflow_model_server where it is on PATH, else the official image
    where Docker runs and has it; else tfstyle's own development server, on loopback. It says which.
    There is no encryption and no authentication. For REST, batching, labels and metrics see
    serving/README.md.

    Args:
        models: Folder of models, or of one model's versions.
        port: Port of gRPC; 0 takes a free one.
        backend: Which server; docker fetches the image if need be.
    """
    from tfstyle import serving

    if not reporting.quiet:  # half a minute may pass until it is ready, which says so
        complain(f"loading the models of {models}")

    def ready(info: Any) -> None:
        if reporting.json:
            facts = {"address": info.address, "backend": info.backend, "models": info.models}
            print(json.dumps(facts, default=plain), flush=True)
        else:
            out = console()
            out.print(f"Serving {', '.join(info.models)} at {info.address} (gRPC).")
            out.print(f"Server: {_SERVERS[info.backend]}. Stop with Ctrl-C.")
            sys.stdout.flush()

    serving.serve(models, port, backend=backend, on_ready=ready)
