"""Models that compute as they will in few bits, and can be trained so.

Weights are rounded by parametrizations (`weight`, `levels`), inputs of layers by a child module
(`activation`), biases to the products of both steps (`bias`). `install` puts them into a model.
"""
