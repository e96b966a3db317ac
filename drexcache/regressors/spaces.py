"""What a search may choose for a setting: a range of numbers or one of several values."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; ``log`` says that their logarithm is what to spread evenly.

    >>> Range(1e-4, 1.0, log=True), 0.5 in Range(0, 1), 0.5 in Range(0, 1, integer=True)
    (Range(low=0.0001, high=1.0, log=True, integer=False), True, False)
    >>> print(Range(1, 40, log=True, integer=True))
    1 to 40, whole, log
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __contains__(self, value: object) -> bool:
        kind = Integral if self.integer else Real
        return isinstance(value, kind) and not isinstance(value, bool) and bool(self.low <= value <= self.high)  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + ", whole" * self.integer + ", log" * self.log


@dataclass(frozen=True)
class Choice:
    """One of several values: text, numbers, truth values or None.

    >>> "cosine" in Choice(("euclidean", "cosine")), print(Choice((True, False)))
    True or False
    (True, None)
    """

    values: tuple[str | int | float | bool | None, ...]

    def __contains__(self, value: object) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))
