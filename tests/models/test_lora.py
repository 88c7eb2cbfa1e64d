"""Adapters: what they change and what they leave, on disk and in memory, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sod import hub
from sod.chat.render import Chat
from sod.models.adapters import base_source, same_place
from sod.models.load import load_model, load_tokenizer, save_model, vocabulary_rows
from sod.models.lora import (
    chosen_targets,
    dropping,
    has_adapter,
    merged,
    new_adapter,
    own_weights,
    refuse_other_adapter,
    shared_copy,
    skeleton,
    without_adapter,
)
from sod.models.meter import Cost
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.models.support import Support, limit_to
from sod.objective.batch import TokenBatch
from sod.recipe import LoraSpec, OptimSpec
from sod.records import SodError
from sod.training.optim import Optimizer
from warm import run_warm

ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
Bits = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., Any], chat: Chat) -> Path:
    """The directory of a plain model (never change it)."""
    return saved(random_model(seed=2), chat, tmp_path_factory.mktemp("base") / "base")


def adapted(base: Path, dtype: str = "float32", seed: int = 0, **keys: Any) -> Any:
    """The model in `base` with a new adapter."""
    model = load_model(str(base), dtype)  # type: ignore[arg-type]
    new_adapter(model, LoraSpec(**{"rank": 4, **keys}), seed, str(base))
    return model


def trained(model: Any, batch: TokenBatch, steps: int = 3, seed: int = 0) -> Any:
    """The model after a few updates by the optimizer of a run, with the adapter's dropout."""
    optimizer = Optimizer(model, OptimSpec(lr=1e-2), steps)
    for step in range(1, steps + 1):
        with dropping(model, seed, step):
            (-action_logps(model, batch).sum() / batch.action_tokens()).backward()
            optimizer.accumulate()
        optimizer.step(step)
    return model


def saved(model: Any, chat: Chat, directory: Path) -> Path:
    save_model(model, copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory)
    return directory


def bits(model: Any) -> Bits:
    """Every weight of the base model by its plain name."""
    named = ((n.replace(".base_layer.", "."), p) for n, p in model.named_parameters() if ".lora_" not in n)
    return {name: weight.detach().clone() for name, weight in named}


def assert_equal(one: Bits, other: Bits) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def logps(model: Any, batch: TokenBatch) -> torch.Tensor:
    with torch.no_grad():
        return action_logps(model, batch)


def test_a_new_adapter_changes_nothing_yet(base: Path, random_batch: Any) -> None:
    """To the bit; and it is the same for a seed, another for another."""
    plain, model = load_model(str(base), "float32"), adapted(base)
    assert type(model) is type(plain)
    assert torch.equal(logps(model, random_batch()), logps(plain, random_batch()))
    assert all(torch.equal(a, b) for a, b in zip(own_weights(model), own_weights(adapted(base)), strict=True))
    other = own_weights(adapted(base, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(own_weights(model), other, strict=True))


def test_a_new_adapter_leaves_torch_s_generator_alone(base: Path) -> None:
    before = torch.get_rng_state()
    new_adapter(load_model(str(base), "float32"), LoraSpec(), 0, str(base))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_moves_the_adapter_alone(base: Path, random_batch: Any, dtype: str) -> None:
    """Every base weight is bit for bit what it was; the optimizer holds nothing for them, masters are float32."""
    model = adapted(base, dtype)
    before, start = bits(model), [w.detach().clone() for w in own_weights(model)]
    optimizer = Optimizer(model, OptimSpec(lr=1e-2), 2)
    for step in (1, 2):
        (-action_logps(model, random_batch()).sum()).backward()
        optimizer.accumulate()
        optimizer.step(step)
    assert_equal(bits(model), before)
    assert all(not torch.equal(a, b) for a, b in zip(own_weights(model), start, strict=True))
    assert {weight.dtype for weight in own_weights(model)} == {getattr(torch, dtype)}
    state = optimizer.state()
    held = [tensor for row in state["adamw"]["state"].values() for tensor in row.values() if tensor.dim()]
    assert len(held) == 2 * len(start)
    assert {tensor.dtype for tensor in held} == {torch.float32}
    if dtype == "bfloat16":
        assert [master.shape for master in state["masters"]] == [weight.shape for weight in start]
        assert {master.dtype for master in state["masters"]} == {torch.float32}


def test_gradients_are_those_of_the_whole_matrix_through_its_factors(base: Path, random_batch: Any) -> None:
    """At `W + s B A` the gradient of B is `s G A^T` and that of A `s B^T G`, G being that of a plain matrix there."""
    batch, model = random_batch(), trained(adapted(base, alpha=12), random_batch(seed=5))
    action_logps(model, batch).sum().backward()
    plain = merged(copy.deepcopy(model))
    plain.zero_grad()
    action_logps(plain, batch).sum().backward()
    name, scale = "model.layers.1.mlp.down_proj", 12 / 4
    whole = plain.get_submodule(name).weight.grad
    layer = model.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(b.grad, scale * whole @ a.detach().T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a.grad, scale * b.detach().T @ whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_recomputation_gives_the_same_gradients(base: Path, random_batch: Any, dropout: float) -> None:
    """Through a frozen base, with the dropout of the first forward again in the second."""
    kept, again = (adapted(base, dropout=dropout) for _ in range(2))
    recompute_layers(again)
    for model in (kept, again):
        trained(model, random_batch(), steps=2)
    assert all(torch.equal(a, b) for a, b in zip(own_weights(kept), own_weights(again), strict=True))


class TestDropout:
    """Active in updates alone, and a function of (seed, step)."""

    def test_noise(self, base: Path, random_batch: Any) -> None:
        model, batch = trained(adapted(base, dropout=0.5), random_batch(seed=3)), random_batch()
        still, generator = logps(model, batch), torch.get_rng_state()

        def noisy(seed: int, step: int, between: int = 0) -> list[torch.Tensor]:
            """Two forwards with gradients; those without, before and between them, neither have noise nor take any."""
            with dropping(model, seed, step):
                found = []
                for _ in range(2):
                    assert all(torch.equal(logps(model, batch), still) for _ in range(between))
                    found.append(action_logps(model, batch).detach())
                return found

        first, second = noisy(1, 1)
        assert not torch.equal(first, second)  # micro-batches do not share their noise
        assert not torch.equal(first, still)
        for between in (0, 2):
            assert all(torch.equal(a, b) for a, b in zip(noisy(1, 1, between), (first, second), strict=True))
        assert not torch.equal(noisy(1, 2)[0], first)
        assert not torch.equal(noisy(2, 1)[0], first)
        assert torch.equal(logps(model, batch), still)
        assert torch.equal(torch.get_rng_state(), generator)
        assert not any(module.training for module in model.modules())

    def test_without_dropout_nothing_is_touched(self, base: Path, random_batch: Any) -> None:
        model = adapted(base)
        with dropping(model, 1, 1):
            assert not any(module.training for module in model.modules())


class TestTargets:
    """Which layers get an adapter, found without any weights."""

    @pytest.mark.parametrize(
        ("targets", "layers"),
        [
            (None, 14),
            (["q_proj", "v_proj"], 4),
            (["self_attn.q_proj"], 2),
            (["layers.1.mlp.up_proj"], 1),
            (["model.layers.0.mlp.up_proj"], 1),
        ],
    )
    def test_layers(self, base: Path, targets: list[str] | None, layers: int) -> None:
        model = adapted(base, targets=targets)
        assert len(own_weights(model)) == 2 * layers
        assert sorted(model.peft_config["default"].target_modules) == (targets or ALL)

    @pytest.mark.parametrize(
        ("target", "why"),
        [
            ("w_proj", "'w_proj' matches nothing"),
            ("proj", "'proj' matches nothing"),
            ("lm_head", "'lm_head' is no linear layer of the decoder"),
            ("embed_tokens", "'embed_tokens' is no linear layer of the decoder"),
            ("self_attn", "'self_attn' is no linear layer of the decoder"),
        ],
    )
    def test_refused_before_weights_are_read(self, base: Path, tmp_path: Path, target: str, why: str) -> None:
        """The weights are not even there; one bad name among good ones is enough."""
        shutil.copy(base / "config.json", tmp_path)
        spec = LoraSpec(targets=["q_proj", target])
        with pytest.raises(SodError) as refused:
            chosen_targets(skeleton(str(tmp_path)), spec, str(tmp_path))
        assert str(refused.value) == f"student.lora.targets: {why} in {tmp_path}; it has {', '.join(ALL)}"

    def test_a_skeleton_takes_no_memory(self, base: Path) -> None:
        assert {weight.device.type for weight in skeleton(str(base)).parameters()} == {"meta"}

    @pytest.mark.slow
    def test_matrices_that_lie_the_other_way(self, tmp_path: Path, chat: Chat, random_batch: Any) -> None:
        """GPT-2's Conv1D: adapted, trained, saved, read back and merged."""
        config = GPT2Config(vocab_size=len(chat.tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=128)
        saved(GPT2LMHeadModel(config).eval(), chat, tmp_path / "base")
        model = adapted(tmp_path / "base")
        assert sorted(model.peft_config["default"].target_modules) == ["c_attn", "c_fc", "c_proj"]
        trained(model, random_batch())
        again = load_model(str(saved(model, chat, tmp_path / "adapter")), "float32")
        assert torch.equal(logps(again, random_batch()), logps(model, random_batch()))
        torch.testing.assert_close(
            logps(merged(again), random_batch()), logps(model, random_batch()), rtol=0, atol=1e-5
        )


class TestOnDisk:
    """What is written, and who reads it."""

    @pytest.fixture
    def model(self, base: Path, random_batch: Any) -> Any:
        return trained(adapted(base), random_batch())

    @pytest.fixture
    def directory(self, model: Any, chat: Chat, tmp_path: Path) -> Path:
        return saved(model, chat, tmp_path / "adapter")

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_the_adapter_alone_and_whole(
        self, dtype: str, base: Path, random_batch: Any, chat: Chat, tmp_path: Path
    ) -> None:
        """Read back to the bit; the file holds the adapter's numbers and a header, no base weight."""
        model = trained(adapted(base, dtype), random_batch())
        directory = saved(model, chat, tmp_path / "adapter")
        again = load_model(str(directory), dtype)  # type: ignore[arg-type]
        assert torch.equal(logps(again, random_batch()), logps(model, random_batch()))
        assert_equal(bits(again), bits(load_model(str(base), dtype)))  # type: ignore[arg-type]
        numbers = sum(weight.numel() * weight.itemsize for weight in own_weights(model))
        assert numbers < (directory / "adapter_model.safetensors").stat().st_size < numbers + 6_000
        assert not (directory / "model.safetensors").exists()
        with safe_open(directory / "adapter_model.safetensors", "pt") as file:
            assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in file.keys())  # noqa: SIM118
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == str(base)
        assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8, ALL)

    @pytest.mark.slow
    def test_equal_models_give_equal_files(self, directory: Path, model: Any, chat: Chat, tmp_path: Path) -> None:
        """In another process too: nothing depends on the order of a set."""
        program = (
            "import sys; from pathlib import Path; from sod.models.load import load_model; "
            "from sod.models.lora import save_adapter; "
            "save_adapter(load_model(sys.argv[1], 'float32'), Path(sys.argv[2]))"
        )
        done = run_warm(["-", directory, tmp_path / "again"], program=program)
        assert done.returncode == 0, done.stderr
        for name in ("adapter_model.safetensors", "adapter_config.json", "base_model.sha256"):
            assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()

    def test_tokenizer_template_and_end_go_with_it(self, directory: Path, chat: Chat) -> None:
        tokenizer = load_tokenizer(str(directory))
        assert tokenizer.chat_template == chat.template
        assert tokenizer.get_vocab() == chat.tokenizer.get_vocab()
        assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == chat.end_id
        assert vocabulary_rows(str(directory)) == len(chat.tokenizer)

    def test_an_adapter_without_a_tokenizer_has_its_base_model_s(self, directory: Path, chat: Chat) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (directory / name).unlink()
        assert load_tokenizer(str(directory)).get_vocab() == chat.tokenizer.get_vocab()

    @pytest.mark.slow
    def test_peft_and_transformers_read_it_by_themselves(
        self, directory: Path, base: Path, model: Any, tmp_path: Path
    ) -> None:
        """In a process without any of our code: `PeftModel`, `AutoPeftModel` and `from_pretrained` of the directory."""
        program = """
import sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
assert "sod" not in sys.modules
token_BT = torch.arange(40)[None]
models = [
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter),
    AutoPeftModelForCausalLM.from_pretrained(adapter),
    AutoModelForCausalLM.from_pretrained(adapter),
]
torch.save([model.eval()(token_BT).logits for model in models], out)
"""
        subprocess.run([sys.executable, "-c", program, base, directory, tmp_path / "logits.pt"], check=True)
        with torch.no_grad():
            expected = model(torch.arange(40)[None]).logits
        found = torch.load(tmp_path / "logits.pt", weights_only=True)
        assert len(found) == 3
        for logits in found:
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)

    @pytest.mark.slow
    def test_a_relative_base_is_found_from_elsewhere(
        self, base: Path, chat: Chat, tmp_path: Path, random_batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the working directory first, then from above the adapter, so that a project can be moved as a whole."""
        shutil.copytree(base, tmp_path / "base")
        monkeypatch.chdir(tmp_path)
        model = trained(adapted(Path("base")), random_batch())
        saved(model, chat, Path("runs/a/model"))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert base_source("../runs/a/model").path == str(tmp_path / "base")
        assert torch.equal(
            logps(load_model("../runs/a/model", "float32"), random_batch()), logps(model, random_batch())
        )

    def test_merged(self, directory: Path, base: Path, model: Any, random_batch: Any, tmp_path: Path) -> None:
        """A plain model of the plain names: its logits are those with the adapter within 1e-5."""
        whole = merged(load_model(str(directory), "float32"))
        assert not has_adapter(whole)
        assert [name for name, _ in whole.named_parameters()] == list(bits(load_model(str(base), "float32")))
        assert all(weight.requires_grad for weight in whole.parameters())
        token_BT = torch.arange(50)[None]
        with torch.no_grad():
            torch.testing.assert_close(whole(token_BT).logits, model(token_BT).logits, rtol=0, atol=1e-5)
        gap = (logps(load_model(str(base), "float32"), random_batch()) - logps(model, random_batch())).abs().max()
        assert float(gap) > 1e-2
        whole.save_pretrained(tmp_path / "whole")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
        assert_equal(bits(plain), bits(whole))

    @pytest.mark.slow
    def test_merged_in_bfloat16_rounds_once(self, base: Path, random_batch: Any) -> None:
        model = trained(adapted(base, "bfloat16"), random_batch())
        layer = model.get_submodule("model.layers.0.self_attn.q_proj")
        a, b = (part["default"].weight.detach().double() for part in (layer.lora_A, layer.lora_B))
        exact = layer.base_layer.weight.detach().double() + 2.0 * b @ a
        found = merged(model).get_submodule("model.layers.0.self_attn.q_proj").weight
        assert float((found.double() == exact.to(torch.bfloat16).double()).double().mean()) > 0.999

    def test_an_adapter_of_another_kind_is_not_gone_on_with(self, directory: Path) -> None:
        refuse_other_adapter(str(directory), LoraSpec(rank=4))
        refuse_other_adapter(str(directory), LoraSpec(rank=4, alpha=8, targets=ALL[::-1], dropout=0.3))
        for spec, told in (
            (LoraSpec(rank=8), "r 4 there, 8 here; lora_alpha 8 there, 16 here"),
            (LoraSpec(rank=4, targets=["q_proj"]), f"targets {', '.join(ALL)} there, q_proj here"),
        ):
            with pytest.raises(SodError) as refused:
                refuse_other_adapter(str(directory), spec)
            assert f"student.lora: {directory} holds an adapter of another kind ({told})" in str(refused.value)


def rewritten(directory: Path, **keys: Any) -> str:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}), encoding="utf-8")
    return str(directory)


class TestRefused:
    """Adapters that are not what they say, or more than can be read: one line each, naming the file and the fix."""

    @pytest.fixture
    def directory(self, base: Path, chat: Chat, tmp_path: Path) -> Path:
        return saved(adapted(base), chat, tmp_path / "adapter")

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"base_model_name_or_path": "/gone/model"}, "its base model /gone/model is not there"),
            ({"base_model_name_or_path": None}, "names no base model; set base_model_name_or_path"),
            ({"revision": "v2"}, "wants revision 'v2'"),
            ({"peft_type": "IA3"}, "an adapter of type 'IA3', and only LORA"),
            ({"use_dora": True}, "use_dora makes it more than a plain low-rank adapter; merge it"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save makes it more"),
            ({"megatron_config": {"a": 1}}, "megatron_config makes it more"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights makes it more"),
            ({"from_the_future": {"on": True}}, "from_the_future makes it more"),
            ({"target_modules": ["w_proj"]}, "peft cannot use it"),
            ({"r": "four"}, "peft cannot use it"),
            ({"r": 2}, "adapter_model.safetensors: is not the adapter"),
            ({"target_modules": ["q_proj"]}, "adapter_model.safetensors: is not the adapter"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_a_config(self, directory: Path, keys: dict[str, Any], message: str) -> None:
        with pytest.raises(SodError, match=message) as refused:
            load_model(rewritten(directory, **keys), "float32")
        assert str(directory) in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_setting_of_a_later_peft_that_is_not_used_is_no_trouble(self, directory: Path) -> None:
        assert has_adapter(load_model(rewritten(directory, from_the_future=None, use_more=False), "float32"))

    def test_an_adapter_of_an_adapter(self, directory: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        for path in directory.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        with pytest.raises(SodError, match=r"its base model .*adapter is an adapter itself; merge that"):
            load_model(rewritten(other, base_model_name_or_path=str(directory)), "float32")

    def test_weights_that_are_gone_cut_or_others(self, directory: Path) -> None:
        path = directory / "adapter_model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-10])
        with pytest.raises(SodError, match=r"adapter_model.safetensors: cannot be read"):
            load_model(str(directory), "float32")
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(SodError, match=r"is not the adapter of .* that adapter_config.json describes"):
            load_model(str(directory), "float32")
        path.unlink()
        with pytest.raises(SodError, match=r"an adapter without adapter_model.safetensors"):
            load_model(str(directory), "float32")

    @pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
    def test_another_base_model_at_the_same_place(
        self, directory: Path, base: Path, random_model: Any, chat: Chat, tmp_path: Path, dtype: Any
    ) -> None:
        """Trained anew, it would take the adapter without a word; in either precision the right one is known."""
        place = tmp_path / "place"
        shutil.copytree(base, place)
        path = rewritten(directory, base_model_name_or_path=str(place))
        assert has_adapter(load_model(path, dtype))
        saved(random_model(seed=9), chat, place)
        with pytest.raises(SodError, match=f"{directory}: was trained on other weights than {place} has now"):
            load_model(path, dtype)

    def test_a_whole_model_beside_the_adapter_is_not_taken_for_it(
        self, directory: Path, base: Path, random_model: Callable[..., Any], random_batch: Any
    ) -> None:
        """What `adapter_config.json` names is what is read, and told where it is not there."""
        random_model(seed=9).save_pretrained(directory)
        assert_equal(bits(load_model(str(directory), "float32")), bits(load_model(str(base), "float32")))
        with pytest.raises(SodError, match="its base model /gone is not there"):
            load_model(rewritten(directory, base_model_name_or_path="/gone"), "float32")

    def test_an_adapter_on_the_hub(
        self, directory: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fetched before, asked for by its id: transformers would load what its config names."""
        snapshot = tmp_path / "cache" / "models--owner--name" / "snapshots" / ("0" * 40)
        shutil.copytree(directory, snapshot)
        shutil.copy(base / "config.json", snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40, encoding="utf-8")
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(SodError, match=r"owner/name: an adapter on the hub; fetch it \(hf download owner/name\)"):
            load_model("owner/name", "float32")

    def test_without_peft(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sod.models.adapters.find_spec", lambda name: None)
        with pytest.raises(SodError, match=r"adapters need the package peft.*pip install 'sod-distill\[lora\]'"):
            load_model(str(directory), "float32")


class TestSharedCopies:
    """A second model over the same weights in memory."""

    def test_one_set_of_base_weights(self, base: Path, random_batch: Any) -> None:
        """The copy shares every base weight, no adapter weight, and stays where it was to the bit."""
        model = trained(adapted(base), random_batch(seed=4))
        start, before = shared_copy(model), logps(model, random_batch())
        mine = {id(weight) for weight in model.parameters()}
        shared = [name for name, weight in start.named_parameters() if id(weight) in mine]
        assert shared == [name for name, _ in model.named_parameters() if ".lora_" not in name]
        assert not any(weight.requires_grad for weight in start.parameters())
        assert all(weight.requires_grad for weight in own_weights(model))
        trained(model, random_batch())
        assert torch.equal(logps(start, random_batch()), before)
        assert not torch.equal(logps(model, random_batch()), before)

    def test_without_the_adapter_it_is_the_base_model_to_the_bit(self, base: Path, random_batch: Any) -> None:
        model = trained(adapted(base), random_batch(seed=4))
        plain = without_adapter(shared_copy(model))
        separate = load_model(str(base), "float32")
        assert not has_adapter(plain)
        assert torch.equal(logps(plain, random_batch()), logps(separate, random_batch()))
        assert has_adapter(model)
        assert {id(w) for w in plain.parameters()} < {id(w) for w in model.parameters()}

    def test_rows_without_a_token_stay_left_out(self, base: Path, random_batch: Any, chat: Chat) -> None:
        """A limited output embedding is shared and limits both."""
        model = load_model(str(base), "float32")
        limit_to(model, Support(len(chat.tokenizer), holes=(5, 17)), "here")
        new_adapter(model, LoraSpec(rank=2), 0, str(base))
        plain = without_adapter(shared_copy(model))
        for each in (model, plain):
            with torch.no_grad():
                logits = each(torch.arange(9)[None]).logits
            assert bool(logits[..., [5, 17]].isinf().all())
            assert int(logits.isinf().sum()) == 18


def test_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    assert same_place("a", "b")
    assert same_place("org/model", "org/model")
    assert not same_place("org/model", "org/other")
    assert not same_place("a", ".")


def test_what_an_adapter_costs(base: Path, random_batch: Any) -> None:
    """Its own two products per layer more; frozen weights get no gradient, and the optimizer moves the adapter's."""
    plain, model, batch = load_model(str(base), "float32"), adapted(base), random_batch()
    own = sum(weight.numel() for weight in own_weights(model))
    whole, cost = Cost.of(plain), Cost.of(model)
    assert (cost.layer_weights, cost.head_weights) == (whole.layer_weights + own, whole.head_weights)
    assert (whole.trained, cost.trained) == (whole.weights, own)
    tokens, actions = int(batch.length_B.sum()), batch.action_tokens()
    pairs = cost.scoring(batch) - 2.0 * (cost.layer_weights * tokens + cost.head_weights * actions)
    # Activations' gradients through every weight, weights' gradients of the adapter alone, the projection once more.
    expected = 2.0 * (cost.layer_weights + own) * tokens + 2 * pairs + 4.0 * cost.head_weights * actions
    assert cost.backward(batch) == pytest.approx(expected)
