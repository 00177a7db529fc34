"""How a step says no: one line that names the cause, and no traceback."""

import sys
import time
from collections.abc import Callable


class Refusal(Exception):
    """Something that the caller can put right: an input, a file, a device that is missing."""


def run_step(name: str, step: Callable[[list[str]], None]) -> int:
    """Runs a step with the command line's arguments, and says how long it took.

    Returns:
        0, or 2 when the step refused its inputs.
    """
    started = time.monotonic()
    try:
        step(sys.argv[1:])
    except Refusal as refusal:
        print(f"{name}: error: {refusal}", file=sys.stderr, flush=True)
        return 2
    print(f"{name}: done in {time.monotonic() - started:.1f} s", flush=True)
    return 0
