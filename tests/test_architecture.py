"""Who may import whom: the layers, listed, against the imports in the source."""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "gn_onnx"

MATHEMATICS = (
    ("recognition.sizes",),
    ("recognition.layout",),
    ("recognition.polynomials",),
    ("recognition.wording",),
    ("recognition.algebra",),
)
"""Each layer may import those before it, numpy and the standard library, and nothing else at all."""

RECOGNISER = (
    ("group_norm", "errors", "recognition.stand_ins", "recognition.shape_inference"),
    ("recognition.model_view",),
    ("recognition.integers",),
    ("recognition.followed_shapes",),
    ("recognition.evaluation",),
    ("recognition.roots", "recognition.variance", "recognition.transfer.common"),
    ("recognition.matching",),
    (
        "recognition.transfer.reductions",
        "recognition.transfer.choices",
        "recognition.transfer.elementwise",
        "recognition.transfer.moving",
        "recognition.transfer.calls",
        "recognition.transfer.contractions",
    ),
    ("recognition.transfer.normalisations", "recognition.transfer.slices", "recognition.transfer.casts"),
    ("recognition.transfer.writes",),
    ("recognition.transfer",),
    ("recognition.walk",),
    ("recognition.sites", "recognition.refusals", "rewriting.activations"),
    ("recognition.search",),
    ("recognition.recognize",),
    ("rewriting.epilogues",),
)
"""On top of the mathematics: each layer may import those before it and its own, but never the layers above."""

REWRITER = (
    ("rewriting.functions", "rewriting.building", "rewriting.transposes", "rewriting.devices"),
    ("rewriting.rewrite",),
)
"""Beside the recogniser: knows the record GroupNorm, not how it was found."""

OPTIONAL = {"onnxruntime", "torch", "onnxscript", "openvino", "rich", "matplotlib"}
"""Imported inside functions only: the core works and starts fast without them."""

NUMPY_ONLY = {"numpy"}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYERS = [set(layer) for layer in MATHEMATICS + RECOGNISER]


def imports(module: str, *, inside_functions: bool) -> Iterator[str]:
    """Full names of what a module imports when it runs; what is for type checkers only is left out."""
    todo: list[ast.AST] = [ast.parse(SOURCES[module].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def own(module: str) -> set[str]:
    """Modules of this package that a module imports, function bodies included."""
    found = set()
    for name in imports(module, inside_functions=True):
        inner = name.removeprefix("gn_onnx.") if name.startswith("gn_onnx.") else None
        while inner and inner not in SOURCES:
            inner = inner.rpartition(".")[0]
        if inner:
            found.add(inner)
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_optional_packages_are_imported_inside_functions(module: str) -> None:
    top = {name.partition(".")[0] for name in imports(module, inside_functions=False)}
    assert not top & OPTIONAL


@pytest.mark.parametrize("module", [module for layer in MATHEMATICS for module in layer])
def test_the_mathematics_knows_no_model_format(module: str) -> None:
    everything = {name.partition(".")[0] for name in imports(module, inside_functions=True)}
    assert everything - {"gn_onnx"} <= NUMPY_ONLY | sys.stdlib_module_names


@pytest.mark.parametrize(("depth", "module"), [(depth, module) for depth, layer in enumerate(LAYERS) for module in layer])
def test_layers_import_downwards(depth: int, module: str) -> None:
    below = set().union(*LAYERS[:depth])
    # Neighbours may use one another where the layer has several modules; test_no_cycles keeps that an order.
    assert own(module) <= below | LAYERS[depth]


@pytest.mark.parametrize(("depth", "module"), [(d, m) for d, layer in enumerate(REWRITER) for m in layer])
def test_the_rewriter_does_not_know_the_recogniser(depth: int, module: str) -> None:
    below = {module for layer in REWRITER[: depth + 1] for module in layer}
    assert own(module) <= below | {"group_norm", "errors", "recognition.model_view", "rewriting.opsets"}


def test_no_cycles() -> None:
    edges = {module: own(module) - {module} for module in SOURCES}
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for module in leaves:
            del edges[module]
    # The package itself names all public modules, lazily; commands import it.
    assert not {module for module in edges if module}, f"import one another: {edges}"


def test_the_library_knows_no_python() -> None:
    native = PACKAGE.parent / "custom_ops"
    sources = [path for folder in ("include", "src") for path in (native / folder).rglob("*") if path.is_file()]
    assert sources
    assert not [path for path in sources if "Python.h" in path.read_text() or "pybind11" in path.read_text()]
