"""What a job has left in its outputs, copied to this machine."""

from __future__ import annotations

from pathlib import Path

from mlops.azure.errors import translated
from mlops.azure.session import Session


def download(session: Session, job: str, output: str, folder: Path) -> Path | None:
    """Copy an output of a job that has ended into ``folder``.

    Returns:
        The folder below it that holds the output's files; None where the job has no such output.
    """
    with translated(f"download the output '{output}' of '{job}'"):
        session.ml.jobs.download(job, download_path=folder, output_name=output)
    output_folder = folder / "named-outputs" / output
    return output_folder if output_folder.is_dir() else None
