"""Rows that show or play something: what a text model would be trained on without it is another task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sod.tasks.formats.base import BadRowError
from sod.tasks.formats.columns import EMPTY

COLUMNS = frozenset(
    (
        *(
            "image",
            "images",
            "image_1",
            "image_url",
            "image_path",
            "decoded_image",
            "picture",
            "video",
            "videos",
            "video_path",
        ),
        *("audio", "audios", "audio_path", "multi_modal_data", "multi_modal_inputs"),
    )
)
PARTS = ("image", "input_image", "video", "audio", "input_audio", "file", "input_file", "document")
"""Beginnings of the types of content parts that are no text: `image_url`, `input_audio`, ..."""


def refuse_media(row: Mapping[str, Any]) -> None:
    """Raises BadRowError for a row with an image, a video or a sound, in a column or in a message.

    Columns that are there and empty are fine.
    """
    for name, value in row.items():
        if name.lower() in COLUMNS and _holds(value):
            raise BadRowError(f"{name}: an image, a video or a sound; only text is trained on, leave such rows out")
        kind = next(_part_types(value), None)
        if kind is not None:
            raise BadRowError(
                f"{name}: a message with a part of type {kind}; only text is trained on, leave such rows out"
            )


def _holds(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds, value.values()))
    if isinstance(value, list):
        return any(map(_holds, value))
    return value not in EMPTY and value is not False


def _part_types(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and kind.startswith(PARTS):
                yield kind
