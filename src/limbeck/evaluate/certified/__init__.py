"""Certified robustness: bounds on the logits that hold for every perturbation of a size."""
