"""Finds the GroupNorms of a model by algebra, and says of look-alikes why they are none. Knows onnx, onnx_ir and numpy."""
