"""One walk from a candidate x: the facts known of every value that was reached, and how more are found.

A fact is an expression (algebra.py) and a layout (layout.py). Facts of values derived from x are set by walk.py;
facts of everything else (constants, parameters, tensors computed elsewhere) are found on demand, by the same transfer
functions, going backward until a tensor has to be taken as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gn_onnx.recognition import integers
from gn_onnx.recognition.algebra import Algebra
from gn_onnx.recognition.layout import Atom, Dims, LayoutError, free_dim, unify
from gn_onnx.recognition.model_view import RANDOM, STANDARD_DOMAINS, ModelView
from gn_onnx.recognition.polynomials import (
    THE_X,
    Coefficient,
    NotExpressible,
    NotFinite,
    Poly,
    Tensor,
    of_factor,
    of_size,
    renamed,
)
from gn_onnx.recognition.sizes import Size, product

_MAX_LIFT_DEPTH = 16
_THROUGH = {
    "Expand",
    "Identity",
    "Dropout",
    "Cast",
    "CastLike",
    "Constant",
    "ConstantOfShape",
    "Tile",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Flatten",
}
"""Operators that are looked through even when their result has the size of an activation."""

_MAX_SUMS = 4
_MAX_COUNTS = 512
_MAX_LOOKED_AT = 512

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True)
class Fact:
    """The value at a position is `poly`, evaluated at the atoms that `dims` names for that position."""

    poly: Poly
    dims: Dims


Transfer = Callable[["Evaluation", ir.Node, int], dict[ir.Value, Fact]]


def same_values(value: ir.Value) -> list[ir.Value]:
    """`value` and the results of nodes that repeat its own (float16 converters cast once for every use)."""
    node = value.producer()
    if node is None or len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return [value]
    if node.domain not in STANDARD_DOMAINS or node.op_type in RANDOM or any(a.is_ref() for a in node.attributes.values()):
        return [value]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    twins = [value]
    for user, _ in node.inputs[0].uses():
        if user is not node and user.op_identifier() == node.op_identifier() and user.graph is node.graph:
            same = {name: attribute.value for name, attribute in user.attributes.items()} == attributes
            if same and tuple(user.inputs) == tuple(node.inputs) and len(user.outputs) == 1:
                twins.append(user.outputs[0])
    return twins


class Evaluation:
    """Facts about one candidate x.

    Args:
        view: The model.
        root: The candidate x; its rank must be known.
        cuts: For axes of x that are cut, the sizes of the pieces, slowest first.
        bindings: Symbolic sizes that turned out to be known.
        transfer: What one node computes: (evaluation, node, depth) -> the facts of its outputs.
    """

    def __init__(
        self,
        view: ModelView,
        root: ir.Value,
        cuts: dict[int, list[Size]],
        bindings: dict[str, Size],
        transfer: Transfer,
    ) -> None:
        shape = view.shape(root)
        if shape is None:
            raise NotExpressible("the rank of the input is not known: run shape inference on the model first")
        self.view = view
        self._transfer = transfer
        self.root = root
        self.bindings = bindings
        dims = []
        for axis, size in enumerate(shape):
            pieces = [s.substitute(bindings) for s in cuts.get(axis, [size])]
            dims.append(tuple(Atom(axis, i, s) for i, s in enumerate(pieces) if not s.is_one))
        self.dims: Dims = tuple(dims)
        self.algebra = Algebra(frozenset(atom for dim in self.dims for atom in dim))
        self.facts: dict[ir.Value, Fact] = {value: Fact(of_factor(THE_X), self.dims) for value in same_values(root)}
        self.broken: dict[ir.Value, str] = {}
        self.scope = ""
        self.call: ir.Node | None = None
        self._caller: Evaluation | None = None
        self._meant: np.ndarray | None = None
        self._lifted: dict[ir.Value, Fact] = {}
        self._integers: dict[ir.Value, np.ndarray | None] = {}

    def frame(self, function: ir.Function, call: ir.Node, depth: int) -> Evaluation:
        """The same evaluation inside one call of a model-local function: what is learnt there holds for this call only.

        Raises:
            NotExpressible: When the function calls itself.
        """
        outer: Evaluation | None = self
        while outer is not None:
            if outer.call is not None and outer.call.op_identifier() == call.op_identifier():
                raise NotExpressible("a function that calls itself")
            outer = outer._caller
        inner = copy.copy(self)
        inner.facts, inner.broken, inner._lifted, inner._integers = {}, {}, {}, {}
        inner.call, inner._caller = call, self
        inner.scope = f"{self.scope}{self.view.position[call]}/"
        for parameter, argument in zip(function.inputs, call.inputs, strict=False):
            if argument is None:
                continue
            inner._integers[parameter] = self.integers(argument)
            try:
                inner.facts[parameter] = self.fact(argument, depth)
            except (NotExpressible, LayoutError) as e:
                inner.broken[parameter] = str(e)
        return inner

    def attribute(self, node: ir.Node, name: str) -> ir.Attr | None:
        """An attribute of a node; one that refers to a parameter of the enclosing function is looked up in the call."""
        attribute = node.attributes.get(name)
        if attribute is None or not attribute.is_ref():
            return attribute
        if self.call is None or self._caller is None:
            raise NotExpressible(f"the attribute {name} is a parameter of the enclosing function")
        given = self._caller.attribute(self.call, attribute.ref_attr_name or "")
        if given is not None:
            return given
        function = self.view.functions[self.call.op_identifier()]
        return function.attributes.get(attribute.ref_attr_name or "")

    def constant(self, value: ir.Value) -> np.ndarray | None:
        """The array of a constant; see `ModelView.constant`."""
        node = value.producer()
        if node is not None and node.op_type == "Constant" and any(a.is_ref() for a in node.attributes.values()):
            (name,) = node.attributes
            given = self.attribute(node, name)
            if given is None or given.value is None:
                return None
            return np.asarray(given.as_tensor().numpy() if name == "value" else given.value)
        return self.view.constant(value)

    def fact(self, value: ir.Value | None, depth: int = 0) -> Fact:
        """The fact of any value.

        Raises:
            NotExpressible, LayoutError, Refine, Bind.
        """
        if value is None:
            raise NotExpressible("a required input is missing")
        known = self.facts.get(value) or self._lifted.get(value)
        if known is None:
            known = self._lift(value, depth)
            self._lifted[value] = known
        return known

    def check_nothing_hidden(self, value: ir.Value) -> None:
        """What was derived from x in a way that is not followed may be a factor or a term, but it may not cancel.

        Over the real numbers t - t is zero; where t is the root of something negative, it is not.

        Raises:
            NotExpressible: When something cancels in the fact of `value`.
        """
        visible = {f.key for monomial in self.facts[value].poly for f, _ in monomial if isinstance(f, Tensor)}
        todo, seen = [(value, False)], {self.root}
        while todo and len(seen) < _MAX_LOOKED_AT:
            current, beyond = todo.pop()
            node = current.producer()
            if current in seen or current in visible or node is None or node.op_type in ("Shape", "Size"):
                continue
            lifted = current in self._lifted
            if (lifted or beyond) and self.view.dtype(current) == ir.DataType.BOOL:
                continue  # true or false whatever it was computed of
            if current in self.broken and (lifted or beyond):
                raise NotExpressible(f"{current.name!r} cancels, but not where it is not a number")
            if current in self.facts or lifted or beyond:
                seen.add(current)
                # Of a tensor that was taken as it is, everything counts that it is computed from.
                further = current not in self.facts
                todo.extend((v, further) for v in node.inputs if v is not None)

    def _lift(self, value: ir.Value, depth: int) -> Fact:
        array = self.constant(value)
        if array is not None:
            return self.constant_fact(array)
        node = value.producer()
        if node is not None and value not in self.broken and depth < _MAX_LIFT_DEPTH and self._worth_lifting(node, value):
            try:
                return self._transfer(self, node, depth + 1)[value]
            except NotFinite:
                raise
            except (NotExpressible, LayoutError, KeyError):
                array = self.view.folded(value)
                if array is not None:
                    return self.constant_fact(array)
        count = self.count(value)
        return self._opaque(value) if count is None else count

    def count(self, value: ir.Value, depth: int = 0) -> Fact | None:
        """The fact of one number that was computed from sizes, whatever its type; None for anything else."""
        node = value.producer()
        sum_of = ("Add", "Sub") if depth < _MAX_SUMS and self.view.is_of_sizes(value) else ()
        if node is not None and node.domain in STANDARD_DOMAINS and node.op_type in sum_of:  # n - 1
            a, b = (None if v is None else self.count(v, depth + 1) for v in node.inputs)
            if a is not None and b is not None:
                sign = 1.0 if node.op_type == "Add" else -1.0
                return Fact(self.algebra.add(a.poly, b.poly, sign), max(a.dims, b.dims, key=len))
        sizes = self.integers(value)
        if sizes is None or sizes.size != 1 or not isinstance(sizes.ravel()[0], Size) or integers.is_rounded(self, value):
            return None
        size: Size = sizes.ravel()[0]
        return Fact({} if size.is_zero else of_size(size), ((),) * sizes.ndim)

    def _worth_lifting(self, node: ir.Node, value: ir.Value) -> bool:
        if node.op_type in _THROUGH:
            return True
        dtype = self.view.dtype(value)
        if dtype is not None and dtype not in FLOATS:
            return False  # integers round where they divide
        if self.view.is_of_sizes(value):
            return dtype is not None
        shape = self.shape(value)
        return shape is None or sum(not size.is_one for size in shape) <= 2

    def _opaque(self, value: ir.Value) -> Fact:
        shape = self.shape(value)
        if shape is None:
            raise NotExpressible(f"the shape of {value.name!r} is not known")
        dims = tuple(free_dim(size) for size in shape)
        atoms = tuple(atom for dim in dims for atom in dim)
        return Fact(of_factor(Tensor(value, atoms, value.name or "t")), dims)

    def constant_fact(self, array: np.ndarray) -> Fact:
        """A constant, one atom for every dimension larger than 1."""
        if array.size == 0:
            raise NotExpressible("an empty constant")
        if not np.all(np.isfinite(array.astype(np.float64))):
            raise NotFinite("a constant that is not finite: what is computed with it is no number")
        data = self._unrounded(array)
        dims = tuple(free_dim(Size.of(n)) for n in data.shape)
        atoms = tuple(dim[0] for dim, n in zip(dims, data.shape, strict=True) if n > 1)
        coefficient = Coefficient(data.reshape([n for n in data.shape if n > 1]), atoms)
        poly: Poly = {} if not np.any(data) else {frozenset(): coefficient}
        return Fact(poly, dims)

    def _unrounded(self, array: np.ndarray) -> np.ndarray:
        """In float64; one number that is the rounding of some group's size, or of 1 over it, is read as that."""
        data = array.astype(np.float64)
        return np.full_like(data, self.unrounded(array.ravel()[0])) if array.size == 1 else data

    def unrounded(self, number: np.generic) -> float:
        """What a number of the graph was before it was rounded to its type, if that is a count of elements of x."""
        value = float(number)
        if number.dtype.kind not in "fV" or number.dtype.itemsize > 4 or self._is_dyadic(value):
            return value
        if self._meant is None:
            self._meant = self._counts()
        nearest = self._meant[np.argmin(np.abs(self._meant - value))]
        return float(nearest) if number.dtype.type(nearest) == number else value

    @staticmethod
    def _is_dyadic(value: float) -> bool:
        """A small integer over a power of two: nothing was rounded."""
        mantissa, _ = np.frexp(value)
        return bool(float(mantissa) * 256 == int(mantissa * 256))

    def _counts(self) -> np.ndarray:
        """n, 1/n, their roots and n/(n-1), for every n that is the size of some axes of x, known ones."""
        counts = {1}
        for atom in self.algebra.x_atoms:
            size = atom.size.static
            if size is not None and len(counts) < _MAX_COUNTS:
                counts |= {size * count for count in counts}
        n = np.array(sorted(counts), dtype=np.float64)
        more = n[n > 1]
        return np.concatenate([n, 1 / n, np.sqrt(n), 1 / np.sqrt(n), more / (more - 1), (more - 1) / more])

    def shape(self, value: ir.Value) -> tuple[Size, ...] | None:
        fact = self.facts.get(value) or self._lifted.get(value)
        if fact is not None:
            return tuple(product(atom.size for atom in dim) for dim in fact.dims)
        sizes = self.view.shape(value)
        if sizes is None:
            return None
        return tuple(self._of_this_call(size).substitute(self.bindings) for size in sizes)

    def _of_this_call(self, size: Size) -> Size:
        """Sizes that nobody named (`value[axis]`, see shape_inference.py) differ from call to call of a function."""
        if not self.scope:
            return size
        names = sorted((self.scope + name if "[" in name else name, exponent) for name, exponent in size.symbols)
        return Size(size.factor, tuple(names))

    def integers(self, value: ir.Value | None) -> np.ndarray | None:
        """An integer tensor as an object array of `Size`, or None when it is not computed from shapes."""
        if value is None:
            return None
        if value not in self._integers:
            self._integers[value] = None  # cut cycles
            self._integers[value] = integers.evaluate(self, value)
        return self._integers[value]

    def combine(self, a: Fact, b: Fact) -> tuple[Poly, Poly, Dims]:
        """Both expressions in one common layout (NumPy broadcasting)."""
        dims, renaming = unify(a.dims, b.dims)
        return renamed(a.poly, renaming), renamed(b.poly, renaming), dims
