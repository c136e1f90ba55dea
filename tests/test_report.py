"""The page for people: self-contained, well-formed, and safe against names that a model chose."""

from __future__ import annotations

import html.parser
import pathlib
import re

import pytest
from hand_models import detector

from gn_onnx import cli
from gn_onnx.benchmarks import bench, bench_models
from gn_onnx.checking.scope import scopes
from gn_onnx.files import fuse_file
from gn_onnx.group_norm import Rejection
from gn_onnx.reporting import html_report, page_parts, svg
from gn_onnx.reporting.report import FusionReport

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Strict(html.parser.HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(tmp_path: pathlib.Path, model, *options: str) -> str:
    path, page = tmp_path / "detector.onnx", tmp_path / "report.html"
    path.write_bytes(model.SerializeToString())
    assert cli.main(["report", str(path), "-o", str(page), "--shape", "image=1,3,24,24", *options]) == 0
    return page.read_text("utf-8")


def test_the_page_shows_sites_parity_and_times(tmp_path: pathlib.Path) -> None:
    page = page_of(tmp_path, detector())
    parsed = Strict(page)
    assert parsed.tags.count("svg") == 6  # two sites, before and after; the first in full view too
    assert "Equal to the original." in page
    assert "original" in page
    assert "GroupNormRelu" in page


def test_nothing_is_loaded_from_elsewhere(tmp_path: pathlib.Path) -> None:
    page = page_of(tmp_path, detector(), "--no-bench")
    assert not re.search(r"<(script|link|img|iframe)\b|https?://|url\(|@import", page)
    assert 'name="viewport"' in page


def test_names_from_the_model_are_text(tmp_path: pathlib.Path) -> None:
    model = detector()
    evil = "<script>alert('x')</script>\"&\x1b"
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [evil if name == "c0" else name for name in field]
        node.name = node.name.replace("gn0/", evil)
    page = page_of(tmp_path, model, "--no-bench")
    Strict(page)
    assert "<script" not in page
    assert "\x1b" not in page


def test_a_model_without_group_norm(tmp_path: pathlib.Path) -> None:
    from hand_models import without_group_norm

    path, page = tmp_path / "relu.onnx", tmp_path / "report.html"
    path.write_bytes(without_group_norm().SerializeToString())
    assert cli.main(["report", str(path), "-o", str(page)]) == 0
    assert "No GroupNorm was fused." in page.read_text("utf-8")


def test_the_model_is_not_overwritten_by_its_report(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector().SerializeToString())
    assert cli.main(["report", str(path), "-o", str(path)]) == 2


def test_boxes_follow_the_data_from_x_to_the_output() -> None:
    boxes = page_parts.boxes_between(scopes(detector(), {})[()], "c0", "g0")
    assert [box.text for box in boxes] == [
        "c0", "Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add", "g0",
    ]  # fmt: skip
    drawing = svg.draw(boxes, label="gn0")
    assert drawing.count("<rect") == len(boxes)
    Strict(drawing)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_pictures_of_any_size(count: int) -> None:
    boxes = [svg.Box(str(i), f"node {i}", tuple(str(j) for j in range(max(0, i - 3), i))) for i in range(count)]
    Strict(svg.draw(boxes, label="many"))


def result(**times: float) -> bench_models.ModelResult:
    """Seven rounds in which every variant takes the same time, in microseconds."""
    names = {name: getattr(bench_models, name) for name in times}
    timings = {names[name]: bench.Timing(names[name], (time,) * 7) for name, time in times.items()}
    return bench_models.ModelResult("m.onnx", 1, timings, {}, {}, {}, 1.0, {})


@pytest.mark.parametrize(("target", "shown"), [("plugin", "1.60 ×"), ("onnx", "2.00 ×")])
def test_the_speed_in_large_type_is_that_of_the_target(target: str, shown: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(detector().SerializeToString())
    request = fuse_file.Request(model=path, target=target, shapes={"image": (1, 3, 24, 24)})
    measured = result(ORIGINAL=800.0, FUSED=700.0, FUSED_LIBRARY=500.0, NATIVE_LIBRARY=400.0)
    machine = {"processor": "P<1>", "threads": 2, "onnxruntime": "1.31.1"}
    page = html_report.render(fuse_file.examine(request), detector(), measured, machine)
    Strict(page)
    assert f"<b>{shown}</b>as fast as before" in page
    assert "P&lt;1&gt;, 2 threads, ONNX Runtime 1.31.1" in page


def test_look_alikes_are_listed_by_reason(tmp_path: pathlib.Path) -> None:
    rejected = [Rejection("an RMS normalisation", f"look-alike {index}", "Mul", reached="x*rstd") for index in range(3)]
    rejected.append(Rejection("the epsilon differs", "other", "Add"))
    report = FusionReport(tmp_path / "m.onnx", "plugin", [], rejected, 0, (3, 3), (10, 10))
    page = html_report.render(report, detector(), None)
    Strict(page)
    assert "<b>3 ×</b> an RMS normalisation" in page
    assert "<b>1 ×</b> the epsilon differs" in page
    assert all(f"<li>Mul look-alike {index}<br>" in page for index in range(3))
