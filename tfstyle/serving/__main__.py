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
from dataclasses import fields

from tfstyle.errors import TfstyleError
from tfstyle.serving.scheduler import Batching
from tfstyle.serving.server import BACKENDS, DEFAULT_HOST, DEFAULT_PORT, Limits, ServerInfo, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tfstyle.serving",
        description="Serve SavedModels over TensorFlow Serving's protocol, gRPC and REST.",
    )
    parser.add_argument(
        "models",
        nargs="?",
        default="saved_models",
        help="folder of models, one model's folder, or a models.config (default: %(default)s)",
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="address (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--rest-port", type=int, help="REST port; 0 takes a free one (default: no REST)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="join requests to batches of at most N (default: no)"
    )
    parser.add_argument(
        "--batch-timeout",
        type=float,
        default=Batching.timeout,
        metavar="S",
        help="seconds that a request waits for others to join it (default: %(default)s)",
    )
    parser.add_argument(
        "--poll",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between looks for new versions; 0: never (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-file-ops",
        action="store_true",
        help="load models that can reach for files or run code beyond their graph (default: no)",
    )
    defaults = Limits()
    for field in fields(Limits):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float if field.name == "rest_seconds" else int,
            default=getattr(defaults, field.name),
            metavar="N",
            help="limit of the embedded server (default: %(default)s)",
        )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(
            options.models,
            options.host,
            options.port,
            rest_port=options.rest_port,
            backend=options.backend,
            limits=Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)}),
            batching=(
                None
                if options.batch is None
                else Batching(options.batch, timeout=options.batch_timeout)
            ),
            poll_seconds=options.poll,
            allow_file_ops=options.allow_file_ops,
            on_ready=_announce,
        )
    except TfstyleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _announce(info: ServerInfo) -> None:
    models = {name: str(path) for name, path in info.models.items()}
    line = {
        "backend": info.backend,
        "address": info.address,
        "rest_address": info.rest_address,
        "models": models,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
