"""Merging what users have: other trainers' directories, names from within wrappers, files mixed up, settings that lie.

Each case is small and made by hand; those of torch's own FSDP are in `tests/cli/test_merge_command.py`.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_kit import Weights, assert_same, change_config, cut, put_home, weights_of
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from sod.build.merging import write_merged
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.records import SodError
from sod.training.checkpoint import Position, save

WORLD = 2
SCALE = {"r": 2, "lora_alpha": 6}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., Any], chat: Chat) -> Path:
    """A plain model directory (never change it)."""
    directory = tmp_path_factory.mktemp("whole") / "model"
    save_model(random_model(seed=4), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory)
    return directory


@pytest.fixture(scope="module")
def state(whole: Path) -> Weights:
    """Its weights (never change them)."""
    return weights_of(whole, tied=True)


@pytest.fixture(scope="module")
def shards(whole: Path, state: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the shards of two ranks, whose rows divide evenly by two (never change them)."""
    place = put_home(whole, tmp_path_factory.mktemp("shards") / "actor")
    cut(state, place, (WORLD,))
    return place


def rank_file(place: Path, rank: int) -> Path:
    return place / f"model_world_size_{WORLD}_rank_{rank}.pt"


def each_rank(place: Path, change: Callable[[dict[str, Any]], dict[str, Any]], **how: Any) -> None:
    """Save anew what every rank saved, changed."""
    for rank in range(WORLD):
        path = rank_file(place, rank)
        torch.save(change(torch.load(path, weights_only=False)), path, **how)


def renamed(rename: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda place: each_rank(place, lambda saved: {rename(name): weight for name, weight in saved.items()})


def _swapped(place: Path) -> None:
    rank_file(place, 0).rename(place / "kept")
    rank_file(place, 1).rename(rank_file(place, 0))
    (place / "kept").rename(rank_file(place, 1))


def _older_than_zip(place: Path) -> None:
    each_rank(place, dict, _use_new_zipfile_serialization=False)


def _sampled_without_sampling(place: Path) -> None:
    (place / "huggingface" / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": false}')


def _home_is_the_place(place: Path) -> None:
    for file in (place / "huggingface").iterdir():
        file.rename(place / file.name)
    (place / "huggingface").rmdir()
    (place / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": WORLD}))


LAYER = "layers.0."
UNDERSTOOD: dict[str, Callable[[Path], None]] = {
    "compiled": renamed(lambda name: f"_orig_mod.{name}"),
    "distributed": renamed(lambda name: f"module.{name}"),
    "wrapped": renamed(lambda name: f"_fsdp_wrapped_module._orig_mod.module.{name}"),
    "layers that are recomputed": renamed(lambda name: name.replace(LAYER, f"{LAYER}_checkpoint_wrapped_module.")),
    "files under each other's names": _swapped,
    "the file format before zip": _older_than_zip,
    "a class that fully_shard made": lambda place: change_config(place, architectures=["FSDPQwen3ForCausalLM"]),
    "generation settings that contradict": _sampled_without_sampling,
    "no folder huggingface": _home_is_the_place,
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_shards_as_they_are_left_give_the_same_weights(case: str, shards: Path, state: Weights, tmp_path: Path) -> None:
    place, out = tmp_path / "actor", tmp_path / "out"
    shutil.copytree(shards, place)
    UNDERSTOOD[case](place)
    write_merged(str(place), out, pytest.fail)
    assert_same(weights_of(out, tied=True), state)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert not (out / "fsdp_config.json").exists()


def _copied_rank(place: Path) -> None:
    shutil.copy(rank_file(place, 0), rank_file(place, 1))


def _other_precision(place: Path) -> None:
    path = rank_file(place, 1)
    saved = torch.load(path, weights_only=False)
    for weight in saved.values():
        weight._local_tensor = weight._local_tensor.bfloat16()
    torch.save(saved, path)


def _pointer(place: Path) -> None:
    rank_file(place, 1).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def _critic(place: Path) -> None:
    each_rank(place, lambda saved: {**saved, "score.weight": torch.zeros(1, 32)})


def _value_head(place: Path) -> None:
    renamed(lambda name: f"pretrained_model.{name}")(place)


def _bad_generation(place: Path) -> None:
    (place / "huggingface" / "generation_config.json").write_text("{")


def _misnamed(place: Path) -> None:
    renamed(lambda name: name.replace("mlp", "ffn"))(place)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a rank's file under two names": (_copied_rank, r"embed_tokens\.weight: the pieces make .* instead of"),
    "ranks of two precisions": (_other_precision, r"the ranks disagree about it; their files are of different saves"),
    "an empty file": (lambda place: rank_file(place, 1).write_bytes(b"") and None, r"rank_1\.pt: .*\(it is empty\)"),
    "a pointer of git-lfs": (_pointer, r"rank_1\.pt: .*git lfs pull fetches it"),
    "a critic": (_critic, r"actor: a critic \(score\.weight\).*; name the actor's directory"),
    "a critic with a value head": (_value_head, r"actor: a critic \(pretrained_model\."),
    "broken generation settings": (_bad_generation, r"generation_config\.json: cut short or not JSON"),
    "one name for the architecture": (
        lambda place: change_config(place, architectures="Qwen3ForCausalLM"),
        r"config\.json: architectures is not a list",
    ),
    "other names": (_misnamed, r"its weights are not those that"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shards_that_would_merge_wrongly_are_refused_in_one_line(
    case: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    breaking, told = REFUSED[case]
    place, out = tmp_path / "actor", tmp_path / "out"
    shutil.copytree(shards, place)
    breaking(place)
    theirs = logging.getLogger("transformers")
    theirs.addHandler(caplog.handler)
    try:
        with pytest.raises(SodError, match=told) as refused:
            write_merged(str(place), out, pytest.fail)
    finally:
        theirs.removeHandler(caplog.handler)
    assert "\n" not in str(refused.value)
    assert "UNEXPECTED" not in caplog.text
    assert not out.exists()


def with_adapter(state: Weights) -> Weights:
    """The state dict of the model in peft's wrapper, with an adapter of one layer."""
    layer, wrapped = "model.layers.0.mlp.up_proj", {f"base_model.model.{name}": w for name, w in state.items()}
    base = wrapped.pop(f"base_model.model.{layer}.weight")
    wrapped[f"base_model.model.{layer}.base_layer.weight"] = base.clone()
    wrapped[f"base_model.model.{layer}.lora_A.default.weight"] = torch.full((2, base.shape[1]), 0.5)
    wrapped[f"base_model.model.{layer}.lora_B.default.weight"] = torch.full((base.shape[0], 2), 0.25)
    return wrapped


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 8, "lora_alpha": 24}, r"says r 8, and .*up_proj has an adapter of rank 2"),
        ({**SCALE, "alpha_pattern": {"up_proj": 64}}, "alpha_pattern makes it more than a plain low-rank adapter"),
        ({**SCALE, "fan_in_fan_out": True}, "fan_in_fan_out makes it more"),
    ],
)
def test_an_adapter_is_not_added_by_a_scale_of_another(
    settings: dict[str, Any], told: str, whole: Path, state: Weights, tmp_path: Path
) -> None:
    place = put_home(whole, tmp_path / "actor")
    cut(with_adapter(state), place, (WORLD,))
    (place / "lora_train_meta.json").write_text(json.dumps(settings))
    with pytest.raises(SodError, match=rf"lora_train_meta\.json: {told}"):
        write_merged(str(place), tmp_path / "out", pytest.fail)


def test_the_folder_of_a_run_means_the_checkpoint_that_it_names(shards: Path, state: Weights, tmp_path: Path) -> None:
    run, told = tmp_path / "run", []
    for step in (9, 100):
        shutil.copytree(shards, run / f"global_step_{step}" / "actor")
    with pytest.raises(SodError, match=r"name the one to merge, e\.g\. .*global_step_100/actor$"):
        write_merged(str(run), tmp_path / "out", pytest.fail)
    _misnamed(run / "global_step_100" / "actor")  # being written, say
    (run / "latest_checkpointed_iteration.txt").write_text("9\n")
    write_merged(str(run), tmp_path / "out", told.append)
    assert_same(weights_of(tmp_path / "out", tied=True), state)
    assert told == [
        f"{run}: its newest checkpoint is taken, as latest_checkpointed_iteration.txt says: {run}/global_step_9"
    ]
    (run / "latest_checkpointed_iteration.txt").write_text("12")
    with pytest.raises(SodError, match=r"iteration\.txt: names global_step_12, which is not there; name the one"):
        write_merged(str(run), tmp_path / "more", pytest.fail)


def test_config_json_keeps_the_words_of_the_version_that_wrote_it(shards: Path, tmp_path: Path) -> None:
    """An earlier transformers knows nothing of `rope_parameters`, and would take the default for `rope_theta`."""
    place, out = tmp_path / "actor", tmp_path / "out"
    shutil.copytree(shards, place)
    path = place / "huggingface" / "config.json"
    then = json.loads(path.read_text())
    then |= {"rope_theta": then.pop("rope_parameters")["rope_theta"], "torch_dtype": "float32"}
    then |= {"transformers_version": "4.51.3"}
    del then["dtype"]
    path.write_text(json.dumps(then))
    write_merged(str(place), out, pytest.fail, "bfloat16")
    assert json.loads((out / "config.json").read_text()) == then | {"torch_dtype": "bfloat16"}
    assert {weight.dtype for weight in weights_of(out).values()} == {torch.bfloat16}


# --- torch.distributed.checkpoint ------------------------------------------------------------------


def saved(content: dict[str, Any], place: Path, whole: Path | None = None) -> Path:
    """Saved at `place`, with the model's configuration above where it is given."""
    save_distributed(content, checkpoint_id=str(place), no_dist=True)
    if whole is not None:
        shutil.copytree(whole, place.parent, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return place.parent


def _of_trl(state: Weights, place: Path, whole: Path) -> Path:
    """As accelerate writes it, the configuration in the folder of the run."""
    checkpoint = saved({"model": state}, place / "checkpoint-10" / "pytorch_model_fsdp_0")
    saved({"optim": {"state": {name: w + 1 for name, w in state.items()}}}, checkpoint / "optimizer_0")
    (checkpoint / "trainer_state.json").write_text("{}")
    shutil.copytree(whole, place, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return checkpoint


def _with_settings_beside(state: Weights, place: Path, whole: Path) -> Path:
    """An adapter that changes nothing, and of peft only its settings."""
    wrapped = with_adapter(state)
    changed = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in wrapped.items()}
    saved({"model": changed}, place / "pytorch_model_fsdp_0", whole)
    (place / "adapter_config.json").write_text(json.dumps({**SCALE, "peft_type": "LORA"}))
    return place


def _wrapped(state: Weights, place: Path, whole: Path) -> Path:
    names = {name: name.replace(LAYER, f"{LAYER}_orig_mod._checkpoint_wrapped_module.") for name in state}
    return saved({f"_fsdp_wrapped_module.{names[name]}": w for name, w in state.items()}, place / "step-1", whole)


def _with_a_reference(state: Weights, place: Path, whole: Path) -> Path:
    other = {name: weight + 1 for name, weight in state.items()}
    return saved({"ref_model": other, "model": state, "step": 3}, place / "step-1", whole)


@pytest.mark.parametrize("write", [_of_trl, _with_settings_beside, _wrapped, _with_a_reference])
def test_distributed_checkpoints_of_others_give_the_same_weights(
    write: Callable[..., Path], whole: Path, state: Weights, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_merged(str(write(state, tmp_path / "run", whole)), out, pytest.fail)
    assert_same(weights_of(out, tied=True), state)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def _two_models(state: Weights, place: Path, whole: Path) -> None:
    other = {name: weight + 1 for name, weight in state.items()}
    saved({"critic": other, "policy": state}, place / "step-1", whole)


def _adapter_alone(state: Weights, place: Path, whole: Path) -> None:
    alone = {name: weight for name, weight in with_adapter(state).items() if ".lora_" in name}
    saved({"model": alone}, place / "pytorch_model_fsdp_0", whole)


def _pieces_that_are_not_told(state: Weights, place: Path, whole: Path) -> None:
    saved({"model": state}, place / "step-1", whole)
    path = place / "step-1" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    metadata.state_dict_metadata["model.model.norm.weight"].chunks.clear()
    path.write_bytes(pickle.dumps(metadata))


def _without_description(state: Weights, place: Path, whole: Path) -> None:
    saved({"model": state}, place / "step-1", whole)
    (place / "step-1" / ".metadata").unlink()


def _of_titan(state: Weights, place: Path, whole: Path) -> None:
    saved(
        {"tok_embeddings.weight": state["model.embed_tokens.weight"], "norm.weight": torch.ones(32)}, place / "step-1"
    )


def _of_megatron(state: Weights, place: Path, whole: Path) -> None:
    pieces = place / "actor" / "dist_ckpt"
    saved({"decoder.layers.mlp.linear_fc1.weight": torch.ones(3)}, pieces)
    (pieces / "common.pt").write_bytes(b"")
    put_home(whole, place / "actor")


def _of_deepspeed(state: Weights, place: Path, whole: Path) -> None:
    (place / "global_step5").mkdir(parents=True)
    (place / "global_step5" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"")
    (place / "zero_to_fp32.py").write_text("")
    shutil.copy(whole / "config.json", place)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (_two_models, r"holds several models, at 'critic\.' and 'policy\.'"),
        (_adapter_alone, r"holds an adapter alone \(model\.base_model\..*lora_.*; save it with peft's"),
        (_pieces_that_are_not_told, r"\.metadata: knows of 0 of the 32 numbers of model\.model\.norm\.weight"),
        (_without_description, r"step-1/__0_0\.distcp is there, and no \.metadata beside it"),
        (_of_titan, r"weights under torchtitan's names \(tok_embeddings\.weight\)"),
        (_of_megatron, r"a checkpoint of Megatron \(actor/dist_ckpt\), which is not merged here"),
        (_of_deepspeed, r"shards of DeepSpeed \(zero_to_fp32\.py\), which are not merged here"),
    ],
)
def test_what_cannot_be_merged_is_named(
    write: Callable[..., None], told: str, whole: Path, state: Weights, tmp_path: Path
) -> None:
    write(state, tmp_path / "run", whole)
    with pytest.raises(SodError, match=told) as refused:
        write_merged(str(tmp_path / "run"), tmp_path / "out", pytest.fail)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


# --- our own runs ----------------------------------------------------------------------------------


def checkpoint(run: Path, step: int, whole: Path, state: Weights) -> Path:
    """A checkpoint as ranks write it, in pieces beside the whole model."""
    place = run / "checkpoints" / f"step-{step:06}"
    pieces = {f"weight/{name}": weight for name, weight in state.items()}

    def write_model(directory: Path) -> None:
        shutil.copytree(whole, directory, dirs_exist_ok=True)

    place.parent.mkdir(parents=True, exist_ok=True)
    save(place, Position(step, "hash"), {}, write_model, lambda made: saved(pieces, made / "shards") and None)
    return place


def test_the_pieces_of_a_checkpoint_are_merged_where_it_is_whole(whole: Path, state: Weights, tmp_path: Path) -> None:
    place = checkpoint(tmp_path / "run", 2, whole, state)
    write_merged(str(place / "shards"), tmp_path / "out", pytest.fail)
    assert_same(weights_of(tmp_path / "out", tied=True), state)
    path = place / "shards" / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK") + 3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(SodError, match=r"shards/__0_0\.distcp has changed since it was written"):
        write_merged(str(place / "shards"), tmp_path / "more", pytest.fail)


def test_a_checkpoint_that_the_run_removes_meanwhile_is_told(whole: Path, state: Weights, tmp_path: Path) -> None:
    """The newest is broken, which is told as the one before it is chosen; that goes at this moment."""
    run = tmp_path / "run"
    before, newest = (checkpoint(run, step, whole, state) for step in (2, 4))
    (run / "recipe.yaml").write_text("{}")
    (run / "manifest.json").write_text("{}")
    (newest / "COMPLETE.json").unlink()
    with pytest.raises(
        SodError, match=r"step-000002/model: was removed before it was copied.*; give the command again"
    ):
        write_merged(str(run), tmp_path / "out", lambda told: shutil.rmtree(before))
    assert not (tmp_path / "out").exists()
