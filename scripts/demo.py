#!/usr/bin/env python3
"""The main job on real CT, shown in demo/index.html: what ``make demo`` runs."""

import argparse
import sys
import time

from tfstyle.cli import silence
from tfstyle.errors import TfstyleError


def main() -> int:
    """Parses, runs, says where the page is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="demo", help="folder (default: %(default)s)")
    parser.add_argument("--preset", help="default: the default preset")
    arguments = parser.parse_args()
    begin = time.perf_counter()

    def progress(text: str) -> None:
        print(f"[{time.perf_counter() - begin:5.1f} s] {text}", flush=True)

    progress("starting TensorFlow")
    silence()
    from tfstyle.experiments.demo import run_demo

    try:
        page = run_demo(arguments.output, preset=arguments.preset, progress=progress)
    except TfstyleError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    progress(f"done: open {page.resolve()} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
