"""Fused steps against the plain ones that they stand for: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sod.models import fused
from sod.models.fused import ProductAttention, causal_attention, logp_of_targets


def made(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers in a tensor that wants a gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_products_are_attention(heads: int, groups: int) -> None:
    """In float32 within rounding, on views as models make them (heads behind tokens in memory)."""
    query = made(2, 9, heads, 8, seed=1).transpose(1, 2)
    key, value = (made(2, 9, groups, 8, seed=seed).transpose(1, 2) for seed in (2, 3))
    ours = ProductAttention.apply(query, key, value, 0.3)
    plain = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)
    pull = torch.randn(plain.shape, generator=torch.Generator().manual_seed(4))
    wanted = (query, key, value)
    for one, other in zip(
        torch.autograd.grad(ours, wanted, pull), torch.autograd.grad(plain, wanted, pull), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


def test_products_are_exact_derivatives() -> None:
    query, key, value = (torch.randn(1, n, 5, 4, dtype=torch.float64, requires_grad=True) for n in (4, 2, 2))
    assert torch.autograd.gradcheck(lambda *x: ProductAttention.apply(*x, 0.5), (query, key, value))


@pytest.mark.parametrize(
    ("dtype", "tokens", "amx", "taken"),
    [
        (torch.bfloat16, 9, False, True),
        (torch.bfloat16, 9, True, False),
        (torch.bfloat16, 513, False, False),
        (torch.float32, 9, False, False),
    ],
)
def test_products_only_where_they_are_faster(
    dtype: torch.dtype, tokens: int, amx: bool, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where no gradient is wanted."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    query, key, value = (made(1, 2, tokens, 8, seed=seed, dtype=dtype) for seed in (1, 2, 3))
    mixed = causal_attention(query, key, value, 0.3)
    assert (type(mixed.grad_fn).__name__ == "ProductAttentionBackward") == taken
    with torch.no_grad():
        assert not fused._products_are_faster(query.detach())
        torch.testing.assert_close(causal_attention(query, key, value, 0.3), mixed.detach(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_of_targets(dtype: torch.dtype, temperature: float) -> None:
    """The same bits as the plain operations, a support's holes among the logits; the logits stay as they were."""
    whole = made(7, 50, seed=5, dtype=dtype)
    hole = torch.arange(50) == 3
    target = torch.tensor([0, 1, 2, 49, 4, 4, 7])
    pull = torch.linspace(-1, 2, 7)
    before = whole.detach().clone()

    def plain(logits: Tensor) -> Tensor:
        logits = logits.float() / temperature
        return (logits.gather(1, target[:, None]) - logits.logsumexp(1, keepdim=True)).squeeze(1)

    both = []
    for measure in (lambda logits: logp_of_targets(logits, target, temperature), plain):
        logp = measure(whole.masked_fill(hole, -torch.inf))
        both.append((logp.detach(), torch.autograd.grad(logp, whole, pull)[0]))
    (ours, of_ours), (theirs, of_theirs) = both
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(of_ours, of_theirs, atol=1e-7, rtol=1e-6 if dtype == torch.float32 else 8e-3)
    assert torch.equal(whole.detach(), before)
