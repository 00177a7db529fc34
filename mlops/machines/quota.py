"""Cores: what training and serving need, what of a family is left, and Azure's sentence when they do not suffice."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlops.core.resources import Usage, VmSize

PAGE = "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas"
"""Where quota is asked for; the provider to choose there is Machine Learning."""
TOTAL = "totalclusterdedicatedregional"
LOW_PRIORITY = "totalclusterlowpriorityregional"
REFUSED = re.compile(
    r"not enough quota available for (?P<size>\S+).*?usage/limit: *(?P<used>\d+)/(?P<limit>\d+)"
    r".*?additional needed: *(?P<needed>\d+)",
    re.IGNORECASE | re.DOTALL,
)


@functools.cache
def _skipping() -> frozenset[str]:
    import yaml

    text = (Path(__file__).parent / "reservation.yaml").read_text(encoding="utf-8")
    return frozenset(str(name).lower() for name in yaml.safe_load(text)["skip"])


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Cores that machines take of their family's quota, and how many of them Azure keeps free for upgrades.

    Attributes:
        setting: what of mlops.yaml names the size.
    """

    size: str
    family: str
    cores: int
    reserved: int
    setting: str = "deployment.instance_type"


def deployment_needs(size: VmSize, instances: int) -> Needs:
    """Cores for so many instances: ``cores × ceil(1.2 × instances)``, without the fifth for the sizes that skip it.

    The formula is Azure's ("Virtual machine quota allocation for deployment"), the sizes stand in
    ``mlops/machines/reservation.yaml``.
    """
    counted = instances if size.name.lower() in _skipping() else -(-6 * instances // 5)
    return Needs(
        size=size.name,
        family=size.family,
        cores=size.cores * counted,
        reserved=size.cores * (counted - instances),
    )


def training_needs(size: VmSize, nodes: int) -> Needs:
    """Cores for so many nodes of the training cluster, of which Azure keeps none free."""
    return Needs(size=size.name, family=size.family, cores=size.cores * nodes, reserved=0, setting="compute.size")


def all_needs(
    training: VmSize, nodes: int, serving: VmSize, instances: int, *, low_priority: bool = False
) -> tuple[Needs, ...]:
    """What one training beside two slots takes, which is what a release during a training needs.

    Args:
        training: size of the cluster's nodes.
        nodes: of one training.
        serving: size of a slot's machines.
        instances: of one slot.
        low_priority: the cluster's cores are counted apart, and are left out here.
    """
    slot = deployment_needs(serving, instances)
    return (slot, slot) if low_priority else (training_needs(training, nodes), slot, slot)


def of_family(usages: Iterable[Usage], family: str) -> Usage | None:
    """A family's row; sizes name it ``standardDSv2Family``, usages ``Standard DSv2 Family Cluster Dedicated vCPUs``."""
    return next((item for item in usages if _plain(item.family) == _plain(family)), None)


def regional_total(usages: Iterable[Usage]) -> Usage | None:
    """The row that counts the dedicated cores of all families."""
    return next((item for item in usages if _plain(item.family) == TOTAL), None)


def low_priority(usages: Iterable[Usage]) -> Usage | None:
    """The row that counts the low priority cores, which families share."""
    return next((item for item in usages if _plain(item.family) == LOW_PRIORITY), None)


def shortages(
    usages: Sequence[Usage], needs: Iterable[Needs], *, own: Mapping[str, int] | None = None
) -> list[Shortage]:
    """What does not fit where all needs are to be met at a time: a family's limit, or that of the whole region.

    Args:
        usages: of the region. A family that has no row there is not judged.
        needs: those of one family add up.
        own: cores in use by family that are given back before, or belong to what is asked for.
    """
    own = own or {}
    by_family: dict[str, list[Needs]] = {}
    for each in needs:
        by_family.setdefault(_plain(each.family), []).append(each)
    shortfalls = []
    for together in by_family.values():
        row = of_family(usages, together[0].family)
        if row is not None:
            shortfalls.append(_short(row, together, own.get(together[0].family, 0)))
    total = regional_total(usages)
    if total is not None and by_family:
        every = [each for together in by_family.values() for each in together]
        shortfalls.append(_short(total, every, sum(own.values())))
    return [each for each in shortfalls if each is not None]


def _short(row: Usage, needs: Sequence[Needs], own: int) -> Shortage | None:
    cores, used = sum(each.cores for each in needs), max(0, row.used - own)
    if not cores or row.limit is None or used + cores <= row.limit:
        return None
    sizes = " and ".join(dict.fromkeys(each.size for each in needs))
    settings = " or ".join(dict.fromkeys(each.setting for each in needs))
    return Shortage(size=sizes, needed=cores, used=used, limit=row.limit, family=row.family, setting=settings)


def _plain(family: str) -> str:
    text = re.sub(r"[\s_-]", "", family).lower()
    return text.removesuffix("vcpus").removesuffix("dedicated").removesuffix("cluster")


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """Cores that are missing."""

    size: str
    needed: int
    used: int
    limit: int
    family: str = ""
    setting: str = "deployment.instance_type"

    @property
    def enough(self) -> int:
        """The limit to ask for."""
        return self.used + self.needed

    @property
    def missing(self) -> int:
        """How many more the limit would have to allow."""
        return max(0, self.used + self.needed - self.limit)

    @property
    def sentence(self) -> str:
        """What is missing, for people."""
        where = f" of '{self.family}'" if self.family else ""
        return (
            f"not enough quota for '{self.size}': {self.needed} vCPUs{where} are needed, {self.used} of {self.limit} "
            f"are in use, {self.missing} are missing"
        )

    @property
    def hint(self) -> str:
        """Where to ask, for people."""
        family = f"'{self.family}'" if self.family else "this size's family"
        return (
            f"ask for quota, a limit of {self.enough} vCPUs of {family} (provider Machine Learning), at "
            f"{PAGE}; or choose another {self.setting} in mlops.yaml; mlops cleanup frees what nobody uses"
        )


def shortage_in(text: str, *, family: str = "") -> Shortage | None:
    """What Azure's refusal says is missing; None for another text."""
    match = REFUSED.search(text)
    if match is None:
        return None
    needed, used, limit = (int(match[name]) for name in ("needed", "used", "limit"))
    return Shortage(size=match["size"], family=family, needed=needed, used=used, limit=limit)
