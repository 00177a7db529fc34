"""Start of a scoring process: Azure's inference server on a socket that the daemon has bound to loopback.

Run by its path with ``python -P``, so that nothing of this package is importable by the scoring script by accident.
The server by itself would listen on 0.0.0.0; a socket that is already bound, handed over the way systemd does,
takes precedence over that and cannot be lost to another process between choosing a port and listening on it.

Arguments: the socket's file descriptor, the file for the process record, then the inference server's own arguments.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Leave a record of this process, hand the socket over and become the inference server."""
    descriptor, record, port = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    beside = record.with_suffix(".part")
    beside.write_text(json.dumps({"pid": os.getpid(), "port": port}))
    beside.replace(record)
    os.dup2(descriptor, 3)
    os.set_inheritable(3, True)
    os.environ["LISTEN_FDS"] = "1"
    os.environ["LISTEN_PID"] = str(os.getpid())

    from azureml_inference_server_http import amlserver
    from gunicorn import config  # type: ignore[import-untyped]

    if "control_socket_disable" in config.KNOWN_SETTINGS or hasattr(config, "ControlSocketDisable"):
        # one control socket per user by default, which servers running side by side would take from each other
        os.environ["GUNICORN_CMD_ARGS"] = f"--no-control-socket {os.environ.get('GUNICORN_CMD_ARGS', '')}".strip()
    amlserver.DEFAULT_HOST = "127.0.0.1"
    sys.argv = ["azmlinfsrv", "--port", str(port), *sys.argv[4:]]
    amlserver.run()


if __name__ == "__main__":
    main()
