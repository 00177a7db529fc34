"""The virtual machine sizes that this region offers, from ``skus.json``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Sku:
    """One size; ``family`` is the quota's family, ``retired`` the day on which it went (None: it lives)."""

    name: str
    family: str
    title: str
    vcpus: int
    gpus: int
    memory_gb: float
    disk_mb: int
    low_priority: bool
    compute_types: tuple[str, ...]
    reserves: bool
    """Whether a deployment needs a fifth more instances than it asks for, kept free for upgrades."""

    def deployment_vcpus(self, instances: int) -> int:
        """Quota that a managed deployment of so many instances needs."""
        return self.vcpus * (math.ceil(1.2 * instances) if self.reserves else instances)


@dataclass(frozen=True)
class Skus:
    """Every size by lower-case name, and the retired ones with their dates."""

    sizes: dict[str, Sku]
    retired: dict[str, str]
    families: dict[str, str]

    def find(self, name: str) -> Sku | None:
        """A living size, compared without case."""
        return self.sizes.get(name.lower())


@cache
def skus() -> Skus:
    """The file, read once."""
    data = json.loads(Path(__file__).with_name("skus.json").read_text(encoding="utf-8"))
    families = data["families"]
    sizes = {
        row["name"].lower(): Sku(
            **{**row, "compute_types": tuple(row["compute_types"])},
            title=families[row["family"]]["title"],
            reserves=families[row["family"]]["reserves"],
        )
        for row in data["sizes"]
    }
    retired = {name.lower(): date for name, date in data["retired"].items()}
    return Skus(sizes=sizes, retired=retired, families={key: value["title"] for key, value in families.items()})
