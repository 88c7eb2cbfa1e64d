"""Preference rows, which SFT cannot use."""

from __future__ import annotations

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.conversation import first_of

_PAIRS = (
    *(("chosen", "rejected"), ("chosen_messages", "rejected_messages")),
    *(("messages", "rejected_messages"), ("response", "rejected_response")),
    ("preferred_output", "non_preferred_output"),
)


def _refuse(fields: Fields, name: str) -> Conversation:
    better, worse = next((pair for pair in _PAIRS if first_of(fields.row, pair[1:])), _PAIRS[0])
    raise BadRowError(
        f"a preference row ({better}, {worse}): SFT trains on one answer; keep '{better}' as messages or completion "
        f"and leave '{worse}' out"
    )


PREFERENCE = Shape(
    "preference", lambda row: any(first_of(row, (b,)) and first_of(row, (w,)) for b, w in _PAIRS), _refuse
)
