"""What a batch means: one file a task.

A task runs a model on a batch, flattens its answers to units, and says what a right answer is.
"""

from limbeck.registry import Registry, camel_case
from limbeck.tasks.task import Batch, Response, Task

TASKS = Registry("limbeck.tasks", kind="task", attribute=camel_case, skip=("task", "checks"))

__all__ = ["TASKS", "Batch", "Response", "Task"]
