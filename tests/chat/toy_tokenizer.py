"""A small byte-level tokenizer that has the added tokens which a chat template writes."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# As families name their control tokens: <|...|>, DeepSeek's full-width bars, Gemma's, Mistral's, GLM's, BOS and EOS.
_CONTROL = re.compile(
    r"<[|\uff5c][^<>'\"{}\s]{1,40}?[|\uff5c]>|<\|[a-z_]+>|<[a-z_]+\|>|<\|\"\|>|</?s>|<bos>|<eos>|<pad>|<unk>"
    r"|<sop>|<seed:[a-z_]+>|<SPECIAL_[0-9]+>|<sep>|<beginning_of_sentence>|</?(?:assistant|user|system)>"
    r"|<(?:start|end)_of_[a-z]+>|\[/?[A-Z_]{3,}\]|\[gMASK\]|</?think>|</?tool_call>|</?tool_response>"
    r"|<start_function_[a-z]+>|<end_function_[a-z]+>|<escape>|\][<~][^\[\]]{1,20}\[|\[e~\["
)
_BUILT = re.compile(r"[\"']<\|[\"'] ?[+~]")  # tokens that are put together of a role
_BOS = (
    "<|begin_of_text|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<bos>", "<s>", "<|startoftext|>", "<BOS_TOKEN>",
)  # fmt: skip
_EOS = (
    "<|eot_id|>", "<|return|>", "<|im_end|>", "<turn|>", "<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>", "<|end|>", "<|eot|>", "<seed:eos>", "[e~[", "<|endoftext|>", "</s>",
)  # fmt: skip
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def control_tokens(template: str) -> list[str]:
    """The texts in a template that its tokenizer has as tokens, by their look."""
    found = set(_CONTROL.findall(template))
    if _BUILT.search(template):
        found |= {f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}
    return sorted(found)


def tokenizer_for(template: str, extra: tuple[str, ...] = ()) -> Any:
    """A tokenizer of bytes with the template, the control tokens in it, and a BOS and EOS where it names none."""
    found = [*control_tokens(template), *extra]
    bos = next((token for token in _BOS if token in found), "<s>")
    eos = next((token for token in _EOS if token in found), "</s>")
    backend = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(BYTES)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    names = dict.fromkeys([*found, bos, eos])
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in names])
    own = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    own.chat_template = template
    return own
