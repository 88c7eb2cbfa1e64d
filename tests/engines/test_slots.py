"""Slots: whatever comes, goes and moves, every row finds its own tokens in the cache.

Keys and values are the token ids themselves here, so that what stands in a column can be read back.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from sod.engines.base import SampleRequest
from sod.engines.cache import GrowingStorage, Shape
from sod.engines.slots import Slots
from sod.engines.turns import Row

SHAPE = Shape(layers=1, key_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"))
TOKEN_BYTES = 2 * 2 * 4  # a key and a value of two float32 numbers


def row(session: str, context: Sequence[int], new: int = 4) -> Row:
    return Row(SampleRequest(session, context, new, 0))


def run(slots: Slots, first: int, rows: Sequence[Row]) -> int:
    """What a model would do with the rows in slots `first` and on: their uncached tokens, and how many these were."""
    ran = 0
    for slot, one in enumerate(rows, start=first):
        tokens = one.uncached()
        position_BN = one.cached + torch.arange(len(tokens))[None]
        token_BGND = torch.tensor([tokens], dtype=torch.float32)[:, None, :, None].expand(-1, -1, -1, 2)
        slots.window(slot, position_BN).attend(0, token_BGND, token_BGND, -token_BGND, 1.0)
        one.cached = one.length
        ran += len(tokens)
    return ran


def start(slots: Slots, rows: Sequence[Row]) -> int:
    """Admit and prefill the rows; the tokens that were run."""
    first = len(slots.rows)
    leaders, followers = slots.admit(rows)
    ran = run(slots, first, leaders)
    slots.share_prefixes(first + len(leaders))
    return ran + run(slots, first + len(leaders), followers)


def check(slots: Slots) -> None:
    """Every row has its own tokens in its slot, as keys and as values."""
    for slot, one in enumerate(slots.rows):
        tokens = torch.tensor([*one.context, *one.token_ids][: one.cached], dtype=torch.float32)
        window = slots.window(slot, torch.tensor([[one.cached - 1]]))
        assert torch.equal(window.keys_LBGDS[0, 0, 0, 1, : one.cached], tokens)
        assert torch.equal(window.values_LBGSD[0, 0, 0, : one.cached, 0], -tokens)


def stop(slots: Slots, session: str) -> tuple[int, ...]:
    """Retire the row of a session; all its tokens."""
    (slot,) = [slot for slot, one in enumerate(slots.rows) if one.session == session]
    gone = slots.retire(slot)
    assert gone.session == session
    return (*gone.context, *gone.token_ids)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offload_tokens", [0, 60, 10**9])
def test_every_row_finds_its_own_tokens(seed: int, offload_tokens: int) -> None:
    """Random comings and goings: shared contexts, later turns, conversations begun anew, episodes forgotten."""
    rng = random.Random(seed)
    slots = Slots(GrowingStorage(SHAPE), offload_tokens * TOKEN_BYTES)
    contexts = [tuple(rng.choices(range(1000), k=rng.randint(1, 30))) for _ in range(4)]
    waiting: dict[str, tuple[int, ...]] = {}
    for number in range(60):
        new = [row(f"e{number}-{n}", rng.choice(contexts)) for n in range(rng.randint(0, 3))]
        for session in rng.sample(sorted(waiting), k=min(len(waiting), rng.randint(0, 3))):
            kept = waiting.pop(session)
            grown = (*kept, *rng.choices(range(1000), k=5))
            new.append(row(session, rng.choice([grown, grown, kept, rng.choice(contexts)])))
        start(slots, new)
        check(slots)
        for one in slots.rows:
            one.token_ids.append(rng.randrange(1000))
        run(slots, 0, slots.rows)
        for session in [one.session for one in slots.rows if rng.random() < 0.4]:
            waiting[session] = stop(slots, session)
            check(slots)
        if waiting and rng.random() < 0.5:
            session = rng.choice(sorted(waiting))
            del waiting[session]
            slots.forget([session, "nobody"])
    assert slots.rows


def test_the_longest_waiting_are_dropped_first() -> None:
    """Room for two of three episodes of 10 tokens: the first to end starts over, the others run their new token."""
    slots = Slots(GrowingStorage(SHAPE), 25 * TOKEN_BYTES)
    contexts = {name: tuple(range(at, at + 10)) for name, at in (("a", 100), ("b", 200), ("c", 300))}
    assert start(slots, [row(name, context) for name, context in contexts.items()]) == 30
    for name in "bac":
        assert stop(slots, name) == contexts[name]
    again = {name: start(slots, [row(name, (*context, 7))]) for name, context in contexts.items()}
    assert again == {"a": 1, "b": 11, "c": 1}
    check(slots)


def test_a_context_is_shared_as_long_as_somebody_has_it() -> None:
    """While its first episode is sampled, when that is offloaded, and no more when it is forgotten."""
    slots = Slots(GrowingStorage(SHAPE), 10**9)
    context = tuple(range(10))
    assert start(slots, [row("a", context), row("b", context)]) == 10 + 1
    assert start(slots, [row("c", context)]) == 1
    stop(slots, "a")
    assert start(slots, [row("d", context)]) == 1
    check(slots)
    slots.forget(["a"])
    assert start(slots, [row("e", context)]) == 10
    assert start(slots, [row("f", context)]) == 1


def test_those_with_most_to_run_come_first() -> None:
    """Leaders by what is uncached, then followers; rows of one prefill are padded to its first."""
    slots = Slots(GrowingStorage(SHAPE), 10**9)
    start(slots, [row("kept", range(30))])
    stop(slots, "kept")
    new = [row("short", range(50, 53)), row("kept", range(32)), row("long", range(70, 90)), row("same", range(50, 53))]
    leaders, followers = slots.admit(new)
    assert [one.session for one in leaders] == ["long", "short", "kept"]
    assert [one.session for one in followers] == ["same"]
    assert slots.rows == leaders + followers


def test_cleared_slots_know_nobody() -> None:
    slots = Slots(GrowingStorage(SHAPE), 10**9)
    start(slots, [row("a", range(10)), row("b", range(20, 30))])
    stop(slots, "b")
    slots.clear()
    assert slots.rows == []
    assert start(slots, [row("b", range(20, 31)), row("c", range(10))]) == 11 + 10
