"""Pruning methods: one file per method, each with a `Method` named after the file."""

from limbeck.core.registry import Registry, camel_case

PRUNERS = Registry(__name__, kind="prune.method", attribute=camel_case)
