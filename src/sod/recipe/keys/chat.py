"""`chat`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class ChatSpec(Section):
    """How messages become tokens."""

    template: Literal["auto", "tokenizer", "told", "hermes"] = Field(
        "auto",
        description="the tokenizer's own, that with tools told in words, our Hermes one; auto: the first that works",
    )
    dialect: str = Field(
        "auto", description="how calls are written, where the tokenizer's own template does not tell: hermes, ..."
    )
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the chat template, e.g. {enable_thinking: false}"
    )
