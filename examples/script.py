"""How an example runs as a script: what is wrong gets one sentence, and no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from absl import app


def run_script(run: Callable[[], None], example_flag: str = "--epochs=20", when_interrupted: str = "") -> None:
    """Parses the flags and runs a script.

    Args:
        run: What the script does, by its flags.
        example_flag: A flag to name where something else was given than flags.
        when_interrupted: What to say besides that it was interrupted.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Expected flags such as {example_flag}. Received: {argv[1]!r}")
        try:
            run()
        except (ImportError, OSError, ValueError) as error:
            sys.exit(f"{os.path.basename(argv[0])}: {error}")
        except KeyboardInterrupt:
            sys.exit(f"\nInterrupted. {when_interrupted}".rstrip(" "))

    app.run(main)
