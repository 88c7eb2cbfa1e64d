"""The shapes in which RL tasks come. The first that recognises a row reads it."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import Shape
from sod.tasks.formats.choices import CHOICES
from sod.tasks.formats.code_shapes import CODE_SHAPES
from sod.tasks.formats.flat import FLAT
from sod.tasks.formats.nemo_gym import NEMO_GYM
from sod.tasks.formats.orz import ORZ
from sod.tasks.formats.prime import PRIME
from sod.tasks.formats.verl import SKYRL, VERL

TASK_SHAPES: tuple[Shape[Task], ...] = (VERL, SKYRL, NEMO_GYM, PRIME, ORZ, *CODE_SHAPES, CHOICES, FLAT)
