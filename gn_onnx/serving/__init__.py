"""Fused models for inference servers. Knows files and protobuf, no server."""
