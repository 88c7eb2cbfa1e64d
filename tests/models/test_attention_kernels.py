"""Which attention PyTorch is asked for on CUDA: on fake tensors of such a device, which need no card."""

from __future__ import annotations

from typing import Any, final

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from architectures import tiny_config, tiny_model
from sod.models.attention import attend
from sod.models.fused import causal_attention, repeated_heads
from sod.models.spread import as_padded

F32, BF16 = torch.float32, torch.bfloat16


@final
class Asked(TorchFunctionMode):
    """Heads of queries, keys and values in each call of PyTorch's attention.

    The answer is a blank on the CPU: a PyTorch without CUDA does little with what is faked to be there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[tuple[int, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            self.heads.append(tuple(x.shape[1] for x in args[:3]))
            return torch.empty(args[0].shape)
        return func(*args, **(kwargs or {}))


def made(device: str, dtype: torch.dtype, tokens: int = 7) -> list[Tensor]:
    """Queries of four heads, keys and values of two."""
    return [torch.empty(3, heads, tokens, 8, device=device, dtype=dtype) for heads in (4, 2, 2)]


@pytest.mark.parametrize(("device", "dtype", "key_heads"), [("cuda", F32, 4), ("cuda", BF16, 2), ("cpu", F32, 2)])
def test_key_heads_are_repeated_where_no_fast_kernel_shares_them(
    device: str, dtype: torch.dtype, key_heads: int
) -> None:
    """Of PyTorch's kernels on CUDA those that know of shared key heads compute in half precision alone.

    The kernel for float32 takes queries, keys and values of as many heads; without one, scores of all pairs are kept.
    """
    module = tiny_model(tiny_config("qwen3")).model.layers[0].self_attn
    assert module.num_key_value_groups == 2
    with FakeTensorMode(), torch.no_grad(), Asked() as asked:
        query, key, value = made(device, dtype)
        mixed, _ = attend(module, query, key, value, None, 0.3)
        assert mixed.shape == (3, 7, 4, 8)
        assert causal_attention(query, key, value, 0.3).shape == query.shape
        token_BS = torch.zeros(3, 7, dtype=torch.int64)
        assert as_padded(token_BS).attention(query, key, value, 0.3).shape == (3, 7, 4, 8)
    assert asked.heads == [(4, key_heads, key_heads)] * 3


def test_one_new_token_needs_no_kernel() -> None:
    """A decoding step has few scores; its keys are all that are cached, and are not copied."""
    module = tiny_model(tiny_config("qwen3")).model.layers[0].self_attn
    with FakeTensorMode(), torch.no_grad(), Asked() as asked:
        _, key, value = made("cuda", F32, tokens=90)
        attend(module, made("cuda", F32, tokens=1)[0], key, value, None, 0.3)
    assert asked.heads == [(4, 2, 2)]


def test_repeated_heads_say_what_shared_ones_do() -> None:
    """Values and gradients, on numbers."""
    generator = torch.Generator().manual_seed(1)
    shared = [torch.randn(2, heads, 9, 8, generator=generator).requires_grad_() for heads in (6, 2, 2)]
    own = [shared[0], *(repeated_heads(x, 6) for x in shared[1:])]
    one = scaled_dot_product_attention(*shared, is_causal=True, enable_gqa=True)
    other = scaled_dot_product_attention(*own, is_causal=True)
    torch.testing.assert_close(one, other)
    pull = torch.randn(one.shape, generator=generator)
    for a, b in zip(torch.autograd.grad(one, shared, pull), torch.autograd.grad(other, shared, pull), strict=True):
        torch.testing.assert_close(a, b)
