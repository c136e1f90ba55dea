"""Laurent polynomials: factors, monomials, coefficients and what can be done to them without knowing x (see algebra.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from gn_onnx.recognition.layout import Atom, Renaming
from gn_onnx.recognition.sizes import Size

Exponent = int | Fraction


class NotExpressible(Exception):  # noqa: N818 - a verdict on a value, not an error of the program
    """The value cannot be written in this algebra; the message is a reason for the model's author."""


class NotFinite(NotExpressible):
    """The value is computed with NaN or infinity: times 0 that is not 0."""


@dataclasses.dataclass(frozen=True)
class X:
    def __str__(self) -> str:
        return "x"


@dataclasses.dataclass(frozen=True)
class Moment:
    power: int
    atoms: frozenset[Atom]

    def __str__(self) -> str:
        return {1: "E[x]", 2: "E[x^2]"}[self.power]


@dataclasses.dataclass(frozen=True)
class Root:
    index: int

    def __str__(self) -> str:
        return f"sqrt#{self.index}"


@dataclasses.dataclass(frozen=True)
class Log:
    """The logarithm of the polynomial whose square root is `Root(index)`."""

    index: int

    def __str__(self) -> str:
        return f"log#{self.index}"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: `key` identifies it, `atoms` are its dimensions larger than 1 in its own order."""

    key: object
    atoms: tuple[Atom, ...]
    name: str = dataclasses.field(default="t", compare=False)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Overlay:
    """The key of a tensor that some slices of x were written into, until all of them are.

    Attributes:
        outer: The piece of an axis of x that the slices are the positions of.
        slices: What was written, by position.
        before: What the rest holds, if that is known.
    """

    outer: Atom
    slices: dict[int, Poly]
    before: Poly | None


@dataclasses.dataclass(frozen=True)
class Symbol:
    name: str

    def __str__(self) -> str:
        return self.name


Factor = X | Moment | Root | Log | Tensor | Symbol
Monomial = frozenset[tuple[Factor, Exponent]]
UNIT: Monomial = frozenset()
THE_X = X()


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """A float64 array whose axes are `atoms`."""

    array: np.ndarray
    atoms: tuple[Atom, ...] = ()

    def aligned(self, atoms: tuple[Atom, ...]) -> np.ndarray:
        """The array with one axis per atom of `atoms`, of size 1 where it does not vary."""
        if atoms == self.atoms:
            return self.array
        order = [self.atoms.index(atom) for atom in atoms if atom in self.atoms]
        order += [i for i, atom in enumerate(self.atoms) if atom not in atoms]  # slice marks, of size 1
        array = self.array.transpose(order)
        shape = [array.shape[i] for i in range(array.ndim)]
        full, k = [], 0
        for atom in atoms:
            if atom in self.atoms:
                full.append(shape[k])
                k += 1
            else:
                full.append(1)
        return array.reshape(full)

    def _union(self, other: Coefficient) -> tuple[Atom, ...]:
        return self.atoms + tuple(atom for atom in other.atoms if atom not in self.atoms)

    def __mul__(self, other: Coefficient) -> Coefficient:
        if not self.atoms or not other.atoms:
            return Coefficient(self.array * other.array, self.atoms or other.atoms)
        atoms = self._union(other)
        return Coefficient(self.aligned(atoms) * other.aligned(atoms), atoms)

    def __add__(self, other: Coefficient) -> Coefficient:
        atoms = self._union(other)
        return Coefficient(self.aligned(atoms) + other.aligned(atoms), atoms)

    def magnitude(self) -> float:
        return float(np.max(np.abs(self.array), initial=0.0))

    def scalar(self) -> float | None:
        """The number, where it is the same everywhere."""
        first = float(self.array.ravel()[0]) if self.array.size else 0.0
        return first if not self.atoms or np.all(self.array == first) else None

    def varying(self, among: frozenset[Atom] | None = None) -> Coefficient:
        """The same without atoms (of `among`) along which all elements are equal."""
        array, atoms = self.array, list(self.atoms)
        for atom in self.atoms:
            axis = atoms.index(atom)
            first = array.take([0], axis=axis)
            if (among is None or atom in among) and np.all(array == first):
                array = first.reshape([n for i, n in enumerate(array.shape) if i != axis])
                atoms.remove(atom)
        return Coefficient(array, tuple(atoms))

    def renamed(self, renaming: Renaming) -> Coefficient:
        if not any(atom in renaming for atom in self.atoms):
            return self
        atoms: list[Atom] = []
        shape: list[int] = []
        for atom, length in zip(self.atoms, self.array.shape, strict=True):
            parts = final_atoms((atom,), renaming)
            atoms.extend(parts)
            if len(parts) == 1:
                shape.append(length)
            else:
                sizes = [part.size.static for part in parts]
                if any(size is None for size in sizes):
                    raise NotExpressible("a constant is cut at a size that is only known at run time")
                shape.extend(size for size in sizes if size is not None)
        return Coefficient(self.array.reshape(shape), tuple(atoms))


def final_atoms(atoms: Iterable[Atom], renaming: Renaming) -> tuple[Atom, ...]:
    out: list[Atom] = []
    for atom in atoms:
        out.extend(final_atoms(renaming[atom], renaming) if atom in renaming else (atom,))
    return tuple(out)


Poly = dict[Monomial, Coefficient]


def constant(value: float) -> Poly:
    return {UNIT: Coefficient(np.asarray(value, dtype=np.float64))} if value != 0 else {}


def of_factor(factor: Factor, exponent: Exponent = 1) -> Poly:
    return {frozenset({(factor, exponent)}): Coefficient(np.ones(()))}


def of_size(size: Size) -> Poly:
    monomial: Monomial = frozenset((Symbol(name), exponent) for name, exponent in size.symbols)
    return {monomial: Coefficient(np.asarray(float(size.factor)))}


def renamed(poly: Poly, renaming: Renaming) -> Poly:
    """`poly` with its free atoms identified or cut as `renaming` says."""
    if not renaming:
        return poly
    out: Poly = {}
    for monomial, coefficient in poly.items():
        factors = frozenset(
            (dataclasses.replace(f, atoms=final_atoms(f.atoms, renaming)) if isinstance(f, Tensor) else f, e)
            for f, e in monomial
        )
        out[factors] = coefficient.renamed(renaming)
    return out


def monomial_product(a: Monomial, b: Monomial) -> Monomial:
    if not a:
        return b
    if not b:
        return a
    exponents: dict[Factor, Exponent] = dict(a)
    for factor, exponent in b:
        exponents[factor] = exponents.get(factor, 0) + exponent
    return frozenset((f, e) for f, e in exponents.items() if e)
