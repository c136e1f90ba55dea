"""`python -m gn_onnx`: the same as the command `gn-onnx`."""

import sys

from gn_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
