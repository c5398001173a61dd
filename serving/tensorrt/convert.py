"""What ``convert.sh`` runs inside the container: TensorFlow with TensorRT, without Keras 3."""

from __future__ import annotations

import argparse
import sys

from tfstyle.convert import to_trt
from tfstyle.errors import TfstyleError


def main() -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert.sh", description=to_trt.__doc__.split("\n")[0])
    parser.add_argument("saved_model")
    parser.add_argument("output")
    parser.add_argument("--signature")
    parser.add_argument("--precision", default="float32", choices=("float32", "float16", "int8"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--calibrate", nargs="+", default=(), metavar="SCANS")
    parser.add_argument("--compare", nargs="+", default=(), metavar="SCANS")
    options = vars(parser.parse_args())
    try:
        report = to_trt(options.pop("saved_model"), options.pop("output"), **options)
    except TfstyleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.to_json().decode(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
