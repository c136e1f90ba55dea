"""`--target onnx` on a model of an older opset: every operator whose meaning or form changed since computes the same.

Each case is one operator in an old opset beside a GroupNorm. Either the converted model gives the same numbers in
ONNX Runtime, or nothing is converted and the rejection says why; there is no third outcome.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from helpers import difference, group_norm_nodes, run_ort

from gn_onnx import fuse

_GROUP_NORM = """
  grouped = Reshape (image, split)
  normal = InstanceNormalization <epsilon = 0.00001> (grouped, ones, zeros)
  size = Shape (image)
  features = Reshape (normal, size)
"""
_CONSTANTS = "int64[3] split = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0}"


def _numbers(times: int, *values: float) -> str:
    return ", ".join(map(str, values * times))


_BOXES = ", ".join(f"{i % 10}, {i // 10}, {i % 10 + 1.5}, {i // 10 + 1.5}" for i in range(120))


@dataclasses.dataclass(frozen=True)
class Case:
    """`text`: nodes that compute y (and z) from x; `constants` in ONNX's text format, `shape` of x."""

    opset: int
    text: str
    constants: str = ""
    shape: tuple[int, ...] = (1, 4, 6, 5)
    result: str = "float"
    dtype: type = np.float32

    @property
    def name(self) -> str:
        return f"{self.opset} {' '.join(self.text.split('= ', 1)[-1].split())}"[:90]

    def model(self) -> onnx.ModelProto:
        outputs = f"{self.result} y" + (f", {self.result} z" if self.text.startswith("y, z") else "")
        kind = {np.float32: "float", np.int64: "int64", np.bool_: "bool"}[self.dtype]
        constants = f"{_CONSTANTS}, {self.constants}" if self.constants else _CONSTANTS
        text = f"""<ir_version: 7, opset_import: ["" : {self.opset}]>
        old ({kind}{list(self.shape)} x, float[2,4,3,3] image) => ({outputs}, float[2,4,3,3] features)
        <{constants}> {{ {self.text} {_GROUP_NORM} }}"""
        model = onnx.parser.parse_model(text)
        for value in list(model.graph.output)[:-1]:
            value.type.tensor_type.ClearField("shape")
        return model

    def feeds(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        image = rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
        x = 2 * rng.standard_normal(self.shape)
        return {"x": x.astype(self.dtype) if self.dtype != np.bool_ else x > 0, "image": image}


CASES = [
    *(
        Case(opset, "y = ReduceMean <axes = [1, -1], keepdims = 0> (x)") for opset in (11, 13, 17)
    ),
    Case(9, "y = ReduceMean (x)"),
    *(
        Case(17, f"y = {op} <axes = [2]> (x)")
        for op in ("ReduceLogSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                   "ReduceLogSumExp")
    ),
    Case(9, "y = ReduceSum <axes = [1, 2]> (x)"),
    Case(12, "y = ReduceSum <axes = [-1], keepdims = 0> (x)"),
    Case(9, "y = Softmax (x)"),
    Case(11, "y = Softmax <axis = 2> (x)"),
    Case(12, "y = LogSoftmax <axis = 1> (x)"),
    Case(9, "y = Hardmax <axis = 1> (x)"),
    Case(9, "y = Hardmax <axis = 3> (x)"),
    Case(9, "y = Clip <min = -0.5, max = 0.75> (x)"),
    Case(9, "y = Clip <max = 0.75> (x)"),
    Case(9, "y = Clip (x)"),
    Case(9, "y = Dropout <ratio = 0.5> (x)"),
    Case(11, "y = Dropout (x)"),
    Case(9, "y = Slice <starts = [1, -3], ends = [3, 100], axes = [1, 2]> (x)"),
    Case(9, "y = Slice <starts = [0, 1], ends = [1, 3]> (x)"),
    Case(9, "y = Squeeze <axes = [0]> (x)"),
    Case(9, "y = Squeeze (x)"),
    Case(11, "y = Unsqueeze <axes = [0, 3]> (x)"),
    Case(12, "y = Unsqueeze <axes = [-1]> (x)"),
    Case(9, "y, z = Split <axis = 1, split = [1, 3]> (x)"),
    Case(9, "y, z = Split <axis = 1> (x)"),
    Case(13, "y, z = Split <axis = 1> (x)"),
    Case(13, "y, z = Split <axis = 2> (x, parts)", "int64[2] parts = {2, 4}"),
    Case(9, "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 1], value = 0.5> (x)"),
    Case(10, "y = Pad <mode = \"reflect\", pads = [0, 0, 1, 2, 0, 0, 3, 1]> (x)"),
    Case(11, "y = Pad <mode = \"edge\"> (x, pads)", "int64[8] pads = {0, 0, 1, 2, 0, 0, 3, 1}"),
    Case(13, "y = Pad (x, pads, fill)", "int64[8] pads = {0, 0, 1, 2, 0, 0, -1, 1}, float fill = {2.5}"),
    *(
        Case(9, f"y = Upsample <mode = \"{mode}\"> (x, scales)", "float[4] scales = {1, 1, 2, 3}")
        for mode in ("nearest", "linear")
    ),
    *(
        Case(10, f"y = Resize <mode = \"{mode}\"> (x, scales)", f"float[4] scales = {{1, 1, {scale}, {scale}}}")
        for mode in ("nearest", "linear") for scale in (2, 0.5, 0.4, 1.5)
    ),
    Case(10, "y = Resize (x, scales)", "float[4] scales = {1, 1, 0.4, 1.5}"),
    Case(10, "y = Resize (x, scales)  scales = Mul (half, two)", "float[4] half = {0.5, 0.5, 0.7, 0.7}, float two = {2}"),
    *(
        Case(11, f"y = Resize <mode = \"{mode}\", coordinate_transformation_mode = \"{how}\"> (x, roi, scales)",
             "float[0] roi = {}, float[4] scales = {1, 1, 1.5, 2}")
        for mode in ("nearest", "linear", "cubic")
        for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    ),
    Case(11, "y = Resize <coordinate_transformation_mode = \"tf_half_pixel_for_nn\"> (x, r, scales)",
         "float[0] r = {}, float[4] scales = {1, 1, 1.5, 2}"),
    Case(13, "y = Resize <mode = \"linear\"> (x, \"\", \"\", sizes)", "int64[4] sizes = {1, 4, 9, 7}"),
    Case(13, "y = Resize <mode = \"cubic\", cubic_coeff_a = -0.5> (x, \"\", scales)", "float[4] scales = {1, 1, 1.5, 2}"),
    *(
        Case(16, f"y = GridSample <mode = \"{mode}\", align_corners = {corners}> (x, grid)",
             "float[1,2,2,2] grid = {-0.9, -0.2, 0.1, 0.3, 0.7, -0.6, 1.1, 0.4}")
        for mode in ("bilinear", "nearest", "bicubic") for corners in (0, 1)
    ),
    Case(16, "y = GridSample (x, grid)", "float[1,2,2,2] grid = {-0.9, -0.2, 0.1, 0.3, 0.7, -0.6, 1.1, 0.4}"),
    *(
        Case(opset, "y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, rois, batch)",
             "float[2,4] rois = {0, 0, 3, 4, 1, 1, 2.5, 4.5}, int64[2] batch = {0, 0}")
        for opset in (10, 16)
    ),
    Case(10, "y, i = TopK <axis = 2> (x, k)", "int64[1] k = {2}"),
    Case(11, "y, i = TopK <axis = 2, largest = 0> (x, k)", "int64[1] k = {2}"),
    Case(9, "y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]> (x)"),
    Case(11, "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)"),
    Case(10, "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)"),
    Case(9, "y = MaxPool <kernel_shape = [2, 2], auto_pad = \"SAME_UPPER\"> (x)"),
    Case(9, "y = LpPool <kernel_shape = [2, 2], p = 2> (x)"),
    Case(9, "y = BatchNormalization <epsilon = 0.001> (x, v, v, v, v)", "float[4] v = {1, 2, 3, 0.5}"),
    Case(13, "y = BatchNormalization <momentum = 0.5> (x, v, v, v, v)", "float[4] v = {1, 2, 3, 0.5}"),
    Case(14, "y = BatchNormalization (x, v, v, v, v)", "float[4] v = {1, 2, 3, 0.5}"),
    Case(9, "y = Flatten (x)"),
    Case(9, "y = Scatter <axis = 1> (x, where, new)", "int64[1,2,1,1] where = {0, 3}, float[1,2,1,1] new = {9, 8}"),
    Case(11, "y = ScatterElements <axis = 1> (x, where, new)", "int64[1,2,1,1] where = {0, 3}, float[1,2,1,1] new = {9, 8}"),
    Case(11, "y = ScatterND (x, where, new)", "int64[1,2] where = {0, 3}, float[1,6,5] new = {" + _numbers(30, 7) + "}"),
    Case(11, "y = Gather <axis = 2> (x, which)", "int64[2] which = {-1, 2}"),
    Case(11, "y = GatherND (x, which)", "int64[1,2] which = {0, 3}"),
    Case(9, "y = Gemm (flat, w, b)  flat = Flatten <axis = 2> (x)",
         "float[30,2] w = {" + _numbers(60, 0.5) + "}, float[2] b = {1, 2}"),
    Case(9, "y = OneHot (x, depth, values)", "int64 depth = {5}, float[2] values = {0, 1}", (3,), dtype=np.int64),
    Case(9, "y = ArgMax <axis = 1> (x)", result="int64"),
    Case(11, "y = ArgMin <axis = -1, keepdims = 0> (x)", result="int64"),
    Case(10, "y = IsInf (x)", result="bool"),
    Case(9, "y = RNN <hidden_size = 1> (s, w, r)  s = Squeeze <axes = [0]> (x)",
         "float[1,1,5] w = {0.1, -0.2, 0.3, 0.4, -0.1}, float[1,1,1] r = {0.2}"),
    Case(9, "y = SpaceToDepth <blocksize = 2> (even)  even = Slice <axes = [3], starts = [0], ends = [4]> (x)"),
    Case(9, "y = Cast <to = 7> (x)", result="int64"),
    Case(9, "y = Cast <to = 10> (x)", result="float16"),
    Case(9, "y = PRelu (x, slope)", "float[4,1,1] slope = {0.1, 0.2, 0.3, 0.4}"),
    Case(9, "y = LeakyRelu <alpha = 0.2> (x)"),
    Case(9, "y = MeanVarianceNormalization (x)"),
    Case(9, "y = Tile (x, repeats)", "int64[4] repeats = {1, 2, 1, 1}"),
    Case(9, "y = Expand (x, to)", "int64[5] to = {2, 1, 4, 6, 5}"),
    Case(9, "y = DepthToSpace <blocksize = 2> (x)"),
    Case(11, "y = DepthToSpace <blocksize = 2, mode = \"CRD\"> (x)"),
    Case(9, "y = Where (c, x, x2)  c = Greater (x, zero)  x2 = Neg (x)", "float zero = {0}"),
    Case(11, "y = CumSum (x, axis)", "int64 axis = {2}"),
    Case(9, "y = Sum (x, x, x)"),
    Case(9, "y = Max (x, zero)", "float zero = {0}"),
    Case(9, "y = Pow (x, two)", "float two = {2}"),
    Case(9, "y = Pow (x, two)", "float[1] two = {2}"),
    Case(9, "y = Sign (x)"),
    Case(11, "y = Round (x)"),
    Case(10, "y = Mod <fmod = 1> (x, three)", "float three = {3}"),
    Case(9, "y = EyeLike <k = 1> (flat)  flat = Flatten <axis = 2> (x)"),
    Case(9, "y = InstanceNormalization (x, v, v)", "float[4] v = {1, 2, 3, 0.5}"),
    Case(17, "y = LayerNormalization <axis = 3> (x, v)", "float[5] v = {1, 2, 3, 0.5, 1}"),
    Case(17, "y = DFT <axis = 1> (wide)  wide = Unsqueeze (x, last)", "int64[1] last = {-1}"),
    Case(17, "y = DFT (wide)  wide = Unsqueeze (x, last)", "int64[1] last = {-1}"),
    Case(13, "y = QuantizeLinear (x, step, shift)", "float step = {0.02}, uint8 shift = {128}", result="uint8"),
    Case(13, "y = DequantizeLinear <axis = 1> (q, step, shift)  q = QuantizeLinear <axis = 1> (x, step, shift)",
         "float[4] step = {0.02, 0.05, 0.1, 0.03}, uint8[4] shift = {128, 100, 120, 128}"),
    Case(9, "y = GRU <hidden_size = 2> (s, w, r)  s = Squeeze <axes = [0]> (x)",
         "float[1,6,5] w = {" + _numbers(10, 0.1, -0.2, 0.3) + "}, float[1,6,2] r = {" + _numbers(6, 0.2, -0.1) + "}"),
    Case(11, "y = LSTM <hidden_size = 1> (s, w, r)  s = Squeeze <axes = [0]> (x)",
         "float[1,4,5] w = {" + _numbers(10, 0.1, -0.2) + "}, float[1,4,1] r = {0.2, -0.1, 0.3, 0.4}"),
    Case(10, "y = NonMaxSuppression (boxes, scores, most, overlap)  scores = Reshape (x, rows)",
         "int64[3] rows = {1, 1, -1}, float[1,120,4] boxes = {" + _BOXES + "}, int64 most = {9}, float overlap = {0.3}",
         result="int64"),
    Case(9, "y = ConstantOfShape (s)  s = Shape (x)"),
    Case(13, "y = HardSigmoid (x)"),
    Case(14, "y = HardSwish (x)"),
    Case(10, "y = ThresholdedRelu <alpha = 0.5> (x)"),
    Case(9, "y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w)",
         "float[4,1,2,2] w = {" + _numbers(8, 0.1, 0.2) + "}"),
    Case(9, "y = Conv <auto_pad = \"SAME_LOWER\"> (x, w)", "float[1,4,2,2] w = {" + _numbers(8, 0.1, 0.2) + "}"),
    Case(9, "y = LRN <size = 3> (x)"),
    Case(9, "y = Compress <axis = 1> (x, which)", "bool[4] which = {1, 0, 1, 1}"),
    Case(9, "y = NonZero (x)", result="int64"),
    Case(12, "y = Einsum <equation = \"nchw->nwc\"> (x)"),
    Case(12, "y = Celu <alpha = 2.0> (x)"),
    Case(18, "y = GroupNormalization <num_groups = 2, epsilon = 0.001> (x, v, v)", "float[2] v = {1, 2}"),
]  # fmt: skip


@pytest.mark.ort
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_in_a_newer_opset(case: Case) -> None:
    pytest.importorskip("onnxruntime")
    model, feeds = case.model(), case.feeds()
    before = run_ort(model, feeds)
    result = fuse(model, target="onnx")
    if not result.fused:
        reasons = "; ".join(map(str, result.rejected))
        assert "cannot be brought" in reasons, reasons
        assert result.model.opset_import[0].version == case.opset
        return
    assert result.model.opset_import[0].version == 21
    assert len(group_norm_nodes(result.model)) >= 1
    assert difference(run_ort(result.model, feeds), before) <= 1e-6
