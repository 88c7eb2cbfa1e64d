"""Rows cut over ranks and put together again: what every rank of a team would do, one after another in one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sod.models.cut import (
    in_columns,
    in_heads,
    own_columns,
    passing,
    share,
    tokens_of_rank,
    whole_heads,
    whole_rows,
)
from sod.models.fused import repeated_heads
from sod.models.team import SOLO, known_to_all, to_all


def exchanged(parts: list[Tensor]) -> list[Tensor]:
    """What each rank gets where `parts[r][s]` is what rank r sends to rank s."""
    return [torch.stack([sent[rank] for sent in parts]) for rank in range(len(parts))]


@pytest.mark.parametrize(("tokens", "size"), [(12, 2), (13, 2), (13, 4), (3, 4), (7, 1)])
def test_columns_of_all_ranks_are_the_rows(tokens: int, size: int) -> None:
    row_BS = torch.arange(1, 2 * tokens + 1).view(2, tokens)
    parts = [own_columns(row_BS, size, place) for place in range(size)]
    assert {part.shape[1] for part in parts} == {tokens_of_rank(tokens, size)}
    whole_BS = torch.cat(parts, dim=1)
    assert torch.equal(whole_BS[:, :tokens], row_BS)
    assert not whole_BS[:, tokens:].any()
    assert torch.equal(own_columns(row_BS[..., None], size, 0)[..., 0], parts[0])


@pytest.mark.parametrize(("count", "size"), [(10, 2), (11, 4), (2, 4), (0, 2)])
def test_everything_is_in_one_share_and_shares_are_even(count: int, size: int) -> None:
    shares = [share(count, size, place) for place in range(size)]
    assert [at for first, last in shares for at in range(first, last)] == list(range(count))
    lengths = [last - first for first, last in shares]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= tokens_of_rank(count, size)


@pytest.mark.parametrize(("tokens", "heads", "key_heads", "size"), [(11, 4, 2, 2), (8, 4, 1, 4), (5, 6, 2, 3)])
def test_attention_over_exchanged_heads_is_that_of_whole_rows(
    tokens: int, heads: int, key_heads: int, size: int
) -> None:
    """Also with fewer key heads than ranks, and with a number of them that cannot be divided."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, number, tokens, 3, generator=generator, dtype=torch.float64)
        for number in (heads, key_heads, key_heads)
    )
    expected_BHSD = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    whole = [[], [], []]  # type: list[list[Tensor]]
    for kept, x in zip(whole, (query, repeated_heads(key, size), repeated_heads(value, size)), strict=True):
        cut = [own_columns(x.transpose(1, 2), size, place).transpose(1, 2) for place in range(size)]
        kept.extend(whole_rows(arrived, tokens) for arrived in exchanged([in_heads(part, size) for part in cut]))
    mixed = [
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        for q, k, v in zip(*whole, strict=True)
    ]
    assert {part.shape for part in mixed} == {(2, tokens, heads // size, 3)}
    back = [whole_heads(arrived) for arrived in exchanged([list(in_columns(part, size)) for part in mixed])]
    found_BSHD = torch.cat(back, dim=1)[:, :tokens]
    assert torch.allclose(found_BSHD, expected_BHSD.transpose(1, 2), atol=1e-12)


def test_key_heads_are_repeated_only_as_far_as_they_must() -> None:
    x_BGSD = torch.arange(6.0).view(1, 6, 1, 1)
    assert repeated_heads(x_BGSD, 3) is x_BGSD
    assert repeated_heads(x_BGSD, 4).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert repeated_heads(x_BGSD[:, :1], 2).flatten().tolist() == [0, 0]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("places", ["all", "late", "one", "none"])
def test_what_is_said_at_places_comes_to_those_who_work_on_them(size: int, places: str) -> None:
    """Each rank gets its share, in order, of what is said at the places, whoever had it."""
    said_BS = torch.arange(3 * 10).view(3, 10)
    chosen_BS = {
        "all": torch.ones(3, 10, dtype=torch.bool),
        "late": torch.arange(10).expand(3, 10) >= 7,  # all in the columns of the last rank
        "one": (torch.arange(30) == 14).view(3, 10),
        "none": torch.zeros(3, 10, dtype=torch.bool),
    }[places]
    row_N, column_N = torch.nonzero(chosen_BS, as_tuple=True)
    plans = [passing(row_N, column_N, 10, size, place) for place in range(size)]
    boxes: list[list[Tensor]] = []
    for place, plan in enumerate(plans):
        own = own_columns(said_BS, size, place).flatten()[plan.taken_n]
        boxes.append(list(own.split(plan.sent)))
    wanted_N = said_BS[chosen_BS]
    for place, plan in enumerate(plans):
        assert [len(sent[place]) for sent in boxes] == plan.received
        arrived = torch.cat([sent[place] for sent in boxes])
        first, last = share(len(wanted_N), size, place)
        assert torch.equal(arrived[plan.order_n], wanted_N[first:last])


def test_one_process_passes_nothing_on() -> None:
    x = torch.ones(2, 3)
    assert to_all(x, 2, SOLO) is x
    assert known_to_all(x, 3, SOLO) is x
