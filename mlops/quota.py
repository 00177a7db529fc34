"""Cores: how many a deployment needs, what of a family is left, and Azure's sentence when they do not suffice."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlops.resources import Usage, VmSize

PAGE = "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas"
"""Where quota is asked for; the provider to choose there is Machine Learning."""
TOTAL = "totalclusterdedicatedregional"
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
    """Cores that a deployment takes of its family's quota, and how many of them Azure keeps free for upgrades."""

    size: str
    family: str
    cores: int
    reserved: int


def deployment_needs(size: VmSize, instances: int) -> Needs:
    """Cores for so many instances: ``cores × ceil(1.2 × instances)``, without the fifth for the sizes that skip it.

    The formula is Azure's ("Virtual machine quota allocation for deployment"), the sizes stand in
    ``mlops/reservation.yaml``.
    """
    counted = instances if size.name.lower() in _skipping() else -(-6 * instances // 5)
    return Needs(
        size=size.name,
        family=size.family,
        cores=size.cores * counted,
        reserved=size.cores * (counted - instances),
    )


def of_family(usages: Iterable[Usage], family: str) -> Usage | None:
    """A family's row; sizes name it ``standardDSv2Family``, usages ``Standard DSv2 Family Cluster Dedicated vCPUs``."""
    return next((item for item in usages if _plain(item.family) == _plain(family)), None)


def regional_total(usages: Iterable[Usage]) -> Usage | None:
    """The row that counts the dedicated cores of all families."""
    return next((item for item in usages if _plain(item.family) == TOTAL), None)


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
            f"ask for quota, a limit of {self.used + self.needed} vCPUs of {family} (provider Machine Learning), at "
            f"{PAGE}; or choose another deployment.instance_type in mlops.yaml; mlops cleanup frees what nobody uses"
        )


def shortage_in(text: str, *, family: str = "") -> Shortage | None:
    """What Azure's refusal says is missing; None for another text."""
    found = REFUSED.search(text)
    if found is None:
        return None
    numbers = {name: int(found[name]) for name in ("needed", "used", "limit")}
    return Shortage(size=found["size"], family=family, **numbers)
