"""Fake quantisation for post-training quantisation (PTQ) and quantisation-aware training (QAT).

Weights are rounded by parametrizations (`weight`, `levels`), layer inputs by a child module
(`activation`), biases to the product of both scales (`bias`). `install` adds them to a model.
"""
