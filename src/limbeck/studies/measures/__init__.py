"""Functions that measure an arm of a study: `measure(seed=..., **settings) -> named numbers`."""
