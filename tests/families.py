"""Every family of causal language models that transformers has, as a tiny random model each; importable because `tests`
is on pytest's path.

What configurations call their sizes is much the same everywhere, so one table of small sizes makes most of them; what
is left needs a word of its own.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from architectures import ONE_KEY_HEAD_EACH, VOCABULARY, tiny_model
from architectures import SIZES as COMMON
from sod.models.architecture import language_part

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "dense_intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "router_hidden_size": 8,
}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "o_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 8,
    "index_head_dim": 8,
    "index_n_heads": 16,  # with few of them scores are 0 so often that ties decide, and not as the plain forward does
    "index_block_size": 16,
    "index_topk_blocks": 2,
}
STATES = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_ngroups": 1,
    "mamba_headdim": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "n_groups": 1,
    "chunk_size": 16,
    "block_size": 16,
    "lru_width": 32,
}
OTHERS = {
    "head_dim": 8,
    "sliding_window": 16,
    "attention_chunk_size": 16,
    "local_attention": 16,
    "window_size": 16,
    "ffn_dim": 48,
    "dff": 48,
    "dim_ff": 48,
    "dim_head": 8,
    "rotary_dim": 4,
    "max_seq_len": 256,
    "d_rel": 4,
    "rel_extent": 32,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "num_kv_shared_layers": 2,
    "laurel_rank": 4,
    "adapter_rank": 4,
    "query_pre_attn_scalar": 8,
    "original_max_position_embeddings": 256,
}
SIZES = EXPERTS | LATENT | STATES | OTHERS
DROPPED = None  # a size that a family will not hear of
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PART = {
    "hidden_size": 32,
    "hidden_size_global": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
AUDIO = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_blocks": 1,
    "num_attention_heads": 2,
    "nemo_conv_channels": 16,
}
TWICE = {"layer_types": ["sliding_attention", "full_attention"] * 2}

OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 50}
    | {f"{part}_config": PART for part in ("patcher", "encoder", "decoder", "global")},
    "cohere_compass_text": TWICE
    | {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in TWICE["layer_types"]}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 8,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": 12,
        "swa_qk_rope_head_dim": 4,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "gemma4_text": TWICE,
    "gemma4_unified_text": TWICE,
    "git": {"vision_config": VISION},
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2, "head_dim": 4, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "nemotron": {"num_key_value_heads": 4},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp", "moe"]},
    "phi4_multimodal": {"vision_config": VISION, "audio_config": AUDIO},
    "prophetnet": {"num_hidden_layers": DROPPED},
    "qwen4_exp_text": {
        "hc_count": 2,
        "hc_lowrank": 4,
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16]},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "whisper": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "xlnet": {"max_position_embeddings": DROPPED, "d_head": 8},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a family needs."""
WHOLE: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}}
}
"""What a family needs to have any configuration at all."""
MOST = 3_000_000  # weights of a tiny model
SCALE: dict[str, float] = {"mamba": 1.0, "falcon_mamba": 1.0}
"""What weights are multiplied with, where 4 makes numbers too large."""


def family_config(kind: str) -> Any:
    """The configuration of a tiny model of a family; its language model's, where it has several parts."""
    whole = AutoConfig.for_model(kind, **copy.deepcopy(WHOLE.get(kind, {})))
    part = language_part(whole)
    if part is not None:
        return family_config(part.model_type)
    known = set(vars(whole)) | set(type(whole).attribute_map)
    sizes = COMMON | {name: size for name, size in SIZES.items() if name in known}
    if "kv_lora_rank" in known:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # of a latent each head has a key of its own
        sizes.pop("head_dim", None)
    sizes |= copy.deepcopy(WHOLE.get(kind, {}) | OWN.get(kind, {}))
    if kind in ONE_KEY_HEAD_EACH and "num_key_value_heads" not in OWN.get(kind, {}):
        sizes["num_key_value_heads"] = DROPPED
    return AutoConfig.for_model(kind, **{name: size for name, size in sizes.items() if size is not DROPPED})


def family_model(kind: str, config: Any) -> Any:
    """A tiny random model. ValueError where its configuration makes a large one: its sizes have names of their own."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MOST:
        raise ValueError(f"{kind} has {weights:,} weights: give it sizes in OWN")
    return tiny_model(config, SCALE.get(kind, 4.0))
