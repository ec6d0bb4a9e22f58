"""Where data comes from, one file a source, each with `load(spec, cache=...) -> Loaded`."""
