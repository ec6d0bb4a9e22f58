"""Model sources: one file per source, each with an object `source`."""
