"""What is saved per month, from the settings' prices; a size without a price is said to be unknown, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HOURS_PER_MONTH = 730
"""365 days of 24 hours over 12 months, as Azure's price calculator counts."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """An estimate per month.

    Attributes:
        per_month: of what has a price, in the settings' currency.
        unpriced: sizes that have none.
    """

    per_month: float = 0.0
    unpriced: tuple[str, ...] = ()

    def __add__(self, other: Saving) -> Saving:
        both = dict.fromkeys((*self.unpriced, *other.unpriced))
        return Saving(per_month=self.per_month + other.per_month, unpriced=tuple(both))

    def in_words(self, currency: str) -> str:
        """The amount; ``?`` where nothing is known, ``>`` where it is only a part."""
        amount = f"{self.per_month:,.0f} {currency}"
        if self.unpriced:
            return f"> {amount}" if self.per_month else "?"
        return amount if self.per_month else "–"


def saving(machines: Iterable[tuple[str, int]], prices_per_hour: Mapping[str, float]) -> Saving:
    """What so many machines of these sizes cost per month; sizes are compared without case."""
    prices = {size.lower(): price for size, price in prices_per_hour.items()}
    total = Saving()
    for size, count in machines:
        price = prices.get(size.lower())
        known = Saving(per_month=price * HOURS_PER_MONTH * count) if price is not None else Saving(unpriced=(size,))
        total += known if count else Saving()
    return total
