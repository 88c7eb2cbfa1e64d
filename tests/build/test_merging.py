"""Shards put together: verl's, and those of torch.distributed.checkpoint; what does not make a whole is refused.

Shards are cut here by hand, into real DTensors of a process group that only claims its ranks; those that torch itself
cuts, in two processes, are in `tests/cli/test_merge_command.py`.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_kit import assert_same, change_config, cut, put_home, weights_of
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from sod.build.merging import write_merged
from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer, save_model
from sod.models.lora import has_adapter, merged, new_adapter
from sod.recipe import LoraSpec
from sod.records import SodError

Home = Callable[[Path], Path]
CPU, CUDA = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
"""The names of devices, as pickle writes a text."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., Any], chat: Chat) -> Path:
    """A plain model directory (never change it)."""
    directory = tmp_path_factory.mktemp("whole") / "model"
    save_model(random_model(seed=4), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory)
    return directory


@pytest.fixture(scope="module")
def home(whole: Path) -> Home:
    """Puts the model's configuration and tokenizer where verl does."""

    return partial(put_home, whole)


@pytest.fixture(scope="module")
def shards(whole: Path, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the shards of two ranks (never change them)."""
    place = home(tmp_path_factory.mktemp("shards") / "actor")
    cut(weights_of(whole, tied=True), place, (2,))
    return place


@pytest.mark.parametrize(
    ("shape", "dim", "dtype"),
    [((2,), 0, torch.float32), ((5,), 0, torch.bfloat16), ((2, 2), 0, torch.float32), ((3,), 1, torch.float32)],
    ids=["two ranks", "more ranks than some rows", "copies of two shards", "cut across"],
)
def test_verl_s_shards_give_the_same_weights(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype, whole: Path, home: Home, tmp_path: Path
) -> None:
    place, out = home(tmp_path / "global_step_3" / "actor"), tmp_path / "out"
    state = {name: weight.to(dtype) for name, weight in weights_of(whole, tied=True).items()}
    cut(state, place, shape, dim)
    write_merged(str(place.parent), out, pytest.fail)
    assert_same(weights_of(out), {name: weight for name, weight in state.items() if name != "lm_head.weight"})
    ours = load_tokenizer(str(out))
    assert ours.chat_template == load_tokenizer(str(whole)).chat_template
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == ours.convert_tokens_to_ids(
        "<|im_end|>"
    )
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_tensors_that_say_nothing_are_whole_or_pieces_by_the_configuration(
    ranks: int, whole: Path, home: Home, tmp_path: Path
) -> None:
    place, out = home(tmp_path / "actor"), tmp_path / "out"
    state = weights_of(whole, tied=True)
    for rank in range(ranks):
        own = dict(state)
        name = "model.embed_tokens.weight"
        own[name] = own["lm_head.weight"] = state[name].chunk(ranks)[rank].clone()
        torch.save(own, place / f"model_world_size_{ranks}_rank_{rank}.pt")
    write_merged(str(place), out, pytest.fail, "bfloat16")
    assert_same(weights_of(out), {name: w.bfloat16() for name, w in state.items() if name != "lm_head.weight"})


def test_shards_that_were_on_a_card_are_read_where_there_is_none(shards: Path, whole: Path, tmp_path: Path) -> None:
    """The same files, said to be of `cuda:0` instead of `cpu`, as FSDP2 leaves them."""
    place = tmp_path / "actor"
    shutil.copytree(shards, place)
    for path in place.glob("*.pt"):
        with zipfile.ZipFile(shards / path.name) as saved, zipfile.ZipFile(path, "w") as moved:
            for entry in saved.infolist():
                content = saved.read(entry)
                if entry.filename.endswith("data.pkl"):
                    assert content.count(CPU) > len(weights_of(whole))
                    content = content.replace(CPU, CUDA)
                moved.writestr(entry.filename, content)
    write_merged(str(place), tmp_path / "out", pytest.fail)
    assert_same(weights_of(tmp_path / "out"), weights_of(whole))


@pytest.mark.slow
def test_an_adapter_in_shards_is_added_as_peft_scales_it(whole: Path, home: Home, tmp_path: Path) -> None:
    model = load_model(str(whole), "float32")
    new_adapter(model, LoraSpec(rank=4, alpha=12), 0, str(whole))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    place = home(tmp_path / "actor")
    cut({f"base_model.model.{name}": w.detach().clone() for name, w in model.state_dict().items()}, place, (2,))
    with pytest.raises(SodError, match=r"no lora_train_meta\.json that says how it is scaled"):
        write_merged(str(place), tmp_path / "out", pytest.fail)
    (place / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM"}')
    write_merged(str(place), tmp_path / "out", pytest.fail)
    expected = {name: weight for name, weight in merged(model).state_dict().items() if name != "lm_head.weight"}
    found = weights_of(tmp_path / "out")
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(
        found["model.layers.0.mlp.up_proj.weight"], weights_of(whole)["model.layers.0.mlp.up_proj.weight"]
    )
    assert has_adapter(model) is False


@pytest.mark.slow
def test_names_of_an_earlier_transformers_are_understood(whole: Path, home: Home, tmp_path: Path) -> None:
    """Experts were modules each, and are one tensor for all by now; files on the hub keep the names of then."""
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "head_dim": 16}
    config = Qwen3MoeConfig(
        vocab_size=101, num_experts=4, num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, architectures=["Qwen3MoeForCausalLM"], **sizes,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path / "saved")
    then = load_file(tmp_path / "saved" / "model.safetensors")
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in then
    place = home(tmp_path / "actor")
    config.save_pretrained(place / "huggingface")
    cut(then, place, (2,))
    write_merged(str(place), tmp_path / "out", pytest.fail)
    assert_same(weights_of(tmp_path / "out", tied=True), dict(model.state_dict()))


@pytest.mark.parametrize("where", ["model", "weight/"])
def test_a_distributed_checkpoint_gives_the_same_weights(where: str, whole: Path, home: Home, tmp_path: Path) -> None:
    """An optimizer's state beside it is left alone, also where that holds weights of the same names."""
    place, state = home(tmp_path / "sharded"), weights_of(whole, tied=True)
    other = {name: weight + 1 for name, weight in state.items()}
    saved = {where: state, "optimizer": {"average": other, "step": 3, "first": {"exp_avg": torch.zeros(7)}}}
    if where == "weight/":  # flat, as sod's own ranks write it
        saved = {f"{kind}/{name}": w + 1 for kind in ("exp_avg", "exp_avg_sq") for name, w in state.items()}
        saved |= {f"weight/{name}": w for name, w in state.items()}
        saved |= {f"step/{name}": torch.zeros(()) for name in state}
    save_distributed(saved, checkpoint_id=str(place), no_dist=True)
    write_merged(str(place), tmp_path / "out", pytest.fail)
    assert_same(weights_of(tmp_path / "out"), weights_of(whole))


class _Runs:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _rank_gone(place: Path, mark: Path) -> None:
    (place / "model_world_size_2_rank_1.pt").unlink()


def _second_world(place: Path, mark: Path) -> None:
    shutil.copy(place / "model_world_size_2_rank_0.pt", place / "model_world_size_3_rank_0.pt")


def _other_world(place: Path, mark: Path) -> None:
    (place / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 4}')


def _cut_short(place: Path, mark: Path) -> None:
    path = place / "model_world_size_2_rank_1.pt"
    path.write_bytes(path.read_bytes()[:4000])


def _of_code(place: Path, mark: Path) -> None:
    torch.save({"model.embed_tokens.weight": _Runs(mark)}, place / "model_world_size_2_rank_1.pt")


def _too_little(place: Path, mark: Path) -> None:
    path = place / "model_world_size_2_rank_1.pt"
    state = torch.load(path, weights_only=False)
    for weight in state.values():
        weight._local_tensor = weight._local_tensor[1:].clone()
    torch.save(state, path)


def _other_names(place: Path, mark: Path) -> None:
    torch.save({"visual.weight": torch.zeros(3)}, place / "model_world_size_2_rank_1.pt")


def _no_tokenizer(place: Path, mark: Path) -> None:
    (place / "huggingface" / "tokenizer.json").unlink()


def _no_home(place: Path, mark: Path) -> None:
    shutil.rmtree(place / "huggingface")


def _wider(place: Path, mark: Path) -> None:
    change_config(place, intermediate_size=80)


def _deeper(place: Path, mark: Path) -> None:
    change_config(place, num_hidden_layers=3, layer_types=["full_attention"] * 3)


def _vast(place: Path, mark: Path) -> None:
    change_config(place, vocab_size=10**9)


def _code_of_its_own(place: Path, mark: Path) -> None:
    change_config(place, auto_map={"AutoModelForCausalLM": "mine.Model"})


BROKEN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a rank's file is missing": (_rank_gone, r"model_world_size_2_rank_1\.pt: missing \(1 of 2 ranks are\); copy"),
    "shards of two runs": (_second_world, r"holds shards of 2, 3 ranks; move"),
    "another number of ranks": (_other_world, r"fsdp_config\.json: says world_size 4, and there are shards of 2"),
    "cut short": (_cut_short, r"rank_1\.pt: not the shards of a model, or damaged"),
    "a program": (_of_code, r"rank_1\.pt: not the shards of a model, or damaged \(.*system"),
    "a rank with too little": (_too_little, r"the pieces make \(\d+,.*\) instead of"),
    "other weights in one file": (_other_names, r"rank_1\.pt: has other weights than model_world_size_2_rank_0\.pt"),
    "no tokenizer": (_no_tokenizer, r"huggingface: not a model directory \(tokenizer\.json is missing\)"),
    "no configuration": (_no_home, r"huggingface: no config\.json for these weights"),
    "wider": (_wider, r"is of shape \(64, 32\), and .*config\.json describes \(80, 32\)"),
    "deeper": (_deeper, r"not those that .*config\.json describes \(model\.layers\.2\.\S+ is missing\)"),
    "a vast vocabulary": (_vast, "describes a larger network than the weight files hold"),
    "code of its own": (_code_of_its_own, "auto_map asks to run Python code"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_makes_no_whole_is_refused_in_one_line(case: str, shards: Path, tmp_path: Path) -> None:
    breaking, told = BROKEN[case]
    place, out, mark = tmp_path / "actor", tmp_path / "out", tmp_path / "ran"
    shutil.copytree(shards, place)
    breaking(place, mark)
    with pytest.raises(SodError, match=told) as refused:
        write_merged(str(place), out, pytest.fail)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor"]


def test_a_distributed_checkpoint_runs_nothing_and_must_be_whole(whole: Path, home: Home, tmp_path: Path) -> None:
    place, mark = home(tmp_path / "sharded"), tmp_path / "ran"
    save_distributed({"model": weights_of(whole, tied=True)}, checkpoint_id=str(place), no_dist=True)
    metadata = (place / ".metadata").read_bytes()
    (place / ".metadata").write_bytes(pickle.dumps(_Runs(mark)))
    with pytest.raises(SodError, match=r"\.metadata: not what torch\.distributed\.checkpoint writes.*system"):
        write_merged(str(place), tmp_path / "out", pytest.fail)
    assert not mark.exists()
    (place / ".metadata").write_bytes(metadata)
    (place / "__0_0.distcp").rename(place / "__9_0.distcp")
    with pytest.raises(SodError, match=r"its pieces cannot be read .*; copy the files of all ranks"):
        write_merged(str(place), tmp_path / "out", pytest.fail)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_tied_weights_of_other_numbers_are_refused(whole: Path, home: Home, tmp_path: Path) -> None:
    place = home(tmp_path / "actor")
    state = weights_of(whole, tied=True)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    cut(state, place, (2,))
    with pytest.raises(SodError, match=r"other numbers, and config\.json says that they are one; set tie_word"):
        write_merged(str(place), tmp_path / "out", pytest.fail)
    change_config(place, tie_word_embeddings=False)
    write_merged(str(place), tmp_path / "out", pytest.fail)
    assert_same(weights_of(tmp_path / "out", tied=True), state)
