"""The shapes of programming tasks, those that ask for more columns first."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import Shape
from sod.tasks.formats.code_acecode import ACECODE
from sod.tasks.formats.code_apps import APPS
from sod.tasks.formats.code_bigcodebench import BIGCODEBENCH
from sod.tasks.formats.code_contests import CODE_CONTESTS
from sod.tasks.formats.code_deepcoder import DEEPCODER
from sod.tasks.formats.code_humaneval import HUMANEVAL
from sod.tasks.formats.code_kodcode import KODCODE
from sod.tasks.formats.code_leetcode import LEETCODE
from sod.tasks.formats.code_livecodebench import LIVECODEBENCH
from sod.tasks.formats.code_mbpp import MBPP
from sod.tasks.formats.code_tested import TESTED

CODE_SHAPES: tuple[Shape[Task], ...] = (
    LIVECODEBENCH,
    CODE_CONTESTS,
    LEETCODE,
    BIGCODEBENCH,
    KODCODE,
    HUMANEVAL,
    MBPP,
    TESTED,
    APPS,
    ACECODE,
    DEEPCODER,
)
