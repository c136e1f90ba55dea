"""How fast: models, single GroupNorms, and the CUDA kernels on their own."""
