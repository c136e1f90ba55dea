"""`gn-onnx parity` beside PyTorch, what a detector's outputs mean, and a wrong result that is ONNX Runtime's own."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest
from hand_models import detector, group_norm_chain
from onnx import TensorProto, helper, numpy_helper

import gn_onnx
from gn_onnx import cli
from gn_onnx.checking import ort_runner, pad_fusion

torch = pytest.importorskip("torch")

TORCH_MODULE = """
import torch


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, 8)

    def forward(self, x):
        return {"features": torch.nn.functional.silu(self.norm(self.conv(x)))}


def build():
    torch.manual_seed(0)
    return Head(), (torch.randn(1, 3, 16, 16),)


def decode(features):
    best = features.reshape(len(features), -1).argsort(axis=1)[:, -3:]
    return {"scores": features.reshape(len(features), -1)[:, best[0]].astype("float64"), "labels": best}
"""


def test_parity_with_pytorch(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "head_for_parity.py").write_text(TORCH_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import head_for_parity

    module, examples = head_for_parity.build()
    path = tmp_path / "head.onnx"
    torch.onnx.export(module, examples, path, dynamo=False, opset_version=17)
    assert cli.main(["fuse", str(path)]) == 0
    fused = str(path.with_name("head.gn.onnx"))
    assert cli.main(["parity", fused, "--torch", "head_for_parity:build", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {output["against"] for output in report["outputs"]} == {"torch", "torch float64"}
    assert cli.main(["parity", fused, "--torch", "head_for_parity:gone"]) == 2
    wrong = onnx.load(fused)
    next(a for n in wrong.graph.node for a in n.attribute if a.name == "epsilon").f = 1e-1
    onnx.save(wrong, fused)
    assert cli.main(["parity", fused, "--torch", "head_for_parity:build"]) == 1


@pytest.fixture
def head(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "head_beside_torch.py").write_text(TORCH_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import head_beside_torch

    return head_beside_torch


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_group_norm_is_compared_with_pytorchs(
    head, dtype: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, (image,) = head.build()
    kind = getattr(torch, dtype)
    torch.onnx.export(module.to(kind).eval(), (image.to(kind),), tmp_path / "head.onnx", dynamo=False, opset_version=17)
    fused = gn_onnx.fuse(tmp_path / "head.onnx")
    assert fused.fused[0].activation == "silu"
    onnx.save(gn_onnx.fuse(onnx.load(tmp_path / "head.onnx")).model, tmp_path / "fused.onnx")
    beside = ["--torch", "head_beside_torch:build", "--decode", "head_beside_torch:decode", "--json"]
    assert cli.main(["parity", str(tmp_path / "fused.onnx"), *beside]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["notes"] == []
    (site,) = report["sites"]
    assert site["fused"]["dtype"] == dtype
    assert site["fused"]["cosine"] > 0.9999  # with the activation that the node has
    assert 0 < site["fused"]["relative"] < site["fused"]["tolerance"]
    assert {"decoded scores", "decoded labels"} <= {output["name"] for output in report["outputs"]}
    # The original has no GroupNorm nodes to look at; its outputs are compared all the same.
    assert cli.main(["parity", str(tmp_path / "head.onnx"), *beside]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "fuse it first" in report["notes"][0]
    assert report["outputs"][0]["ok"]


def test_labels_that_differ_are_a_failure(head, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = detector()
    path, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    path.write_bytes(original.SerializeToString())
    (tmp_path / "decoders.py").write_text(
        "import itertools\ncount = itertools.count()\n"
        "def changing(y): return {'labels': (y.ravel()[:1] * 0).astype(int) + next(count)}\n"
        "def wrong(y, more): return {}\n"
    )
    other.write_bytes(gn_onnx.fuse(original).model.SerializeToString())
    arguments = ["parity", str(other), "--against", str(path), "--shape", "image=1,3,8,8", "--decode"]
    assert cli.main([*arguments, "decoders:changing"]) == 1
    assert "decoded labels" in capsys.readouterr().err
    assert cli.main([*arguments, "decoders:wrong"]) == 2
    assert cli.main([*arguments, "decoders"]) == 2


def padded_model() -> onnx.ModelProto:
    """A Pad with zeros before a MaxPool over negative numbers, then GroupNorm."""
    nodes = [
        helper.make_node("Abs", ["image"], ["a"]),
        helper.make_node("Neg", ["a"], ["n"]),
        helper.make_node("Pad", ["n", "pads"], ["p"], "pad"),
        helper.make_node("MaxPool", ["p"], ["m"], "pool", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    more, constants = group_norm_chain("gn", "m", "y", 4, 2)
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("image",)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "H", "W"])]
    graph = helper.make_graph(nodes + more, "padded", values, outputs, [pads, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def test_what_pad_fusion_does_is_told_from_what_fusing_does(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = padded_model()
    (tmp_path / "a.onnx").write_bytes(original.SerializeToString())
    (tmp_path / "b.onnx").write_bytes(gn_onnx.fuse(original).model.SerializeToString())
    assert cli.main(["parity", str(tmp_path / "b.onnx"), "--against", str(tmp_path / "a.onnx"), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("not from fusing: ONNX Runtime's Pad_Fusion moves output 'y'")
    assert 'disabled_optimizers=["Pad_Fusion"]' in note
    assert cli.main(["fuse", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "c.onnx")]) == 0
    assert "Pad_Fusion" in capsys.readouterr().err


def test_pad_fusion_is_not_blamed_where_it_changes_nothing() -> None:
    model = padded_model()
    feeds = {"image": np.zeros((1, 4, 8, 8), np.float32)}
    assert pad_fusion.may_matter(model)
    results = ort_runner.Session(model).run(feeds)
    assert pad_fusion.notes(model, feeds, results, ort_runner.Options()) == []
    assert not pad_fusion.may_matter(detector())
