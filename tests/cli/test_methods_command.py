"""`sod methods`: the whole list, with nothing cut off."""

from __future__ import annotations

import re
from typing import Any

from sod.build.method import knob_rows, method_rows


def test_every_method_with_its_paper_needs_and_knobs(sod: Any) -> None:
    """Each cell, put together again from its lines, is what `method_rows` says."""
    ended = sod("methods")
    assert (ended.code, ended.err) == (0, "")
    assert "…" not in ended.out
    methods, knobs = tables(ended.out)
    assert methods[0][:3] == ["method", "paper", "needs"]
    assert [row[:4] for row in methods[1:]] == [list(row[:4]) for row in method_rows()]
    assert knobs == [["knob", "values", "meaning"], *(list(row) for row in knob_rows())]


def tables(shown: str) -> list[list[list[str]]]:
    """The tables printed, each its heading and rows, cells that go over several lines put together again."""
    found: list[list[list[str]]] = []
    for line in shown.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if line.startswith("┃"):
            found.append([cells])
        elif cells and cells[0]:
            found[-1].append(cells)
        elif cells:
            found[-1][-1] = [f"{cell} {more}".strip() for cell, more in zip(found[-1][-1], cells, strict=True)]
    return found


def test_it_takes_no_arguments(sod: Any) -> None:
    """A usage error, no traceback."""
    ended = sod("methods", "sod")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
