"""The files of a registered model, as the workspace's storage lists them."""

from __future__ import annotations

import re

from mlops.azure.ensure import retry_read
from mlops.azure.errors import translated
from mlops.azure.session import Session
from mlops.core.errors import MlopsError
from mlops.core.resources import ModelVersion

PLACE = re.compile(r"/datastores/(?P<store>[^/]+)/paths/(?P<path>.+)$")


def model_bytes(session: Session, version: ModelVersion) -> int | None:
    """The size of a model's files together; None where it cannot be told.

    Two calls of the control plane and one listing of blobs, which reads names and sizes only. That serves every
    model, whoever registered it and from where.
    """
    try:
        return retry_read(lambda: _listed(session, version))
    except MlopsError as error:
        session.console.warn(f"the model's size stays unknown: {error.message}")
        return None


def _listed(session: Session, version: ModelVersion) -> int | None:
    from azure.ai.ml.entities import AzureBlobDatastore
    from azure.storage.blob import ContainerClient

    with translated(f"read the size of the model '{version.name}', version '{version.version}'"):
        model = session.ml.models.get(version.name, version=version.version)
        match = PLACE.search(str(model.path or ""))
        if match is None:
            return None
        store = session.ml.datastores.get(match["store"])
        if not isinstance(store, AzureBlobDatastore):
            return None
        http = session.settings.http
        with ContainerClient(
            f"{store.protocol}://{store.account_name}.blob.{store.endpoint}",
            store.container_name,
            credential=session.credential,
            connection_timeout=http.connect_timeout_s,
            read_timeout=http.read_timeout_s,
            initial_backoff=1,
            increment_base=2,
        ) as container:
            prefix = match["path"].rstrip("/")
            listed = container.list_blobs(name_starts_with=prefix)
            sizes = [int(blob.size) for blob in listed if (blob.name + "/").startswith(prefix + "/")]
            return sum(sizes) if sizes else None
