"""The task of `multi_turn.py`, as every side and the fine-tuning see it. Standard library only."""

from __future__ import annotations

import random
from typing import Any

PAGES = 3
WORDS = (
    "amber anchor apple arrow autumn bridge butter candle canyon castle cedar cherry circle cloud copper coral cotton "
    "crystal desert dragon eagle ember falcon feather forest garden ginger glacier granite harbor hazel island ivory "
    "jasmine kettle lantern lemon linen maple marble meadow mirror mountain ocean olive orchard pepper planet prairie "
    "rabbit raven ribbon river saddle silver spider thunder timber tunnel valley velvet violet willow winter"
)


def question(document: str) -> str:
    """The prompt of one episode."""
    return f"Read the document {document} to its end and tell me when you are done."


def documents(count: int, seed: int) -> list[str]:
    """Names of documents: `count` draws of a word."""
    return random.Random(seed).choices(WORDS.split(), k=count)


READ_PAGE: dict[str, Any] = {  # as transformers describes the function of `trl_multi_turn.py`
    "type": "function",
    "function": {
        "name": "read_page",
        "description": "Read one page of a document.",
        "parameters": {
            "type": "object",
            "properties": {
                "document": {"type": "string", "description": "Its name."},
                "page": {"type": "integer", "description": "The page, from 1."},
            },
            "required": ["document", "page"],
        },
        "return": {"type": "string", "description": "The text."},
    },
}
