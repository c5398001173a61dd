"""``python -m tfstyle`` does what the command ``tfstyle`` does."""

import sys

from tfstyle.cli import main

if __name__ == "__main__":
    sys.exit(main())
