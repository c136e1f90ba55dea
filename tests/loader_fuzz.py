"""Coverage-guided fuzzing of reading and fusing models with atheris, which is not among the pinned packages:

    pip install atheris
    python tests/loader_fuzz.py -max_len=6000 CORPUS_FOLDER

Bytes that a model is read from end in a fused model or in a GnOnnxError; anything else is found.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile

import atheris
from hand_models import detector, fused_detector, without_group_norm

# An editable install's finder would come first, and atheris sees only what is found along the path.
sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
with atheris.instrument_imports(include=["gn_onnx"]):
    from gn_onnx import fuse
    from gn_onnx.errors import GnOnnxError
    from gn_onnx.files import model_io

PATH = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"


def read_and_fuse(data: bytes) -> None:
    PATH.write_bytes(data)
    with contextlib.suppress(GnOnnxError):
        model = model_io.load_proto(PATH)
        result = fuse(model)
        model_io.to_ir(result.model)


def main() -> None:
    folder = next((pathlib.Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if folder is not None and not any(folder.iterdir()):
        native = fuse(detector(), target="onnx").model
        for number, model in enumerate((detector(), fused_detector(detector()), without_group_norm(), native)):
            (folder / f"seed{number}").write_bytes(model.SerializeToString())
    atheris.Setup(sys.argv, read_and_fuse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
