"""Models with GroupNorm, built from their configurations with seeded random weights: nothing is downloaded."""
