"""Drawing tokens: the exact distribution, its truncations, and the extremes of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sod.engines.base import Sampling
from sod.engines.sampler import BLOCK, draw_tokens, log_probs
from sod.seeds import uniforms

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -2.0, -4.0, -60.0])
DRAWS = 20_000
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=2.0),
    Sampling(top_k=3),
    Sampling(top_k=100),
    Sampling(top_p=0.6),
    Sampling(top_p=1e-9),
    Sampling(temperature=1.7, top_p=0.9, top_k=5),
]


def exact(sampling: Sampling) -> list[float]:
    """The distribution by hand: python floats, temperature, then the k best, then the smallest nucleus >= p."""
    p = [math.exp(float(x) / sampling.temperature) for x in LOGITS]
    p = [x / sum(p) for x in p]
    order = sorted(range(len(p)), key=lambda v: -p[v])
    if sampling.top_k:
        p = [x if v in order[: sampling.top_k] else 0.0 for v, x in enumerate(p)]
        p = [x / sum(p) for x in p]
    if sampling.top_p < 1.0:
        mass, nucleus = 0.0, []
        for v in order:
            nucleus.append(v)
            mass += p[v]
            if mass >= sampling.top_p:
                break
        p = [x if v in nucleus else 0.0 for v, x in enumerate(p)]
        p = [x / sum(p) for x in p]
    return p


def many(sampling: Sampling, logits_V: Tensor = LOGITS, count: int = DRAWS) -> tuple[Tensor, Tensor]:
    key_B = np.arange(count, dtype=np.uint64) // np.uint64(100)
    position_B = np.arange(count, dtype=np.uint64) % np.uint64(100)
    return draw_tokens(logits_V.expand(count, -1), sampling, key_B, position_B)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_draws_follow_the_exact_distribution(sampling: Sampling) -> None:
    """Chi-square over 20,000 draws (200 keys, 100 positions each); logps are those of the distribution."""
    p = exact(sampling)
    token_B, logp_B = many(sampling)
    count_V = torch.bincount(token_B, minlength=len(p)).double()
    assert all(count_V[v] == 0 for v, x in enumerate(p) if x == 0.0)
    # Cells that expect fewer than five draws are pooled, as the test asks for.
    cells = [(float(count_V[v]), x * DRAWS) for v, x in enumerate(p) if x * DRAWS >= 5]
    rest = (DRAWS - sum(c for c, _ in cells), DRAWS - sum(e for _, e in cells))
    cells += [rest] if rest[1] > 1 else []
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    if len(cells) == 1:
        assert cells[0][0] == DRAWS
    else:
        half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
        assert float(torch.special.gammaincc(half[0], half[1])) > 1e-4
    assert logp_B.tolist() == pytest.approx([math.log(p[v]) for v in token_B.tolist()], abs=1e-4)


def test_draws_over_several_blocks_follow_the_exact_distribution() -> None:
    """Chi-square for a vocabulary of more than four blocks of the two-stage inversion, the last one not full."""
    vocabulary, count = 4 * BLOCK + 100, 40_000
    logits_V = 0.7 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    token_B, logp_B = many(Sampling(), logits_V, count)
    p_V = logits_V.double().softmax(0)
    count_V, expected_V = torch.bincount(token_B, minlength=vocabulary).double(), p_V * count
    enough_V = expected_V >= 5
    cells = ((count_V - expected_V)[enough_V] ** 2 / expected_V[enough_V]).sum()
    cells += (count_V - expected_V)[~enough_V].sum() ** 2 / expected_V[~enough_V].sum()
    freedom = torch.tensor(float(enough_V.sum()), dtype=torch.float64)
    assert int(enough_V.sum()) > 900
    assert float(torch.special.gammaincc(freedom / 2, cells / 2)) > 1e-4
    torch.testing.assert_close(logp_B.double(), p_V.log()[token_B], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_log_probs_are_normalised_and_truncated(sampling: Sampling) -> None:
    logp_V = log_probs(LOGITS[None], sampling)[0]
    assert logp_V.exp().tolist() == pytest.approx(exact(sampling), abs=1e-6)


def test_every_nucleus_is_the_smallest_that_holds_its_mass() -> None:
    """top_p from 0.01 to 0.99: always the tokens that the definition keeps."""
    for percent in range(1, 100):
        sampling = Sampling(temperature=1.3, top_p=percent / 100)
        assert log_probs(LOGITS[None], sampling)[0].exp().tolist() == pytest.approx(exact(sampling), abs=1e-6)


def test_log_probs_match_in_any_row_order() -> None:
    """Truncation belongs to the row: shuffled vocabularies give shuffled distributions."""
    order = torch.randperm(len(LOGITS), generator=torch.Generator().manual_seed(0))
    both = log_probs(torch.stack([LOGITS, LOGITS[order]]), Sampling(top_p=0.8, top_k=6))
    assert torch.allclose(both[0][order], both[1])


def extreme_noise() -> list[tuple[int, int]]:
    """`(key, position)` of the largest and smallest of a million uniforms."""
    key_N = np.repeat(np.arange(1000, dtype=np.uint64), 1000)
    position_N = np.tile(np.arange(1000, dtype=np.uint64), 1000)
    order = np.argsort(uniforms(key_N, position_N))
    return [(int(key_N[i]), int(position_N[i])) for i in [*order[:20], *order[-20:]]]


@pytest.mark.parametrize("vocabulary", [8, 4096])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=2)], ids=str)
def test_extreme_noise_never_draws_what_has_no_probability(vocabulary: int, sampling: Sampling) -> None:
    """Impossible tokens lie first, last and in between; noise at both ends of [0, 1) lands on a possible one."""
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3))
    logits_V[::3] = -torch.inf
    logits_V[-2:] = -torch.inf
    noise = extreme_noise()
    key_B, position_B = (np.array(column, dtype=np.uint64) for column in zip(*noise, strict=True))
    assert uniforms(key_B, position_B).max() > 1 - 1e-5
    assert uniforms(key_B, position_B).min() < 1e-5
    token_B, logp_B = draw_tokens(logits_V.expand(len(noise), -1), sampling, key_B, position_B)
    assert bool(torch.isfinite(logits_V[token_B]).all())
    assert bool(torch.isfinite(logp_B).all())


def splitmix_inverse(z: int) -> int:
    """The key that makes SplitMix64 give `z` at position 0 (each of its steps is invertible)."""
    mask = (1 << 64) - 1

    def unshift(value: int, by: int) -> int:
        out = value
        for _ in range(64 // by + 1):
            out = value ^ (out >> by)
        return out

    z = unshift(z, 31)
    z = unshift(z * pow(0x94D049BB133111EB, -1, 1 << 64) & mask, 27)
    z = unshift(z * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & mask, 30)
    return (z - 0x9E3779B97F4A7C15) & mask


@pytest.mark.parametrize(("bits", "low", "high"), [((1 << 64) - 1, 1 - 2**-52, 1.0), (0, 0.0, 2**-52)])
def test_the_very_ends_of_the_noise(bits: int, low: float, high: float) -> None:
    """The largest and smallest uniform there are; the largest rounds to 1 in float32."""
    key_B, position_B = np.array([splitmix_inverse(bits)], dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    assert low <= uniforms(key_B, position_B)[0] < high
    for logits in ([-torch.inf, 0.0, 1.0, -torch.inf], [-200.0, 0.0, -200.0], [-torch.inf] * 3 + [0.0] * 2000):
        logits_V = torch.tensor(logits)
        for sampling in (Sampling(), Sampling(top_p=0.99)):
            token_B, logp_B = draw_tokens(logits_V[None], sampling, key_B, position_B)
            assert logits_V[token_B[0]] >= 0.0
            assert math.isfinite(float(logp_B[0]))


def test_noise_is_a_function_of_key_and_position_alone() -> None:
    """Shuffled rows get the tokens they had; other positions and other keys get other noise."""
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    key_B = np.arange(500, dtype=np.uint64)
    position_B = key_B * np.uint64(7)
    logits_BV = torch.randn(500, 50, generator=torch.Generator().manual_seed(2))
    plain, _ = draw_tokens(logits_BV, Sampling(), key_B, position_B)
    moved, _ = draw_tokens(logits_BV[order], Sampling(), key_B[order.numpy()], position_B[order.numpy()])
    assert torch.equal(plain[order], moved)
    later, _ = draw_tokens(logits_BV, Sampling(), key_B, position_B + np.uint64(1))
    assert int((later != plain).sum()) > 300


def test_greedy_takes_the_best_at_log_probability_zero() -> None:
    logits_BV = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 2.0]])
    zeros_B = np.zeros(2, dtype=np.uint64)
    token_B, logp_B = draw_tokens(logits_BV, Sampling(temperature=0.0), zeros_B, zeros_B)
    assert token_B.tolist() == [1, 0]
    assert logp_B.tolist() == [0.0, 0.0]
