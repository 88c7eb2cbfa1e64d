"""What a mistyped name may have meant. Nothing is offered where nothing is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

CUTOFF = 0.6
"""How alike two names must be, as `difflib` measures it: 1 for equal ones, 0 for those with no letter in common."""
ELSEWHERE = 0.8
"""The same for a key of another section: a name that is only somewhat like it is a coincidence there."""
FIELD_NAMES = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_steps": "steps",
    "save_steps": "checkpoint_every",
    "eval_steps": "evaluate_every",
    "report_to": "trackers",
    "loggers": "trackers",
    "num_generations": "samples",
    "model_name_or_path": "path",
    "max_grad_norm": "clip_grad",
}
"""What other trainers call a key, and its name here."""


def nearest(given: str, known: Iterable[str], count: int = 1, cutoff: float = CUTOFF) -> list[str]:
    """At most `count` of the `known` names that are like the given one, the most alike first."""
    names = list(dict.fromkeys(known))
    meant = FIELD_NAMES.get(given.lower())
    if meant in names:
        return [meant]
    by_case = {name.lower(): name for name in reversed(names)}
    found = difflib.get_close_matches(given.lower(), by_case, n=count, cutoff=cutoff)
    return [by_case[name] for name in found]


def offered(given: str, known: Sequence[str], count: int = 1, cutoff: float = CUTOFF) -> str:
    """`; did you mean NAME?`, or nothing."""
    near = nearest(given, known, count, cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest_key(given: str, known: Sequence[str]) -> str | None:
    """The dotted key that a mistyped one may have meant, wherever it stands.

    Its own section is looked at first. Of other sections only a key of nearly the same name counts: that two keys share
    a section's name says nothing.
    """
    above, _, last = given.rpartition(".")
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == above]
    if near := nearest(last, siblings):
        return f"{above}.{near[0]}" if above else near[0]
    others = nearest(last, [key.rpartition(".")[2] for key in known], cutoff=ELSEWHERE)
    return next((key for key in known if others and key.rpartition(".")[2] == others[0]), None)
