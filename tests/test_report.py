"""The page for people: self-contained, well-formed, and safe against names that a model chose."""

from __future__ import annotations

import html.parser
import pathlib
import re

import pytest
from hand_models import detector

from gn_onnx import cli
from gn_onnx.checking.scope import scopes
from gn_onnx.reporting import html_report, svg

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
    assert parsed.tags.count("svg") == 4  # two sites, before and after
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
    boxes = html_report.boxes_between(scopes(detector(), {})[()], "c0", "g0")
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
