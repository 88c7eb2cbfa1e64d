"""Tiny random models of many architectures, made from nothing; importable because `tests` is on pytest's path."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sod.engines.base import SampleRequest, Sampling
from sod.engines.plain_engine import PlainEngine
from sod.engines.torch_engine import TorchEngine

VOCABULARY = 200
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ONE_KEY_HEAD_EACH = {"gpt2", "gpt_neox", "opt", "persimmon", "gpt_bigcode", "ctrl", "nemotron"}
"""Families without shared key heads, or with a key of their own for them."""
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
LINEAR = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    """The changes that give a configuration this RoPE, with 64 tokens as its original length."""
    keys = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0} | keys
    return {"rope_parameters": keys}


LONGROPE = rope(
    "longrope", original_max_position_embeddings=64, short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 3.0, 4.0]
)
LLAMA3 = rope("llama3", original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0)


def tiny_config(kind: str, **changes: Any) -> Any:
    """The configuration of a tiny model of a family."""
    sizes = dict(SIZES)
    if kind in ONE_KEY_HEAD_EACH:
        del sizes["num_key_value_heads"]
    return AutoConfig.for_model(kind, **(sizes | copy.deepcopy(changes)))  # a configuration writes into its dicts


def tiny_model(config: Any, scale: float = 4.0) -> Any:
    """A random model with weights so large that what came before matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model.eval()


def worst_gap(engine: TorchEngine | PlainEngine, longest: int, turns: int = 4) -> float:
    """How far an engine's log-probabilities are from the plain forward's, in nats, at the worst sampled token.

    Four episodes of some turns each, with what a tool would say between them; two of them begin alike, and the longest
    ends at `longest` tokens. Some turns stop early, at a token that the engine stops at.
    """
    noise = random.Random(0)
    new, between = longest // (2 * turns), longest // (3 * turns)
    context = {session: noise.choices(range(3, VOCABULARY), k=between + 2 * n) for n, session in enumerate("abc")}
    context["d"] = context["a"]
    spare = longest - (between + 4) - turns * new - (turns - 1) * between
    worst = 0.0
    for turn in range(turns):
        last = new + (spare if turn == turns - 1 else 0)
        asked = [SampleRequest(name, tuple(ids), last, 10 * turn + n) for n, (name, ids) in enumerate(context.items())]
        for request, answer in zip(asked, engine.generate(asked, Sampling()), strict=True):
            ids = [*request.token_ids, *answer.token_ids]
            plain_N = plain_logps(engine.model, ids, len(request.token_ids))
            worst = max(worst, float((plain_N - torch.tensor(answer.logps).double()).abs().max()))
            more = between + (last - len(answer.token_ids))  # all end where they would without a stop
            context[request.session] = ids + noise.choices(range(3, VOCABULARY), k=more)
    return worst


def plain_logps(model: Any, ids: list[int], first: int) -> torch.Tensor:
    """Log-probabilities of the tokens from `first` on by the model's whole forward, in float64."""
    with torch.no_grad():
        logp_TV = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return logp_TV[torch.arange(first - 1, len(ids) - 1), torch.tensor(ids[first:])]
