"""Data loading: the `data` section of a recipe as batches, and the cache of teacher logits."""
