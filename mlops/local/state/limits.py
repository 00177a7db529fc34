"""What this subscription may use: quota, counts, sizes.

The numbers are those that Azure documents for managed online endpoints; vCPU quotas are generous, as on a
subscription that has asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Limits:
    """Limits of the pretended subscription and region, and of this machine."""

    endpoints: int = 100
    deployments: int = 500
    deployments_per_endpoint: int = 20
    instances: int = 50
    request_timeout_s: float = 180
    request_bytes: int = 10 * 1024 * 1024
    family_vcpus: int = 400
    low_priority_vcpus: int = 400
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """vCPUs per family where they differ from ``family_vcpus``: ``{"standardNCADSA100v4Family": 24}``."""
    taken_names: frozenset[str] = frozenset()
    """Endpoint names that somebody else in the region has."""
    instance_processes: int = 2
    """How many of a deployment's instances really get a process of their own here."""
    start_timeout_s: float = 120
    """Longest wait for a scoring process to answer its readiness probe."""
    drain_s: float = 30
    """Longest wait for requests in flight before a process is stopped."""
    lazy: bool = False
    """Start a deployment's processes with its first request only: for hundreds of deployments that nobody asks."""
