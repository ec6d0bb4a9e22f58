"""Quantisation methods, one file each: a `Method` of the model, or a `FileMethod` of its export."""

from limbeck.core.registry import Registry, camel_case

QUANTIZERS = Registry(__name__, kind="quantize.method", attribute=camel_case)
