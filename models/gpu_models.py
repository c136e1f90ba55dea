"""Writes what the GPU script times from end to end: `python -m models.gpu_models FOLDER`, or `make gpu-models`.

Three networks in float16 at their real sizes, each in three files of a few megabytes:

    NAME.original.onnx   as PyTorch exports it
    NAME.fused.onnx      after gn_onnx
    NAME.free.onnx       every fused GroupNorm left out: what is left of the time if GroupNorm cost nothing

Their large weights are drawn where they run (gn_onnx.benchmarks.drawn_weights). Needs the libraries of
models/requirements.txt, about 8 GB of memory and a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable

import onnx
import torch
from torch import nn

import gn_onnx
from gn_onnx.benchmarks import drawn_weights
from gn_onnx.group_norm import DOMAIN
from models import exporting, fcos, torchvision_schemas
from models.unet2d import Denoiser


@dataclasses.dataclass(frozen=True)
class Source:
    """A network that is exported: its constructor, its input names and makes of example inputs."""

    build: Callable[[], nn.Module]
    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]


def _segresnet() -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(spatial_dims=2, init_filters=32, in_channels=3, out_channels=2, norm=("GROUP", {"num_groups": 8}))


class _ConditionalDenoiser(Denoiser):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.model(sample, timestep, text, return_dict=False)[0]


def _unet() -> nn.Module:
    torchvision_schemas.register()
    from diffusers import UNet2DConditionModel

    # Stable Diffusion 1.5: 320, 640, 1280 and 1280 channels, two residual blocks a level.
    return _ConditionalDenoiser(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))


def _half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


SOURCES: dict[str, Source] = {
    # An image of 800 x 1333, padded to what the pyramid's strides divide.
    "fcos_800x1344": Source(fcos.Fcos, {"image": _half(1, 3, 800, 1344)}, fcos.OUTPUTS),
    "segresnet_512x512": Source(_segresnet, {"image": _half(1, 3, 512, 512)}, ("mask",)),
    "unet_64x64_batch2": Source(
        _unet, {"sample": _half(2, 4, 64, 64), "timestep": torch.tensor(500), "text": _half(2, 77, 768)}, ("noise",)
    ),
}


def export(source: Source) -> onnx.ModelProto:
    """The network in float16, its large weights taken out.

    The weights are zeros while PyTorch's exporter looks on: nothing of them is kept but the small ones, drawn here.
    """
    with torch.device("meta"):
        module = source.build()
    module = module.to(torch.bfloat16).to_empty(device="cpu").eval()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(module.named_parameters()):
            is_gamma = parameter.dim() == 1 and name.endswith("weight")
            low, high = (0.5, 1.5) if is_gamma else (-0.1, 0.1)
            if parameter.numel() < drawn_weights.MIN_ELEMENTS:
                values = drawn_weights.small_values(tuple(parameter.shape), low, high, index)
                parameter.copy_(torch.from_numpy(values))
            else:
                # The exporter would make one weight of all that are alike.
                parameter.zero_().view(-1)[:2] = torch.tensor([index % 128, index // 128])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        exporting.export(
            module, tuple(source.inputs.values()), path, exporting.Form(),
            input_names=list(source.inputs), output_names=list(source.outputs),
        )  # fmt: skip
        model = onnx.load(path)
    drawn_weights.as_float16(model)
    drawn_weights.take_out(model)
    return model


def without_group_norms(fused: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which what reads a fused GroupNorm reads its input."""
    model = onnx.ModelProto()
    model.CopyFrom(fused)
    nodes = list(model.graph.node)
    replaced: dict[str, str] = {}
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = replaced.get(name, name)
        if node.domain == DOMAIN:
            replaced[node.output[0]] = node.input[0]
    kept = [node for node in nodes if node.domain != DOMAIN]
    kept += [
        onnx.helper.make_node("Identity", [replaced[output.name]], [output.name])
        for output in model.graph.output
        if output.name in replaced
    ]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.functions[:]
    return model


def write(name: str, folder: pathlib.Path, model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """The three files of a float16 model; returns what they hold."""
    result = gn_onnx.fuse(model)
    variants = {"original": model, "fused": result.model, "free": without_group_norms(result.model)}
    folder.mkdir(parents=True, exist_ok=True)
    for variant, proto in variants.items():
        onnx.save_model(proto, folder / f"{name}.{variant}.onnx")
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(prog="models.gpu_models", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", choices=list(SOURCES))
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else SOURCES:
        variants = write(name, arguments.folder, export(SOURCES[name]))
        group_norms = sum(node.domain == DOMAIN for node in variants["fused"].graph.node)
        size = sum((arguments.folder / f"{name}.{variant}.onnx").stat().st_size for variant in variants)
        print(f"{name}: {group_norms} GroupNorms fused, three files of {size / 1e6:.1f} MB together")


if __name__ == "__main__":
    main()
