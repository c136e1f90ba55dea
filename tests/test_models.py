"""Exported models of PyTorch, fused and run; the short form of `make test-models`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import tomllib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from models import checks, counting, detections, matrix, picture, registry, table  # noqa: E402 - they need what is imported above
from models.exporting import Form, RefusedError  # noqa: E402

pytestmark = [pytest.mark.ort, pytest.mark.torch]

LIMIT = 1e-4
"""Tolerance on whole models in float32; an error in any one GroupNorm must show more than this."""

HEAD_FORMS = (
    Form("torchscript", 17),
    Form("torchscript", 17, dynamic=True),
    Form("dynamo", 18),
    Form("dynamo", 20, dynamic=True),
    Form("dynamo", 21),
    Form("torchscript", 17, dtype="float16"),
    Form("dynamo", 21, dtype="float16"),
)


@pytest.fixture(scope="module")
def head() -> registry.Model:
    return registry.build("mask_rcnn_head")


@pytest.fixture(scope="module")
def detector() -> registry.Model:
    return registry.build("fcos")


@pytest.mark.parametrize("form", HEAD_FORMS, ids=str)
def test_mask_rcnn_head(head: registry.Model, form: Form, tmp_path: pathlib.Path) -> None:
    row = checks.check(head, form, tmp_path)
    assert not row.refused
    assert not row.failures
    assert row.fused == {"plugin": 16, "onnx": 16}


@pytest.mark.slow
@pytest.mark.parametrize("form", [Form("torchscript", 17), Form("dynamo", 20, dynamic=True)], ids=str)
def test_detector(detector: registry.Model, form: Form, tmp_path: pathlib.Path) -> None:
    row = checks.check(detector, form, tmp_path)
    assert not row.refused
    assert not row.failures
    assert row.fused == {"plugin": 101, "onnx": 101}
    assert max(row.errors.values()) < LIMIT


@pytest.mark.slow
def test_detections_are_those_of_pytorch(detector: registry.Model, tmp_path: pathlib.Path) -> None:
    import gn_onnx

    detector.export(tmp_path / "fcos.onnx", Form("torchscript", 17))
    session = gn_onnx.session(gn_onnx.fuse(tmp_path / "fcos.onnx").model, ["CPUExecutionProvider"])
    ours = detections.decode(*(value[0] for value in session.run(None, detector.feeds)), size=320)
    theirs = detections.decode(*(value[0].numpy() for value in detector.outputs()), size=320)
    assert len(theirs.labels) == 100
    found = detections.differences(ours, theirs)
    assert found["labels"] == 0
    assert found["boxes"] < 0.01
    assert found["scores"] < LIMIT


def test_every_group_norm_of_the_head_shows_in_its_outputs(head: registry.Model) -> None:
    assert min(visible(head, range(16))) > 10 * LIMIT


@pytest.mark.slow
def test_group_norms_of_the_detector_show_in_its_outputs(detector: registry.Model) -> None:
    assert min(visible(detector, range(0, 101, 25))) > 10 * LIMIT


@pytest.mark.models
def test_every_group_norm_of_the_detector_shows_in_its_outputs(detector: registry.Model) -> None:
    assert min(visible(detector, range(101))) > LIMIT


@pytest.mark.parametrize("form", [Form("torchscript", 17), Form("dynamo", 20, dynamic=True)], ids=str)
def test_other_normalisations_are_not_fused(form: Form, tmp_path: pathlib.Path) -> None:
    row = checks.check(registry.build("decoys"), form, tmp_path)
    assert not row.failures
    assert row.fused == {"plugin": 2, "onnx": 2}


def test_what_was_seen_is_kept_and_becomes_a_table(head: registry.Model, tmp_path: pathlib.Path) -> None:
    good = checks.Row("head", Form(), 16, {"plugin": 16, "onnx": 16}, errors={("plugin", True): 1e-6}, labels=0)
    bad = dataclasses.replace(good, form=Form(dtype="float16"), failures=["plugin: 15 of 16 GroupNorms fused"])
    refused = checks.Row("head", Form("dynamo", 18), 16, refused="exporter: no | such")
    for row in (good, bad, refused):
        assert checks.Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    shown = table.text([good, bad, refused], {"processor": "P", "threads": 2, "torch": "2"})
    assert "| head | 16 | 1.0e-06 / FAILED | refused | 64 of 64 |" in shown
    assert "- head, dynamo 18 static float32: exporter: no | such" in shown
    readme = f"a {table.BEGIN}\nwords\n<!-- table -->\nold\n{table.END} b"
    assert table.with_table(readme, "new") == f"a {table.BEGIN}\nwords\n<!-- table -->\nnew\n{table.END} b"
    assert table.BEGIN in table.README.read_text() and "<!-- table -->" in table.README.read_text()


def test_an_unfinished_matrix_goes_on(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = tmp_path / "models.jsonl"
    matrix.run("decoys", (Form(),), seen)
    assert "decoys, torchscript 17 static float32: ok" in capsys.readouterr().out
    kept = [dataclasses.replace(row, form=form) for row in matrix.read(seen) for form in matrix.QUICK]
    seen.write_text("".join(json.dumps(row.to_json()) + "\n" for row in kept))
    assert matrix.main(["decoys", "--quick", "--resume", "--output", str(tmp_path)]) == 0
    assert "3 combinations, 0 refused, 0 failed" in capsys.readouterr().out
    assert matrix.read(seen) == kept


def visible(model: registry.Model, indices: range) -> list[float]:
    """How far the outputs move when one GroupNorm is wrong."""
    truth = [value.numpy() for value in model.outputs()]
    return [
        checks.distance([value.numpy() for value in counting.with_an_error(model.module, model.inputs, index)], truth)
        for index in indices
    ]


def test_group_norms_are_counted_whoever_calls_them() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.GroupNorm(2, 4)
            self.decoys = torch.nn.Sequential(torch.nn.InstanceNorm2d(4), torch.nn.LayerNorm(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.group_norm(self.norm(self.norm(self.decoys(x))), 4, eps=1e-3)

    calls = counting.group_norm_calls(Own(), (torch.randn(1, 4, 3, 3),))
    assert [(call.num_groups, call.epsilon) for call in calls] == [(2, 1e-5), (2, 1e-5), (4, 1e-3)]


def test_a_refusal_of_the_exporter_is_kept(head: registry.Model, tmp_path: pathlib.Path) -> None:
    with pytest.raises(RefusedError, match="opset"):
        head.export(tmp_path / "model.onnx", Form("torchscript", 99))
    row = checks.check(head, Form("torchscript", 99), tmp_path)
    assert row.refused.startswith("exporter:")


def test_an_original_that_overflows_is_kept_and_its_group_norms_counted(
    head: registry.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "distance", lambda mine, truth: np.inf)
    row = checks.check(head, Form("torchscript", 17), tmp_path)
    assert "not finite" in row.refused
    assert not row.failures
    assert row.fused == {"plugin": 16, "onnx": 16}


def test_the_registry_is_complete() -> None:
    folder = pathlib.Path(registry.__file__).parent
    described = {path.stem for path in folder.glob("*.py") if "\nLIBRARIES = " in path.read_text()}
    assert described == set(registry.MODULES)


@pytest.mark.parametrize(
    ("mine", "theirs"), [(np.nan, 1.0), (np.inf, 1.0), (np.ones(2), np.ones(3))], ids=["nan", "inf", "shape"]
)
def test_distance_of_nonsense_is_infinite(mine: np.ndarray, theirs: np.ndarray) -> None:
    assert checks.distance([np.asarray(mine)], [np.asarray(theirs)]) == np.inf


def test_the_extra_names_every_library_in_the_version_that_the_matrix_runs_with() -> None:
    folder = pathlib.Path(registry.__file__).parent
    with (folder.parent / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["models"]
    assert {pin.partition("==")[0] for pin in extra} == {
        library for home in registry.MODULES.values() for library in importlib.import_module(home).LIBRARIES
    }
    assert set(extra) <= set((folder / "requirements.txt").read_text().splitlines())


@pytest.mark.models
@pytest.mark.parametrize("name", [name for name in registry.MODULES if name not in {"fcos", "mask_rcnn_head"}])
def test_models_of_libraries(name: str, tmp_path: pathlib.Path) -> None:
    missing = registry.missing_libraries(name)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; make test-models")
    model = registry.build(name)
    row = checks.check(model, Form("dynamo", 20), tmp_path)
    assert not row.refused
    assert not row.failures
    assert min(visible(model, range(row.expected))) > LIMIT


def test_the_readme_has_the_picture_and_the_table_of_what_was_measured() -> None:
    measured = json.loads(picture.DATA.read_text())
    readme = picture.README.read_text()
    assert picture.with_table(readme, picture.table(measured)) == readme
    assert "(docs/picture.svg)" in readme
    drawn = picture.PICTURE.read_text()
    pictured = [result for result in measured["results"] if result["model"] in picture.PICTURED]
    assert len(pictured) == len(picture.PICTURED)
    for result in pictured:
        for label in picture.SHOWN:
            assert f"{result['group_norm_ms'][label]:.3g} ms" in drawn
