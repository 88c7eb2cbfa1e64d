"""What a run looks like: curves over its steps. No torch here."""

from sod.report.curves import draw_curves as draw_curves
