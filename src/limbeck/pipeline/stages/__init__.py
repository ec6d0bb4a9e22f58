"""What can be done to a candidate: one file a stage, one class a file."""

from limbeck.registry import Registry, camel_case

STAGES = Registry("limbeck.pipeline.stages", kind="stage", attribute=camel_case)
