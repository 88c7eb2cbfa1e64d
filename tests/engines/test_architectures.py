"""Architectures that the fast engine samples exactly, at lengths past what their configuration marks; what it leaves to
the plain engine; and what both refuse by name. `test_every_family.py` goes through all families of transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import LATENT, LINEAR, LLAMA3, LONGROPE, MOE, plain_logps, rope, tiny_config, tiny_model, worst_gap
from sod.engines.base import SampleRequest, Sampling
from sod.engines.choice import choose_engine
from sod.engines.plain_engine import PlainEngine
from sod.engines.proof import prove
from sod.engines.torch_engine import TorchEngine
from sod.models.load import load_model
from sod.objective.batch import supervised_batch
from sod.objective.scores import SAMPLED_ONLY
from sod.records import SodError
from sod.teachers.local import LocalTeacher

slow = pytest.mark.slow

# Each runs to 200 tokens; original lengths are 64, contexts 256.
EXACT: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama linear": rope("linear"),
    "llama yarn": rope("yarn", original_max_position_embeddings=64),
    "llama llama3": LLAMA3,
    "qwen3": {},
    "gpt_neox": {},
    "smollm3": {},
    "mistral": {"sliding_window": None},
    "mistral window": {"sliding_window": 200},
    "qwen2": {},
    "qwen2 yarn": rope("yarn", original_max_position_embeddings=64),
    "phi": {},
    "phi3": {"sliding_window": None},
    "ministral3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 200},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 200},
    "granite": {
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
    },
    "cohere": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 0.5, "head_dim": 8},
    "nanochat": {"final_logit_softcapping": 5.0},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "starcoder2": {"sliding_window": None},
    "seed_oss": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "ernie4_5": {"head_dim": 8},
    "helium": {"head_dim": 8},
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "persimmon": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**MOE, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe": {"head_dim": 8, "n_routed_experts": 4, "first_k_dense_replace": 1, **MOE},
}
QUICK = ("llama yarn", "gpt_neox", "smollm3")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else slow) for name in EXACT])
def test_sampled_as_the_plain_forward_says(name: str) -> None:
    """At every position of three turns to 200 tokens: far past 64, and to the last token inside a window of 200."""
    engine = TorchEngine(tiny_model(tiny_config(name.split()[0], **EXACT[name])), frozenset(), max_rows=4)
    assert worst_gap(engine, 200, turns=3) < 1e-4


# What the fast engine leaves to the plain one, and why: in words that the notice must have.
PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "gemma2": ({"head_dim": 8, "sliding_window": 24}, "soft-capped attention"),
    "deepseek_v3": (LATENT, "latent attention"),
    "minicpm3": (LATENT, "latent attention"),
    "stablelm": ({}, "attention of its own"),
    "bloom": ({}, "attention of its own"),
    "falcon alibi": ({"alibi": True}, "ALiBi"),
    "falcon": ({"alibi": False}, "attention of its own"),
    "gpt_neo": (
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "num_heads": 4, "window_size": 16},
        "attention of its own",
    ),
    "gptj": ({"rotary_dim": 4}, "attention of its own"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}, "attention of its own"),
    "diffllama": ({}, "differs by"),
    "gpt_oss": (
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16},
        "sinks or soft caps",
    ),
    "mamba2": ({"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1}, "linear_attention"),
    "qwen3_next": ({**LINEAR, **MOE, "shared_expert_intermediate_size": 16}, "linear_attention"),
    "qwen3_5_text": (LINEAR, "linear_attention"),
    "mistral sliding": ({"sliding_window": 24}, "sliding window of 24 tokens, and texts may reach 200"),
    "qwen2 sliding": (
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
        "sliding window of 24",
    ),
    "gemma3_text sliding": ({"head_dim": 8, "sliding_window": 24}, "sliding window of 24 tokens"),
}
QUICK_PLAIN = ("stablelm",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_PLAIN else slow) for n in PLAIN])
def test_left_to_the_plain_engine(name: str, tmp_path: Path) -> None:
    """A loaded model: what is said, and at every position of three turns to 200 tokens what the plain forward says."""
    changes, why = PLAIN[name]
    kind = name.split()[0]
    tiny_model(tiny_config(kind, **changes)).save_pretrained(tmp_path)
    said: list[str] = []
    engine = choose_engine(load_model(str(tmp_path), "float32"), frozenset(), 200, said.append, max_rows=4)
    assert isinstance(engine, PlainEngine)
    (line,) = said
    assert re.search(rf"^{tmp_path}: .*{why}.*; sampled by the plain engine", line)
    assert "\n" not in line
    assert worst_gap(engine, 200, turns=3) < 1e-4


# What each is refused for by both, in words that its line must have.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({"is_decoder": False}, "hidden states"),
    "rwkv": ({"attention_hidden_size": 32}, "cache"),
    "roberta": ({"is_decoder": True}, "hidden states"),
    "llama4_text": ({"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48}, "cannot be scored"),
}
QUICK_REFUSED = ("bert",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_REFUSED else slow) for n in REFUSED])
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """By loading a model, or by the engines: the line names the architecture, why, and what to use."""
    changes, why = REFUSED[name]
    tiny_model(tiny_config(name, **changes)).save_pretrained(tmp_path)
    with pytest.raises(SodError, match=why) as caught:
        choose_engine(load_model(str(tmp_path), "float32"), frozenset(), 100, print)
    line = str(caught.value)
    assert "\n" not in line
    assert name in line
    assert "use a model of another family, e.g. Llama" in line


CHANGING: dict[str, tuple[dict[str, Any], int]] = {
    "llama dynamic": ({"max_position_embeddings": 64, **rope("dynamic")}, 64),
    "llama longrope": (LONGROPE, 64),
    "phi3 longrope": ({"sliding_window": None, "original_max_position_embeddings": 64, **LONGROPE}, 64),
    "mistral sliding": ({"sliding_window": 48}, 48),
    "phi3 sliding": ({"sliding_window": 48}, 48),
    "qwen2 sliding": ({"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 2}, 48),
    "gemma3_text sliding": ({"head_dim": 8, "sliding_window": 48}, 48),
    "olmo3 sliding": ({"sliding_window": 48}, 48),
    "exaone4 sliding": ({"head_dim": 8, "sliding_window": 48}, 48),
    "cwm sliding": ({"head_dim": 8, "sliding_window": 48}, 48),
}
QUICK_CHANGING = ("llama dynamic", "phi3 longrope", "mistral sliding")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_CHANGING else slow) for n in CHANGING])
def test_the_fast_engine_is_exact_up_to_the_mark_and_refuses_past_it(name: str) -> None:
    changes, mark = CHANGING[name]
    engine = TorchEngine(tiny_model(tiny_config(name.split()[0], **changes)), frozenset(), max_rows=4)
    assert worst_gap(engine, mark, turns=3) < 1e-4
    with pytest.raises(SodError, match=rf"past {mark} tokens .* reach {mark + 1}; lower that to {mark}, or use"):
        engine.generate([SampleRequest("a", tuple(range(10)), mark - 9, 1)], Sampling())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_that_changes_is_seen_where_no_configuration_tells(dtype: torch.dtype) -> None:
    """The proof stands a token at the far end of the context: no long forward is needed."""
    model = tiny_model(tiny_config("llama", **LONGROPE)).to(dtype)
    model.config.rope_parameters["rope_type"] = "of a kind to come"
    for engine in (TorchEngine, PlainEngine):
        with pytest.raises(SodError, match="'llama' the length of a text changes its first tokens"):
            engine(model, frozenset())


@pytest.mark.parametrize("window", [None, 20, 200])
def test_the_proof_of_a_small_model_reaches_beyond_a_window(window: int | None) -> None:
    """A forward that sees the last 20 or 200 tokens only is none of a model that sees all 256."""
    model = tiny_model(tiny_config("llama"))

    def last_hidden(ids: list[int], _cached: int) -> torch.Tensor:
        position = torch.arange(len(ids))
        distance = position[:, None] - position
        seen = (distance >= 0) & (distance < (window or len(ids)))
        token_BT = torch.tensor([ids])
        hidden: torch.Tensor = model.get_decoder()(
            input_ids=token_BT, attention_mask=seen[None, None], use_cache=False
        ).last_hidden_state
        return hidden[0, -1]

    with torch.no_grad():
        if window is None:
            prove(model, last_hidden, 10_000)
            return
        with pytest.raises(SodError, match="fast engine's forward differs"):
            prove(model, last_hidden, 10_000)


SCORED = ("stablelm", "bloom", "deepseek_v3", "gemma2", "qwen3_5_text", "mistral sliding", "gemma3_text sliding")


@slow
@pytest.mark.parametrize("name", SCORED)
def test_what_the_fast_engine_does_not_know_can_teach(name: str, tmp_path: Path) -> None:
    """Loaded and scored: padded rows of unequal length, against each row's own plain forward."""
    model = tiny_model(tiny_config(name.split()[0], **PLAIN[name][0]))
    model.save_pretrained(tmp_path)
    teacher = LocalTeacher(load_model(str(tmp_path), "float32"), 1000)
    rows = [(list(range(3, 3 + length)), [0] + [1] * (length - 1)) for length in (40, 23, 9)]
    logp_BT = teacher.score(supervised_batch(rows), [], SAMPLED_ONLY).logp_BT
    for (ids, _), logp_T in zip(rows, logp_BT, strict=True):
        expected_T = plain_logps(teacher.model, ids, 1).float()
        torch.testing.assert_close(logp_T[1 : len(ids)], expected_T, atol=1e-4, rtol=1e-4)
