"""Distillation in other libraries' trainers; import the submodule of the library.

`limbeck.integrations.transformers` needs the extra `text`, `limbeck.integrations.lightning` the
extra `lightning`.
"""
