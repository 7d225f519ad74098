"""Residual blocks: a mixer and an MLP with their norms and projections."""
