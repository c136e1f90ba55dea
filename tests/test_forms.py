"""Every form under tests/forms: fused or rejected as its header says, and the numbers stay."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from forms_reader import FORMS, Form
from forms_table import README, with_tables
from helpers import KINDS, attributes, difference, evaluator, group_norm_nodes, run_ort
from soundness import tolerance

from gn_onnx import fuse

all_forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
standard_forms = pytest.mark.parametrize("form", [f for f in FORMS if not f.checker], ids=lambda form: form.name)


@standard_forms
def test_is_a_valid_model(form: Form) -> None:
    onnx.checker.check_model(form.model, full_check=True)


@all_forms
def test_is_fused_or_rejected_as_it_says(form: Form) -> None:
    result = fuse(form.model)
    nodes = group_norm_nodes(result.model)
    reasons = "; ".join(map(str, result.rejected))
    assert len(nodes) in form.counts, reasons
    assert re.search(form.reason, reasons), reasons
    if form.reason:
        assert result.rejected, "a look-alike is named"
    if form.num_groups:
        assert tuple(attributes(node)["num_groups"] for node in nodes) == form.num_groups
    if form.num_groups and len(nodes) == 1:
        assert attributes(nodes[0])["epsilon"] == pytest.approx(form.epsilon, rel=1e-5)
    if form.op:
        assert [node.op_type for node in nodes] == [form.op]


@pytest.mark.parametrize("target", ["plugin", "onnx"])
@all_forms
def test_keeps_what_it_computes(form: Form, target: str) -> None:
    fused = fuse(form.model, target=target).model
    before, after = evaluator(form.model), evaluator(fused)
    for kind in (*KINDS, "zero"):
        for flag in (True, False):
            feeds = form.feeds(kind, flag=flag)
            assert difference(after.run(feeds), before.run(feeds)) <= tolerance(form.model), kind


@standard_forms
def test_fused_model_is_valid(form: Form) -> None:
    for target in ("plugin", "onnx"):
        onnx.checker.check_model(fuse(form.model, target=target).model, full_check=True)


runnable_forms = pytest.mark.parametrize(
    "form",
    [f for f in FORMS if not f.checker and f.model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.BFLOAT16],
    ids=lambda form: form.name,
)
"""ONNX Runtime's Python side takes no bfloat16 arrays."""


@pytest.mark.ort
@runnable_forms
def test_runs_in_onnx_runtime_without_the_library(form: Form) -> None:
    """As near to the float64 truth as the original is, or nearer."""
    pytest.importorskip("onnxruntime")
    feeds = form.feeds("ordinary")
    truth = evaluator(form.model).run(feeds)
    before = run_ort(form.model, feeds)
    after = run_ort(fuse(form.model).model, feeds)
    unit = max(float(np.finfo(v.dtype).eps) for v in before.values())
    for name, want in truth.items():
        there = np.isfinite(want)
        for run in (before, after):
            np.testing.assert_array_equal(np.isfinite(run[name]), there)
        size = np.max(np.abs(want[there]), initial=1e-30)
        was, now = (
            np.max(np.abs(run[name].astype(np.float64) - want)[there], initial=0.0) / size for run in (before, after)
        )
        assert now <= 1.5 * was + 16 * unit + 2.0**-24 * form.epsilon  # epsilon is a float32 attribute, in float64 too


def test_the_tables_of_the_readme_are_current() -> None:
    readme = README.read_text()
    assert readme == with_tables(readme), "run: python tests/forms_table.py"
