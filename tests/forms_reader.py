"""Reads tests/forms/*.onnxtxt: a model in ONNX's text format under comment lines that say what it is.

    // form:       what the graph is
    // exporter:   who writes it
    // expect:     fused 1 | fused 0 or 1 | rejected "regular expression of the reason"
    // num_groups: of each GroupNorm, in graph order
    // epsilon:    of the GroupNorm (optional, default 1e-5)
    // op:         operator type of the fused node (optional)
    // checker:    why onnx.checker refuses the file (optional)

To add a form, add a file.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import onnx
from helpers import sample

FOLDER = pathlib.Path(__file__).parent / "forms"
SIZES = {"N": 2, "H": 3, "W": 4, "D": 2, "L": 6, "I": 1, "A": 3, "B": 2}
"""What symbolic sizes are at run time."""


@dataclasses.dataclass(frozen=True)
class Form:
    name: str
    what: str
    exporter: str
    counts: tuple[int, ...]
    reason: str
    num_groups: tuple[int, ...]
    epsilon: float
    op: str
    checker: str
    model: onnx.ModelProto

    def feeds(self, kind: str, *, flag: bool = True) -> dict[str, np.ndarray]:
        """One of helpers.KINDS for x, ordinary numbers for other tensors, `flag` for conditions; in the model's types."""
        feeds = {}
        constants = {t.name for t in self.model.graph.initializer} if self.model.ir_version < 4 else set()
        for i, value in enumerate(self.model.graph.input):
            if value.name in constants:
                continue
            tensor = value.type.tensor_type
            shape = tuple(d.dim_value or SIZES[d.dim_param] for d in tensor.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if dtype == np.bool_:
                feeds[value.name] = np.full(shape, flag)
            else:
                feeds[value.name] = sample(kind if i == 0 else "ordinary", shape, self.epsilon, i).astype(dtype)
        return feeds


def read(path: pathlib.Path) -> Form:
    text = path.read_text()
    header = dict(re.findall(r"^// (\w+): +(.*)$", text, flags=re.MULTILINE))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    expect = header["expect"]
    rejected = re.fullmatch(r'rejected "(.*)"', expect)
    counts = (0,) if rejected else tuple(int(n) for n in re.findall(r"\d+", expect))
    return Form(
        name=path.stem,
        what=header["form"],
        exporter=header["exporter"],
        counts=counts,
        reason=rejected.group(1) if rejected else "",
        num_groups=tuple(int(n) for n in header.get("num_groups", "").split(",") if n),
        epsilon=float(header.get("epsilon", "1e-5")),
        op=header.get("op", ""),
        checker=header.get("checker", ""),
        model=onnx.parser.parse_model(body),
    )


FORMS = tuple(read(path) for path in sorted(FOLDER.glob("*.onnxtxt")))
