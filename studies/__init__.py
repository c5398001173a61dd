"""The paper's tables and our own: each module a script, ``python -m studies.NAME --help``."""

import os
import sys
from pathlib import Path

from tfstyle._private.logs import held_stderr

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))  # scans, pairs
with held_stderr():  # what TensorFlow prints before that level holds
    import tensorflow  # noqa: F401
