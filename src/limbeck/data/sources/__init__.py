"""Data sources: one file per source, each with `load(spec, cache=...) -> Loaded`."""
