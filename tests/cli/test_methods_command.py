"""`sod methods`: the whole list, with nothing cut off."""

from __future__ import annotations

import re
from typing import Any

from sod.build.method import method_rows


def test_every_method_with_its_paper_needs_and_knobs(sod: Any) -> None:
    """Each cell, put together again from its lines, is what `method_rows` says."""
    ended = sod("methods")
    assert (ended.code, ended.err) == (0, "")
    assert "…" not in ended.out
    told: list[list[str]] = []
    for line in ended.out.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if line.startswith("┃"):
            heading = cells
        elif cells and cells[0]:
            told.append(cells)
        elif cells:
            told[-1] = [f"{cell} {more}".strip() for cell, more in zip(told[-1], cells, strict=True)]
    assert heading[:3] == ["method", "paper", "needs"]
    assert [row[:4] for row in told] == [list(row[:4]) for row in method_rows()]


def test_it_takes_no_arguments(sod: Any) -> None:
    """A usage error, no traceback."""
    ended = sod("methods", "sod")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
