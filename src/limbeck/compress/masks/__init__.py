"""Masks on weights for unstructured pruning: storage, growth schedules and scores."""
