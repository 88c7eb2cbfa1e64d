"""`scripts/retokenize.py`: each new token's embedding is the mean of the old tokens that spell it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import retokenize

from other_teacher import other_model, other_tokenizer
from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer, save_model
from sod.models.scratch import train_tokenizer
from sod.models.support import Support
from sod.records import Message, SodError
from sod.tools.python import SCHEMA


def test_the_same_tokenizer_changes_nothing() -> None:
    tokenizer = other_tokenizer()
    model = other_model(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    retokenize.give(model, tokenizer, tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_token_is_the_mean_of_those_that_spell_it() -> None:
    old, new = other_tokenizer(), train_tokenizer(["seats for two: caf\u00e9 caf\u00e9 caf\u00e9"] * 9, 330)
    model = other_model(old)
    before = model.get_input_embeddings().weight.detach().clone()
    retokenize.give(model, old, new)
    weight = model.get_input_embeddings().weight
    assert len(weight) == model.config.vocab_size == len(new)
    assert model.get_output_embeddings().weight is weight, "the output embedding is the same"
    end = "<|im_end|>"
    assert torch.equal(weight[new.convert_tokens_to_ids(end)], before[old.convert_tokens_to_ids(end)])
    words = [(id, new.decode([id])) for id in range(3, len(new)) if len(new.decode([id])) > 4]
    assert len(words) > 1
    for id, text in words:
        spelled = old.encode(text, add_special_tokens=False)
        assert torch.allclose(weight[id], before[spelled].mean(0), atol=1e-6), text
    half = new.convert_tokens_to_ids("\u00c3")  # the first byte of e with an accent, no text of its own
    assert torch.equal(weight[half], before[old.convert_tokens_to_ids("\u00c3")])


def test_what_it_writes_can_be_loaded_and_reads_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = train_tokenizer(["seats for two"] * 4, 300)
    other = other_tokenizer()
    save_model(other_model(tokenizer).bfloat16(), tokenizer, None, 2, tmp_path / "model")
    other.save_pretrained(tmp_path / "other")
    made = tmp_path / "made"
    monkeypatch.setattr(sys, "argv", ["retokenize.py", str(tmp_path / "model"), str(tmp_path / "other"), str(made)])
    retokenize.main()
    assert f"with the {len(other)} tokens" in capsys.readouterr().out
    read = load_tokenizer(str(made))
    assert read.get_vocab() == other.get_vocab()
    model = load_model(str(made), "bfloat16", Support.of(read))
    ids, _ = Chat(read, [SCHEMA]).encode_conversation([Message("user", "2 seats?"), Message("assistant", "2")])
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()


def test_untied_embeddings_are_refused() -> None:
    tokenizer = other_tokenizer()
    model = other_model(tokenizer)
    model.config.tie_word_embeddings = False
    with pytest.raises(SodError, match="not tied"):
        retokenize.give(model, tokenizer, tokenizer)
