"""Small tokenizers of two makes with merges of their own: byte-level, and SentencePiece's with single bytes."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CONTROLS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<end>", "<bos>")
PROSE = [
    "I multiply the two numbers, then the tool tells whether that is right.",
    "the tool says that the number is 1234 and the other one is 567890.",
    'import math\nprint(math.sqrt(12345))\n    return "value"\n',
    '{"name": "python", "arguments": {"code": "print(1)"}}\n',
]
CODE = ['def f(x):\n    return x * 1234\n\nprint("done", f(12))\n', "number print multiply value return caf\u00e9 "]


def byte_level(
    vocab: int = 420, corpus: tuple[str, ...] = tuple(PROSE), normalizer: Any = None, digits: bool = False,
    controls: tuple[str, ...] = CONTROLS,
) -> Any:  # fmt: skip
    """GPT-2's make; `digits` cuts each digit off."""
    backend = Tokenizer(models.BPE())
    parts = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(list(corpus) * 3, trainer)
    return _wrapped(backend, controls)


def sentence_piece(prefix: bool = False, vocab: int = 200, corpus: tuple[str, ...] = tuple(PROSE)) -> Any:
    """Gemma's make, or with `prefix` Llama 2's, which puts a space before a text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(list(corpus) * 3, trainers.BpeTrainer(vocab_size=vocab, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = [normalizers.Replace(" ", "\u2581")]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), *marks] if prefix else marks)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _wrapped(backend, CONTROLS, unk_token="<unk>")


def _wrapped(backend: Tokenizer, controls: tuple[str, ...], **names: str) -> Any:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in controls])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@cache
def family(name: str) -> Any:
    """One of five that cut the same text at different places."""
    makes = {
        "prose": byte_level,
        "code": lambda: byte_level(500, tuple(CODE)),
        "digits": lambda: byte_level(400, digits=True, normalizer=normalizers.NFC()),
        "pieces": sentence_piece,
        "prefixed": lambda: sentence_piece(prefix=True),
    }
    return makes[name]()


TELLS = (
    "{%- for m in messages -%}{{ m.role + ':\n' + m.content + '<end>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant:\n' }}{%- endif -%}"
)
"""A template that knows no tools."""


def saved(directory: Path, name: str, template: str | None = None) -> str:
    """The directory of a small tokenizer and nothing else."""
    tokenizer = copy.deepcopy(family(name))
    tokenizer.eos_token, tokenizer.chat_template = "<end>", template
    tokenizer.save_pretrained(directory / name)
    return str(directory / name)


NAMES = ("prose", "code", "digits", "pieces", "prefixed")
