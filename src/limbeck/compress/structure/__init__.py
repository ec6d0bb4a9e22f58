"""Structured pruning: discovery, ranking and removal of channels, heads and layers."""
