"""Where models come from, one file a source, each with a `source` that builds, writes and lists."""
