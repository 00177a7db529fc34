"""Names and delays of a local workspace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """What a client can see of this workspace, and how long its operations pretend to take (seconds)."""

    subscription: str = "00000000-0000-0000-0000-000000000001"
    resource_group: str = "local"
    workspace: str = "local"
    workspace_guid: str = "0c0ffee0-0000-4000-8000-00000000000b"
    region: str = "eastus"
    tenant: str = "00000000-0000-0000-0000-00000000000a"
    account: str = "mlopslocal"
    """The storage account of the seeded workspace, and the folder of all blobs."""
    registry: str = "azureml"
    endpoint_operation_s: float = 0.3
    deployment_operation_s: float = 0.3
    compute_operation_s: float = 0.3
    delete_operation_s: float = 0.2
    resource_operation_s: float = 0.2
    """How long a storage account, a vault, a registration of a provider takes."""
    federated_write_s: float = 0.02
    """How long a write of a federated credential takes; another of the same identity is refused meanwhile."""
    principal_s: float = 0
    """How long the directory does not know a new identity yet (Entra's replication)."""
    quota_operation_s: float = 0.2
    quota_grant: int = 0
    """Up to how many vCPUs of a family a request for quota is granted; beyond it Azure's support must be asked."""
    latency_s: float = 0
    retry_after_s: float = 1
    token_s: float = 3600
    """How long an Azure token lives."""
    assertion_s: float = 300
    """How long what GitHub says of a job may be shown to Azure."""
    job_s: float = 6 * 3600
    """How long a job on GitHub may go on asking."""
    max_processes: int = 1
    """How many processes of a distributed step run here."""

    @property
    def container(self) -> str:
        """The container behind ``workspaceblobstore``."""
        return f"azureml-blobstore-{self.workspace_guid}"

    @property
    def group_id(self) -> str:
        """ARM id of the resource group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"

    @property
    def workspace_id(self) -> str:
        """ARM id of the workspace."""
        return f"{self.group_id}/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"

    @property
    def registry_id(self) -> str:
        """ARM id of the registry, as its data plane uses it."""
        return f"{self.group_id}/providers/Microsoft.MachineLearningServices/registries/{self.registry}"

    @property
    def api_host(self) -> str:
        """Host of the region's data plane: run history, MLflow, registry discovery."""
        return f"{self.region}.api.azureml.ms"
