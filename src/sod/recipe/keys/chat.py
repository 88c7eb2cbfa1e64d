"""`chat`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class ChatSpec(Section):
    """How messages become tokens."""

    template: Literal["auto", "tokenizer", "hermes"] = Field(
        "auto",
        description="chat template: the tokenizer's own, our Hermes one, or auto: its own where its calls can be read",
    )
    dialect: str = Field(
        "auto", description="how calls are written, where the tokenizer's own template does not tell: hermes, ..."
    )
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the chat template, e.g. {enable_thinking: false}"
    )
