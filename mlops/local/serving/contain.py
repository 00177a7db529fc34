"""Start of a scoring process that is an image's own command: what a container's runtime would do with it.

Run by its path with ``python -P``. It leaves a record of itself, runs the command, hands on the request to end, and
ends as the command does.

Arguments: the file for the process record, the port, then the command.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType


def main() -> int:
    """Run the command to its end."""
    record, port = Path(sys.argv[1]), int(sys.argv[2])
    beside = record.with_suffix(".part")
    beside.write_text(json.dumps({"pid": os.getpid(), "port": port}))
    beside.replace(record)
    child = subprocess.Popen(sys.argv[3:])

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
