"""Layers of low rank: which can be cut, how far, and by what matrices."""
