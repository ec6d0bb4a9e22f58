"""Factorisation methods: one file per method, each with a `Method` named after the file."""

from limbeck.core.registry import Registry, camel_case

FACTORIZERS = Registry(__name__, kind="factorize.method", attribute=camel_case)
