"""Uploads of folders that come to an end, also where one of the files does not arrive.

The SDK sends a folder's files in threads and, without its progress bars, never asks what became of them: it waits
until all have arrived, for ever where one has failed. Here the failure is raised. A file that "already exists" has
arrived: its path holds a hash of what is in it, and the answer to the first attempt was lost.
"""

from __future__ import annotations

import functools
from typing import Any

MARK = "__ends__"


def mend() -> None:
    """Put this into the SDK, once."""
    from azure.ai.ml._artifacts import _blob_storage_helper
    from azure.ai.ml._utils import _asset_utils
    from azure.core.exceptions import ResourceExistsError

    one, folder = _asset_utils.upload_file, _blob_storage_helper.upload_directory
    if hasattr(folder, MARK):
        return

    @functools.wraps(one)
    def upload_file(*args: Any, **kwargs: Any) -> None:
        client = kwargs["storage_client"] if "storage_client" in kwargs else args[0]
        try:
            one(*args, **kwargs)
        except ResourceExistsError:
            client.uploaded_file_count += 1
        except BaseException as error:
            vars(client)["failure"] = error
            raise

    @functools.wraps(folder)
    def upload_directory(*args: Any, **kwargs: Any) -> None:
        client = kwargs["storage_client"] if "storage_client" in kwargs else args[0]
        folder(*args, **kwargs)
        failure: BaseException | None = vars(client).get("failure")
        if failure is not None:
            raise failure

    setattr(upload_directory, MARK, True)
    vars(_asset_utils)["upload_file"] = upload_file
    vars(_blob_storage_helper)["upload_file"] = upload_file
    vars(_blob_storage_helper)["upload_directory"] = upload_directory
