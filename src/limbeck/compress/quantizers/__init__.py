"""Ways to quantise, one file a way: a `FileMethod` of the exported file or a `Method` of the model."""

from limbeck.registry import Registry, camel_case

QUANTIZERS = Registry(__name__, kind="quantize.method", attribute=camel_case)
