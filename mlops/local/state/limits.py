"""What this subscription may use: quota, counts, sizes; environment variables ``MLOPS_LOCAL_*`` override.

The numbers are those that Azure documents for managed online endpoints; vCPU quotas are generous, as on a
subscription that has asked for them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field


def _number(name: str, default: float) -> float:
    return float(os.environ.get(f"MLOPS_LOCAL_{name}", default))


def _quotas() -> dict[str, int]:
    return {str(key): int(value) for key, value in json.loads(os.environ.get("MLOPS_LOCAL_QUOTAS", "{}")).items()}


def _names() -> frozenset[str]:
    return frozenset(os.environ.get("MLOPS_LOCAL_TAKEN_NAMES", "").lower().replace(",", " ").split())


@dataclass(frozen=True)
class Limits:
    """Limits of the pretended subscription and region, and of this machine."""

    endpoints: int = field(default_factory=lambda: int(_number("ENDPOINTS", 100)))
    deployments: int = 500
    deployments_per_endpoint: int = 20
    instances: int = 50
    request_timeout_s: float = 180
    request_bytes: int = 10 * 1024 * 1024
    family_vcpus: int = field(default_factory=lambda: int(_number("FAMILY_VCPUS", 400)))
    low_priority_vcpus: int = field(default_factory=lambda: int(_number("LOW_PRIORITY_VCPUS", 400)))
    quotas: dict[str, int] = field(default_factory=_quotas)
    """vCPUs per family where they differ from ``family_vcpus``: ``{"standardNCADSA100v4Family": 24}``."""
    taken_names: frozenset[str] = field(default_factory=_names)
    """Endpoint names that somebody else in the region has."""
    instance_processes: int = field(default_factory=lambda: int(_number("INSTANCE_PROCESSES", 2)))
    """How many of a deployment's instances really get a process of their own here."""
    start_timeout_s: float = field(default_factory=lambda: _number("START_S", 120))
    """Longest wait for a scoring process to answer its readiness probe."""
    drain_s: float = field(default_factory=lambda: _number("DRAIN_S", 30))
    """Longest wait for requests in flight before a process is stopped."""

    lazy: bool = field(default_factory=lambda: bool(_number("LAZY_START", 0)))
    """Start a deployment's processes with its first request only: for hundreds of deployments that nobody asks."""

    def family(self, family: str) -> int:
        """Dedicated vCPUs of a family."""
        return self.quotas.get(family, self.family_vcpus)
