"""What a run looks like: curves over its steps. No torch here."""

from sod.report.curves import draw_curves

__all__ = ["draw_curves"]
