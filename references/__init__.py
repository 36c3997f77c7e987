"""How the shipped weights were made: run from a clone, not part of the wheel. See README.md here."""

import sys
from collections.abc import Callable

from facial_keypoints.errors import FacialKeypointsError

__all__ = ["run_command"]


def run_command(main: Callable[[], None]) -> None:
    """Run ``main``; a user's mistake becomes one sentence and exit 1, Ctrl-C exit 130."""
    try:
        main()
    except FacialKeypointsError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("error: interrupted; what was finished is kept.", file=sys.stderr)
        sys.exit(130)
