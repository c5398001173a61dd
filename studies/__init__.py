"""The paper's tables and our own: each module a script, ``python -m studies.NAME --help``."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
