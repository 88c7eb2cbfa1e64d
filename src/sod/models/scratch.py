"""Small Qwen3 models from nothing: a tokenizer learned from a corpus, and random weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sod.seeds import derive

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DIGITS = r"[0-9+\-*/%=()]"
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# Qwen3's own 0.02 suits thousands of channels; at a hundred, 260 SFT steps ended at 3 times the loss of this.
INIT_STD = 0.06


def train_tokenizer(corpus: Iterable[str], vocab_size: int, apart: str = DIGITS) -> Any:
    """A byte-level BPE tokenizer that never merges what matches `apart`, a regular expression, with what stands around
    it; digits and operators by default.

    Everything else may merge across spaces, so that the constant text of a small world (tool
    schema, JSON glue) costs few tokens. Any text can be encoded.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(apart), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    marks = re.compile("|".join(map(re.escape, SPECIAL + MARKS)))
    tokenizer.train_from_iterator((part for text in corpus for part in marks.split(text)), trainer)
    tokenizer.add_tokens(list(MARKS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def new_qwen3(tokenizer: Any, layers: int, hidden: int, heads: int, ffn: int, context: int, seed: int) -> Any:
    """A Qwen3 model with random weights that depend on `seed` alone (tied embeddings, no KV grouping)."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=context,
        initializer_range=INIT_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return Qwen3ForCausalLM(config)
