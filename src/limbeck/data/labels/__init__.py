"""Kinds of labels: one file per kind, each with a `kind` (see `limbeck.data.label`)."""
