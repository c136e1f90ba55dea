"""PyTorch models to ONNX with our operators in them from the start. Imports torch, inside functions."""
