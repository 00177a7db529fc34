from __future__ import annotations

import subprocess
import sys

from tests.support.waiting import HANG_S

PROGRAM = """
import os, signal, sys, threading, time
import polars
from mlops.core.interrupts import stay_interruptible
stay_interruptible()
try:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    threading.Event().wait() if sys.argv[1] == "lock" else time.sleep(1e6)
except KeyboardInterrupt:
    sys.exit(0)
"""


def test_ctrl_c_is_heard_at_once_even_after_polars_was_imported() -> None:
    for wait in ("lock", "sleep"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, wait], capture_output=True, timeout=HANG_S, check=False)

        assert done.returncode == 0, (wait, done.stderr[-300:])
