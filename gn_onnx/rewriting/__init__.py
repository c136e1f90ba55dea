"""Puts nodes in the place of what was recognised: operators, function bodies, activations, opsets."""
