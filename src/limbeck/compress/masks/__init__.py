"""Masks on weights: how they are held, how they grow, and what they are chosen by."""
