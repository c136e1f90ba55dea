"""Sessions made, run once and dropped, in a process of their own: `python session_loop.py COUNT`.

Prints how many kilobytes the process has grown per session, after a first tenth in which caches and arenas fill.
"""

from __future__ import annotations

import gc
import sys

import numpy as np
import onnxruntime as ort
from hand_models import detector

import gn_onnx


def resident_kilobytes() -> int:
    gc.collect()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def main(count: int) -> None:
    model = gn_onnx.fuse(detector()).model.SerializeToString()
    image = {"image": np.zeros((1, 3, 16, 16), np.float32)}
    start = 0
    for i in range(count):
        if i == count // 10:
            start = resident_kilobytes()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        gn_onnx.register(options)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, image)
    print((resident_kilobytes() - start) / (count - count // 10))


if __name__ == "__main__":
    main(int(sys.argv[1]))
