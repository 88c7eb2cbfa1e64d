"""`chat`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class ChatSpec(Section):
    """How messages become tokens. `auto` takes the tokenizer's template when it knows tools, else ours."""

    template: Literal["auto", "tokenizer", "hermes"] = "auto"
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
