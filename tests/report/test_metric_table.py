"""The table of metrics: whole, read by all that shows a number, and the same in `docs/metrics.md`.

PYTHONPATH=src python tests/report/test_metric_table.py > docs/metrics.md
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sod.report.console import step_line
from sod.report.metrics import METRICS, PANELS, Metric, drawn_in, metric_of
from sod.runlog.directory import OLDER_METRIC_KEYS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def page() -> str:
    """The page that the table asks for."""
    rows = [
        (
            f"`{metric.key}NAME`" if metric.family else f"`{metric.key}`",
            metric.unit,
            metric.label,
            metric.panel.title if metric.panel else "",
            metric.meaning,
        )
        for metric in METRICS
    ]
    lines = [
        "# Metrics",
        "",
        "The keys of a row of `metrics.jsonl`, which trackers get too; `sod.report.metrics` is the table that the code",
        "reads. A row has a `step` and a `kind` besides, and of these what its run has: SFT has no episodes, a method",
        "without a teacher no gap. `NAME` stands for the rest of a key of a family. *Step line* is the name on the",
        "terminal, *panel* the plot of `curves.png`.",
        "",
        "| key | unit | step line | panel | meaning |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
        "Runs of format 1 called some of them otherwise; they are read under today's names: "
        + ", ".join(f"`{old}` is `{new}`" for old, new in OLDER_METRIC_KEYS.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_no_key_and_no_label_stands_twice() -> None:
    assert [key for key, count in Counter(metric.key for metric in METRICS).items() if count > 1] == []
    labels = Counter(metric.label for metric in METRICS if metric.label)
    assert [label for label, count in labels.items() if count > 1] == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_every_metric_is_whole(metric: Metric) -> None:
    """It can be written, is drawn where something is drawn, has a name there, and says what it is."""
    assert metric.format.format(0.5)
    assert metric.meaning
    assert metric.panel is None or metric.panel in PANELS
    assert metric.panel is None or metric.drawn_as or metric.family
    assert not (metric.family and metric.label)  # a family has no one value for the step line


def test_every_panel_shows_something() -> None:
    assert [panel.title for panel in PANELS if not drawn_in(panel)] == []


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("loss", "loss"),
        ("eval/avg_at_k", "eval/avg_at_k"),
        ("eval/pass_at_k", "eval/"),
        ("faults", "faults"),
        ("faults/sandbox", "faults/"),
        ("seconds/old", "seconds/"),
        ("seconds", "seconds"),
        ("losses", None),
        ("evaluation", None),
    ],
)
def test_a_key_is_found_by_name_and_else_by_family(key: str, found: str | None) -> None:
    metric = metric_of(key)
    assert (metric.key if metric else None) == found


def test_older_names_lead_to_metrics_of_the_table() -> None:
    assert all(metric_of(new) for new in OLDER_METRIC_KEYS.values())


def test_the_step_line_shows_what_has_a_label_in_the_order_of_the_table() -> None:
    row = {
        "seconds": 3.14159,
        "seconds/sample": 2.0,
        "seconds/update": 1.125,
        "lr": 1e-6,
        "reward": -0.5,
        "teacher_gap": 0.25,
        "turn_gap_last": 1.5,
        "response_tokens": 79.6,
        "kl": 0.5,  # no label
        "eval/avg_at_k": 0.125,
        "eval/pass_at_k": 0.25,  # no label
        "custom": 1.0,  # not in the table
    }
    assert step_line(7, 100, row) == (
        "  7/100  reward -0.500  eval 0.125  gap +0.250  len 80  dK 1.500  lr 1.0e-06  3.14s (sample 2.00 update 1.12)"
    )
    assert step_line(7, 7, {"loss": 0.5, "seconds": 1.0}) == "7/7  loss +0.5000  1.00s"


if __name__ == "__main__":
    print(page(), end="")
