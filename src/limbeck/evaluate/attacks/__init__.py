"""Adversarial attacks on images, and checks for gradient masking.

Gradient attacks run on the torch model; their results are checked on the exported file.
"""
