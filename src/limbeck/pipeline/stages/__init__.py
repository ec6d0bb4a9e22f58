"""Stages of a recipe: one file per stage, one class per file."""

from limbeck.core.registry import Registry, camel_case

STAGES = Registry("limbeck.pipeline.stages", kind="stage", attribute=camel_case)
