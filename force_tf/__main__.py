"""Runs `python -m force_tf`."""

import sys

from force_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
