"""What the tests of several dialects share."""

from __future__ import annotations

from typing import Any

import pytest

from sod.chat.dialects import json_calls


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters handed to the JSON decoder, call by call: where a second look at the same text would be taken."""
    lengths: list[int] = []
    decoder = json_calls._DECODER

    class Counting:
        def raw_decode(self, text: str, at: int) -> tuple[Any, int]:
            lengths.append(len(text))
            return decoder.raw_decode(text, at)

    monkeypatch.setattr(json_calls, "_DECODER", Counting())
    return lengths
