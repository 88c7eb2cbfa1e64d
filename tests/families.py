"""Every family of causal language models that transformers has, as a tiny random model each; importable because `tests`
is on pytest's path.

What configurations call their sizes is much the same everywhere, so one table of small sizes makes most of them; what
is left needs a word of its own.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from architectures import VOCABULARY, tiny_config
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
    "index_n_heads": 2,
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

OWN: dict[str, dict[str, Any]] = {}
"""What else a family needs."""


def family_config(kind: str) -> Any:
    """The configuration of a tiny model of a family; its language model's, where it has several parts."""
    whole = AutoConfig.for_model(kind)
    part = language_part(whole)
    if part is not None:
        return family_config(part.model_type)
    known = set(vars(whole)) | set(type(whole).attribute_map)
    sizes = {name: size for name, size in SIZES.items() if name in known}
    return tiny_config(kind, **(sizes | OWN.get(kind, {})))


SCALE: dict[str, float] = {}
"""What weights are multiplied with, where 4 makes numbers too large."""
