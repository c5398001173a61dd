"""``tfstyle serve``."""

from __future__ import annotations

import json
import sys
from typing import Any

from tfstyle.cli.options import Reporting
from tfstyle.cli.output import complain, console, plain

EXAMPLES = """Examples:
  tfstyle export && tfstyle serve
  tfstyle serve --models saved_models --port 9000
  tfstyle serve --port 0 --json"""


def serve(
    *,
    models: str = "saved_models",
    port: int = 8500,
    reporting: Reporting = Reporting(),
) -> None:
    """Serve exported models over gRPC, on this machine.

    Starts a development server on loopback, without encryption and authentication, which answers as
    TensorFlow Serving does. To serve others, and for REST, batching, labels and metrics, start
    TensorFlow Serving with the same folder; see serving/README.md.

    Args:
        models: Folder of models, or of one model's versions.
        port: Port of gRPC; 0 takes a free one.
    """
    from tfstyle import serving

    if not reporting.quiet:  # half a minute may pass until it is ready, which says so
        complain(f"loading the models of {models}")

    def ready(server: Any) -> None:
        if reporting.json:
            facts = {"address": server.address, "models": server.models}
            print(json.dumps(facts, default=plain), flush=True)
        else:
            out = console()
            out.print(f"Serving {', '.join(server.models)} at {server.address} (gRPC).")
            out.print("Development server; stop with Ctrl-C.")
            sys.stdout.flush()

    serving.serve(models, port, on_ready=ready)
