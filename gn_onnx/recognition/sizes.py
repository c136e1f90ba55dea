"""Sizes of tensor dimensions: exact monomials in symbols, so that dynamic shapes compare like static ones.

`Size` is `factor * product(symbol ** exponent)`. A batch of unknown size is `Size.symbol("N")`; `C / 8` with C
unknown has the factor 1/8. Sums do not occur in the shape arithmetic of a GroupNorm; whoever meets one makes up
a new symbol for it, which is sound: an unknown is equal to nothing but itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class Size:
    """An exact monomial; `symbols` is sorted by name and holds no zero exponent.

    The factor is an int where it is whole: exact fractions are slow, and rare.
    """

    factor: int | Fraction
    symbols: tuple[tuple[str, int], ...] = ()

    def __hash__(self) -> int:
        return hash((self.factor.numerator, self.symbols))

    @classmethod
    def of(cls, value: int) -> Size:
        return cls(value)

    @classmethod
    def symbol(cls, name: str) -> Size:
        return cls(1, ((name, 1),))

    @property
    def is_one(self) -> bool:
        return not self.symbols and self.factor == 1

    @property
    def is_zero(self) -> bool:
        return self.factor == 0

    @property
    def static(self) -> int | None:
        """The value where it is a known integer, else None."""
        return None if self.symbols or self.factor.denominator != 1 else self.factor.numerator

    @property
    def is_whole(self) -> bool:
        """Whether this can be the size of a dimension: a positive integer, or symbols that do not divide.

        `C / 8` counts as whole: the graph that asks for it fails at run time where 8 does not divide C.
        """
        if self.factor <= 0 or any(exponent < 0 for _, exponent in self.symbols):
            return False
        return bool(self.symbols) or self.factor.denominator == 1

    @property
    def is_fraction(self) -> bool:
        """Whether it is whole for some values of the symbols only: `C / 8`."""
        return self.factor.denominator != 1

    def __mul__(self, other: Size) -> Size:
        if not self.symbols:
            return Size(self.factor * other.factor, other.symbols)
        if not other.symbols:
            return Size(self.factor * other.factor, self.symbols)
        exponents = dict(self.symbols)
        for name, exponent in other.symbols:
            exponents[name] = exponents.get(name, 0) + exponent
        return Size(self.factor * other.factor, tuple(sorted((n, e) for n, e in exponents.items() if e)))

    def __truediv__(self, other: Size) -> Size:
        """Exact quotient. Raises ZeroDivisionError."""
        quotient = Fraction(self.factor) / other.factor if other.factor != 1 else self.factor
        factor = quotient.numerator if quotient.denominator == 1 else quotient
        if not other.symbols:
            return Size(factor, self.symbols)
        return Size(factor, self.symbols) * Size(1, tuple((name, -exponent) for name, exponent in other.symbols))

    def substitute(self, bindings: dict[str, Size]) -> Size:
        """This size with every symbol in `bindings` replaced."""
        if not any(name in bindings for name, _ in self.symbols):
            return self
        result = Size(self.factor)
        for name, exponent in self.symbols:
            base = bindings.get(name, Size.symbol(name))
            for _ in range(abs(exponent)):
                result = result * base if exponent > 0 else result / base
        return result

    def __str__(self) -> str:
        parts = [name if exponent == 1 else f"{name}^{exponent}" for name, exponent in self.symbols]
        if self.factor != 1 or not parts:
            parts.insert(0, str(self.factor))
        return "*".join(parts)


ONE = Size.of(1)


def product(sizes: Iterable[Size]) -> Size:
    result = ONE
    for size in sizes:
        result = result * size
    return result
