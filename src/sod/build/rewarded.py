"""Conversations that are episodes, by what they earned."""

from __future__ import annotations

from collections.abc import Sequence

from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.tasks.base import Conversation


def rewarded(
    rows: Sequence[tuple[int, Conversation]], source: str, recipe: Recipe, notice: Notice
) -> Sequence[tuple[int, Conversation]]:
    """The rows that earned `data.min_reward`, where it is set; one without a reward is no episode, and stays."""
    least = recipe.data.min_reward
    if least is None:
        return rows
    if all(conversation.reward is None for _, conversation in rows):
        raise SodError(f"{source}: data.min_reward={least:g}, and no row says what reward it earned; leave it out")
    kept = [(row, item) for row, item in rows if item.reward is None or item.reward >= least]
    if not kept:
        raise SodError(f"{source}: no row earned data.min_reward={least:g}; lower it")
    if len(kept) < len(rows):
        notice(f"{source}: {len(rows) - len(kept):,} of {len(rows):,} rows earned less than data.min_reward; left out")
    return kept
