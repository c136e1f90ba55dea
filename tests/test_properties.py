"""Two properties of fusing, on random graphs.

Completeness: every spelling of every GroupNorm that generate.py writes is one node, with its groups and epsilon, and
computes the same. Soundness: whatever is changed in such a graph (mutate.py), fusing keeps what it computes.

CI runs a fixed 200 graphs for each; `GN_ONNX_FUZZ_CASES=20000 pytest tests/test_properties.py -k random` runs more.
"""

from __future__ import annotations

import dataclasses
import os
import random

import pytest
from generate import Case, group_norm
from helpers import KINDS, attributes, difference, evaluator, group_norm_nodes, sample
from helpers import group_norm as definition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import mutated
from onnx import TensorProto
from soundness import broken_by_fusing, gap, tolerance
from surroundings import surrounded

from gn_onnx import fuse

_CASES = int(os.environ.get("GN_ONNX_FUZZ_CASES", "200"))
_FIRST = int(os.environ.get("GN_ONNX_FUZZ_FIRST", "0"))
_CHUNKS = 8
_MUTANTS_PER_GRAPH = 4

_EPSILON_ROUNDING = {TensorProto.FLOAT16: 3e-2, TensorProto.FLOAT: 1e-5, TensorProto.DOUBLE: 1e-5}
"""Relative; 1e-6 is subnormal in float16, epsilon is an attribute in float32 everywhere."""


def incomplete(case: Case) -> str:
    """What is not as it should be after fusing a GroupNorm; "" when all is well."""
    truth = case.truth
    result = fuse(case.model)
    nodes = group_norm_nodes(result.model)
    if len(nodes) != 1:
        return f"{len(nodes)} nodes: {'; '.join(map(str, result.rejected))}"
    found = attributes(nodes[0])
    as_it_lies = len(case.model.graph.output) > 1  # a normalised value that is an output is replaced in its own view
    if found["num_groups"] != truth.num_groups and not as_it_lies:
        return f"num_groups {found['num_groups']}"
    if abs(found["epsilon"] / truth.epsilon - 1) > _EPSILON_ROUNDING[truth.dtype]:
        return f"epsilon {found['epsilon']}"
    original, fused = evaluator(case.model), evaluator(result.model)
    for kind in KINDS:
        feeds = {"x": sample(kind, truth.x_shape, truth.epsilon), **case.inputs}
        found_gap = gap(original, fused, feeds, tolerance(case.model))
        if not found_gap <= tolerance(case.model):
            return f"{kind}: {found_gap:.2e}"
    return ""


def somewhere(rng: random.Random) -> Case:
    """A GroupNorm, one in three of them not alone in its graph."""
    case = group_norm(rng)
    return surrounded(case, rng) if rng.random() < 0.33 else case


def _chunk(index: int) -> range:
    size = -(-_CASES // _CHUNKS)
    return range(_FIRST + index * size, _FIRST + min((index + 1) * size, _CASES))


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_random_spellings_fuse(chunk: int) -> None:
    failures = []
    for seed in _chunk(chunk):
        case = somewhere(random.Random(seed))
        if problem := incomplete(case):
            failures.append(f"seed {seed}, {case.description}: {problem}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_random_mutants_keep_what_they_compute(chunk: int) -> None:
    failures, valid, fused = [], 0, 0
    for seed in _chunk(chunk):
        rng = random.Random(seed)
        case = group_norm(rng)
        for _ in range(_MUTANTS_PER_GRAPH):
            change = mutated(case.model, rng)
            if change is None:
                continue
            mutant = dataclasses.replace(case, model=change[0])
            if rng.random() < 0.2:
                mutant = surrounded(mutant, rng)
            verdict = broken_by_fusing(mutant.model, case.truth.x_shape, case.truth.epsilon, mutant.inputs, rng)
            if verdict is None:
                continue
            valid, fused = valid + 1, fused + bool(verdict[1])
            if verdict[0]:
                failures.append(f"seed {seed}, {case.description}, {change[1]}: {verdict[0]}")
    assert not failures, "\n".join(failures)
    assert valid > len(_chunk(chunk)), "most mutants are meant to be valid models"
    assert fused > len(_chunk(chunk)) // 4, "mutants that nothing is fused in prove nothing"


@pytest.mark.parametrize("seed", range(100))
def test_generated_graphs_are_what_the_definition_says(seed: int) -> None:
    case = group_norm(random.Random(seed))
    truth = case.truth
    for kind in KINDS[:2]:
        x = sample(kind, truth.x_shape, truth.epsilon)
        want = definition(x, truth.scale, truth.bias, truth.num_groups, truth.epsilon, channels_last=truth.channels_last)
        got = evaluator(case.model).run({"x": x, **case.inputs})
        bound = 2e-2 if truth.dtype == TensorProto.FLOAT16 else 1e-5  # constants of the graph are rounded to its type
        assert difference(got, {"y": want}) < bound


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_spellings_fuse_and_shrink(rng: random.Random) -> None:
    """The same as above with hypothesis' own choices, which it makes smaller when one fails."""
    case = somewhere(rng)
    assert incomplete(case) == "", case.description
