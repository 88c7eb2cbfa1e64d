"""Models and tokenizers in and out of directories: identical weights, and errors that name the directory."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sod.chat.render import Chat
from sod.models.load import check_compatible, load_model, load_tokenizer, save_model, vocabulary_rows
from sod.models.scratch import train_tokenizer
from sod.records import SodError


@pytest.fixture
def saved(tmp_path: Path, random_model: Callable[..., Any], chat: Chat) -> Path:
    """A model directory as a run leaves it."""
    directory = tmp_path / "model"
    save_model(random_model(seed=2), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory)
    return directory


def test_plain_transformers_reads_what_we_write(saved: Path, random_model: Callable[..., Any], chat: Chat) -> None:
    """Bit-identical weights, the chat template in use, and the end-of-turn token, without any of our code."""
    model = AutoModelForCausalLM.from_pretrained(saved)
    expected = random_model(seed=2).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert model.generation_config.eos_token_id == chat.end_id
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.chat_template == chat.template
    assert tokenizer.get_vocab() == chat.tokenizer.get_vocab()
    text = "print(12+3) <tool_call> é"
    assert tokenizer.encode(text) == chat.tokenizer.encode(text)


def test_our_own_loaders_read_it_back(saved: Path, random_model: Callable[..., Any], chat: Chat) -> None:
    """In both precisions; a template of the tokenizer's own is kept when none is given."""
    expected = random_model(seed=2).state_dict()
    for name in ("float32", "bfloat16"):
        model = load_model(str(saved), name)  # type: ignore[arg-type]
        assert not model.training
        for key, weight in model.state_dict().items():
            assert torch.equal(weight, expected[key].to(getattr(torch, name)))
    tokenizer = load_tokenizer(str(saved))
    save_model(model, tokenizer, None, chat.end_id, saved.parent / "again")
    assert load_tokenizer(str(saved.parent / "again")).chat_template == chat.template


@pytest.mark.parametrize("path", ["absent", "./absent", "/absent/model", "~/absent"])
def test_missing_directories_are_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for load in (lambda: load_model(path, "float32"), lambda: load_tokenizer(path)):
        with pytest.raises(SodError, match=f"^{path}: no such model directory"):
            load()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_directory_without_a_needed_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(SodError, match=rf"{saved}: not a model directory \({name} is missing\)"):
        load_model(str(saved), "float32") if name == "config.json" else load_tokenizer(str(saved))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cut_config_is_named(saved: Path, share: float) -> None:
    cut(saved / "config.json", share)
    with pytest.raises(SodError, match=rf"{saved}/config.json: cut short or not JSON"):
        load_model(str(saved), "float32")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_weights_are_named(saved: Path, share: float) -> None:
    cut(saved / "model.safetensors", share)
    with pytest.raises(SodError, match=f"^{saved}: cannot load a model"):
        load_model(str(saved), "float32")


def test_absent_weights_file_is_named(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(SodError, match=f"^{saved}: cannot load a model"):
        load_model(str(saved), "float32")


def test_weights_without_a_tensor_are_refused(saved: Path) -> None:
    """Transformers fills what is missing with random numbers: a run must not start from those."""
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SodError, match=r"model.layers.1.mlp.up_proj.weight"):
        load_model(str(saved), "float32")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cut_tokenizer_is_named(saved: Path, name: str, share: float) -> None:
    cut(saved / name, share)
    expected = f"{saved}: cannot load a tokenizer" if name == "tokenizer.json" else f"{saved}/{name}: cut short"
    with pytest.raises(SodError, match=f"^{expected}"):
        load_tokenizer(str(saved))


def test_a_file_is_no_model_directory(saved: Path) -> None:
    with pytest.raises(SodError, match="no such model directory"):
        load_model(str(saved / "config.json"), "float32")


def test_equal_tokenizers_are_compatible(tokenizer: Any) -> None:
    check_compatible(tokenizer, copy.deepcopy(tokenizer), "s", "t")


def test_another_vocabulary_is_refused_with_an_example(tokenizer: Any) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<extra>"])
    for student, teacher in ((tokenizer, larger), (larger, tokenizer)):
        with pytest.raises(SodError, match=r"^the-teacher: .* differs from the student's \(the-student\) in 1 tokens"):
            check_compatible(student, teacher, "the-student", "the-teacher")


def test_a_permuted_vocabulary_is_refused(tokenizer: Any) -> None:
    """Same tokens, other ids: the sizes agree, the log-probabilities would be of other tokens."""
    other = train_tokenizer(["zzzz yyyy zzzz yyyy"] * 9, 310)
    same_size = train_tokenizer(["aaaa bbbb aaaa bbbb"] * 9, 310)
    assert len(other) == len(same_size)
    with pytest.raises(SodError, match="use a teacher of the same tokenizer"):
        check_compatible(other, same_size, "s", "t")


def test_another_eos_is_compatible(tokenizer: Any) -> None:
    """A base model and its instruct version; turns end in the chat's end token, which both have."""
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|endoftext|>"
    check_compatible(tokenizer, other, "s", "t")


def test_rows_are_read_without_weights(saved: Path, tokenizer: Any) -> None:
    """From the configuration, also where it is that of a network's part."""
    (saved / "model.safetensors").unlink()
    assert vocabulary_rows(str(saved)) == len(tokenizer)
    (saved / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {"vocab_size": 262_208}}))
    assert vocabulary_rows(str(saved)) == 262_208
    cut(saved / "config.json", 0.5)
    with pytest.raises(SodError, match=rf"{saved}/config.json: cut short or not JSON"):
        vocabulary_rows(str(saved))


def test_no_space_is_tidied_away(saved: Path) -> None:
    """Llama 3's files ask for it, which transformers does or warns of."""
    file = saved / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clean_up_tokenization_spaces": True}))
    tokenizer = load_tokenizer(str(saved))
    text = "print(12 , 3) ."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not tokenizer.clean_up_tokenization_spaces
