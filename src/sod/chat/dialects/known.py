"""All dialects, in the order in which they are tried. The first that speaks a template and reads its calls is taken."""

from __future__ import annotations

from sod.chat.dialects.base import Dialect
from sod.chat.dialects.hermes import HERMES

DIALECTS: tuple[Dialect, ...] = (
    # Families whose marks are their own come first; those that share their marks with others come last.
    HERMES,
)
