"""The shapes in which RL tasks come. The first that recognises a row reads it."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import Shape
from sod.tasks.formats.verl import VERL

TASK_SHAPES: tuple[Shape[Task], ...] = (VERL,)
