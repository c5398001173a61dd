"""``python -m tfstyle.serving saved_models``: serve models until SIGTERM or Ctrl-C.

When the server answers, one line of JSON on standard output tells its backend, address and
models; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from tfstyle.errors import TfstyleError
from tfstyle.serving.server import BACKENDS, DEFAULT_HOST, DEFAULT_PORT, ServerInfo, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tfstyle.serving",
        description="Serve SavedModels over TensorFlow Serving's gRPC protocol.",
    )
    parser.add_argument(
        "models",
        nargs="?",
        default="saved_models",
        help="folder of models, or one model's folder (default: %(default)s)",
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="address (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(
            options.models, options.host, options.port, backend=options.backend, on_ready=_announce
        )
    except TfstyleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _announce(info: ServerInfo) -> None:
    models = {name: str(path) for name, path in info.models.items()}
    line = {"backend": info.backend, "address": info.address, "models": models}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
