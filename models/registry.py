"""All models, by name; each is a module with the same things.

    build() -> (module, inputs)     seeded, in eval mode, float32
    INPUTS, OUTPUTS                 names of the graph's inputs and outputs
    AXES                            input name -> axis -> name: the sizes that a dynamic export leaves open
    LIBRARIES                       what it imports beyond torch

What to expect of a fused model is counted on the module itself: `models.counting`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
import types

import torch

from models import counting, exporting

MODULES = {
    "fcos": "models.fcos",
    "mask_rcnn_head": "models.mask_rcnn_head",
    "smp_fpn": "models.smp_fpn",
    "monai_segresnet_2d": "models.monai_segresnet_2d",
    "monai_segresnet_3d": "models.monai_segresnet_3d",
    "monai_unet": "models.monai_unet",
    "deformable_detr": "models.deformable_detr",
    "maskformer": "models.maskformer",
    "resnet50_gn": "models.resnet50_gn",
    "unet2d": "models.unet2d",
    "vae_decoder": "models.vae_decoder",
    "decoys": "models.decoys",
}
"""Name -> module."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A built model.

    Attributes:
        name: Its key in MODULES.
        module: In eval mode.
        inputs: Example inputs.
        home: The Python module that describes it.
        dtype: Of weights and inputs.
    """

    name: str
    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    home: types.ModuleType
    dtype: str = "float32"

    @property
    def feeds(self) -> dict[str, object]:
        """Example inputs for ONNX Runtime."""
        return {name: value.numpy() for name, value in zip(self.home.INPUTS, self.inputs, strict=True)}

    def outputs(self, dtype: str | None = None) -> list[torch.Tensor]:
        """What PyTorch computes, in the given type."""
        model = self if dtype is None else self.to(dtype)
        with torch.no_grad():
            result = model.module(*model.inputs)
        return [result] if isinstance(result, torch.Tensor) else list(result)

    def group_norms(self) -> list[counting.Call]:
        """Every GroupNorm that must be fused."""
        return counting.group_norm_calls(self.module, self.inputs)

    def to(self, dtype: str) -> Model:
        """A copy with weights and inputs of another floating point type."""
        other = importlib.import_module(self.home.__name__).build()[0].to(getattr(torch, dtype))
        return dataclasses.replace(
            self, module=other, inputs=tuple(exporting.cast(value, dtype) for value in self.inputs), dtype=dtype
        )

    def larger_batch(self) -> Model:
        """The same with one more element in the batch, for exports that leave its size open."""

        def grown(name: str, value: torch.Tensor) -> torch.Tensor:
            is_batched = self.home.AXES.get(name, {}).get(0) == "batch"
            return torch.cat([value, 0.5 * value[:1]]) if is_batched else value

        inputs = tuple(grown(name, value) for name, value in zip(self.home.INPUTS, self.inputs, strict=True))
        return dataclasses.replace(self, inputs=inputs)

    def export(self, path: pathlib.Path, form: exporting.Form) -> None:
        """Writes an ONNX file.

        Raises:
            RefusedError: The exporter fails.
        """
        model = self if form.dtype == self.dtype else self.to(form.dtype)
        names = {"input_names": list(self.home.INPUTS), "output_names": list(self.home.OUTPUTS)}
        exporting.export(model.module, model.inputs, path, form, **names, axes=self.home.AXES)


def missing_libraries(name: str) -> list[str]:
    """What has to be installed before this model can be built."""
    source = importlib.import_module(MODULES[name])
    return [library for library in source.LIBRARIES if importlib.util.find_spec(library) is None]


def build(name: str) -> Model:
    """Builds a model by name."""
    home = importlib.import_module(MODULES[name])
    module, inputs = home.build()
    return Model(name, module, inputs, home)
