"""What is told of a run that does not fit: settings that do make it fit, each tried again here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sod.alignment import estimators
from sod.build.recipe import read_recipe
from sod.models.attention import NAME as ATTENTION
from sod.models.forward import packs
from sod.models.recompute import recompute_layers
from sod.models.score import CUDA_ROWS, action_logps, chunk_rows
from sod.preflight.advice import advised, beyond
from sod.preflight.crossing import Crossing, rendered
from sod.preflight.devices import _of_groups, free_bytes
from sod.preflight.estimate import estimated, readable
from sod.preflight.models import Micro, Planned, Pull, on_cuda, update_of, with_own_key_heads
from sod.preflight.parts import SAMPLING, UPDATE, Estimate
from sod.preflight.rehearsal import Sizes, Tally, update_sizes
from sod.preflight.words import part_rows, peak_text, shortage_text
from sod.recipe import Recipe, TeacherSpec
from sod.recipe.keys.model import ModelSpec
from sod.training.optim import Optimizer
from sod.training.spans import span_terms

MIB = 2**20


@pytest.fixture
def planned(deep_recipe: Path) -> Callable[..., Recipe]:
    """`planned(*overrides)`: a recipe ready to be estimated."""

    def read(*overrides: str) -> Recipe:
        return readable(read_recipe(deep_recipe, overrides, print), False, print)

    return read


def real_model(planned: Planned) -> Any:
    """The planned model with weights."""
    model: Any = AutoModelForCausalLM.from_config(planned.config, dtype=planned.dtype).eval()
    model.set_attn_implementation(ATTENTION)
    if planned.recompute:
        recompute_layers(model)
    return model


@pytest.mark.parametrize(
    ("dtype", "recompute"),
    [
        ("float32", False),
        pytest.param("float32", True, marks=pytest.mark.slow),
        pytest.param("bfloat16", False, marks=pytest.mark.slow),
        pytest.param("bfloat16", True, marks=pytest.mark.slow),
    ],
)
def test_a_rehearsal_takes_what_the_real_pass_takes(
    dtype: Any, recompute: bool, make_model: Callable[..., str]
) -> None:
    """A model of more layers, with real tensors, of which the bytes are counted as they come and go."""
    planned = Planned(ModelSpec(path=make_model("one", "qwen3", 5, 64, 96), dtype=dtype), recompute)
    model, micro = real_model(planned), Micro(2, 64)
    if dtype == "float32":
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
    with Tally() as tally:
        value = action_logps(model, micro.batch(126)).sum()
        kept = tally.now
        value.backward()
    sizes = update_of(planned, micro, accumulated=True)
    assert (sizes.kept, sizes.most) == pytest.approx((kept, tally.lap()), rel=0.02)


@pytest.mark.parametrize("ratio", [1.0, pytest.param(1.4, marks=pytest.mark.slow)])
def test_a_loss_over_spans_takes_what_the_real_pass_takes(ratio: float, make_model: Callable[..., str]) -> None:
    """Of two vocabularies, with every action token of real models, where a rehearsal has a few chunks of them."""
    shapes = {"student": (5, 64, 96), "teacher": (3, 96, 64)}
    student, teacher = (Planned(ModelSpec(path=make_model(name, "qwen3", *shape))) for name, shape in shapes.items())
    shared_C = torch.arange(3000)
    measure = partial(estimators.simct, shared_student_C=shared_C, shared_teacher_C=shared_C)
    crossing, micro = Crossing(ratio, measure=measure), Micro(8, 1200)
    model, reader = real_model(student), real_model(teacher)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    with Tally() as tally:
        logp_BT, value_BT = span_terms(model, reader, rendered(micro.batch(micro.tokens), crossing), measure)
        kept = tally.now
        (logp_BT.sum() + value_BT.sum()).backward()
    sizes = update_of(student, micro, True, Pull(teacher, crossing=crossing))
    assert (sizes.kept, sizes.most) == pytest.approx((kept, tally.lap()), rel=0.03)


def test_what_autograd_keeps(make_model: Callable[..., str]) -> None:
    """Counted on a real model of more layers than the rehearsal has, by the hooks through which all that is kept goes.

    What autograd keeps of weights is no activation; tensors that are views of one another are kept once.
    """
    planned = Planned(ModelSpec(path=make_model("one", "qwen3", 5, 64, 96)))
    model, token_BT = real_model(planned), torch.zeros(2, 64, dtype=torch.int64)

    def loss(each: Any) -> Tensor:
        hidden_BTD: Tensor = each.get_decoder()(input_ids=token_BT, use_cache=False).last_hidden_state
        return hidden_BTD.sum()

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(model)
    sizes = update_sizes(planned.fake, planned.layers, loss, accumulated=False)
    # All of that is alive when the loss is known, and nothing else; token ids were there before.
    assert sizes.kept == pytest.approx(sum(kept.values()), rel=0.001)
    value.backward()


@pytest.mark.slow
def test_static_parts_are_what_the_optimizer_holds(planned: Callable[..., Recipe]) -> None:
    """Of a bfloat16 model: its weights, masters and both moments, to the byte."""
    recipe = planned("student.dtype=bfloat16")
    model: Any = AutoModelForCausalLM.from_pretrained(recipe.student.path, dtype=torch.bfloat16)
    optimizer = Optimizer(model, recipe.optim, 1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.accumulate()
    optimizer.step(1)
    state = optimizer.state()
    parts = {part.name: part.bytes for part in estimated(recipe).parts}
    assert parts["student: weights"] == sum(p.nbytes for p in model.parameters())
    assert parts["student: float32 masters"] == sum(master.nbytes for master in state["masters"])
    moments = [row[name] for row in state["adamw"]["state"].values() for name in ("exp_avg", "exp_avg_sq")]
    assert parts["student: moments"] == sum(moment.nbytes for moment in moments)


@pytest.mark.slow
def test_one_key_makes_it_fit(planned: Callable[..., Recipe]) -> None:
    """Of each key the largest value that fits: twice as much does not."""
    recipe = planned()
    whole = estimated(recipe)
    assert whole.peak("cpu").phase == UPDATE
    free = {"cpu": whole.peak("cpu").bytes * 2 // 3}
    assert beyond(whole, free) > 0
    advice = {key: value for each in advised(recipe, False, free) for key, value in each.settings.items()}
    assert {"optim.micro_batch_tokens", "optim.recompute"} <= advice.keys()
    for key, value in advice.items():
        assert beyond(estimated(planned(f"{key}={str(value).lower()}")), free) == 0, key
    twice = 2 * advice["optim.micro_batch_tokens"]
    assert beyond(estimated(planned(f"optim.micro_batch_tokens={twice}")), free) > 0


@pytest.mark.slow
def test_several_keys_where_one_is_not_enough(planned: Callable[..., Recipe]) -> None:
    recipe = planned()
    alone = ("optim.micro_batch_tokens=1", "optim.recompute=true", "rollout.max_rows=1")
    free = {"cpu": min(estimated(planned(setting)).peak("cpu").bytes for setting in alone) - MIB // 4}
    (together,) = advised(recipe, False, free)
    settings = [f"{key}={str(value).lower()}" for key, value in together.settings.items()]
    assert len(settings) > 1
    assert beyond(estimated(planned(*settings)), free) == 0
    assert advised(recipe, False, {"cpu": MIB}) == []


@pytest.mark.slow
def test_fewer_rows_where_sampling_is_the_peak(planned: Callable[..., Recipe]) -> None:
    recipe = planned("optim.micro_batch_tokens=64", "optim.recompute=true", "rollout.samples=64")
    whole = estimated(recipe)
    assert whole.peak("cpu").phase == SAMPLING
    advice = advised(recipe, False, {"cpu": whole.peak("cpu").bytes // 2})
    assert any("rollout.max_rows" in each.settings for each in advice)


@pytest.mark.slow
def test_sft_has_keys_of_its_own(planned: Callable[..., Recipe]) -> None:
    """No engine and no teacher; the optimizer is that of the section `sft`."""
    recipe = planned("sft.optim.micro_batch_tokens=8192", "sft.max_tokens=1024")
    whole = estimated(recipe, sft=True)
    assert whole.phases == [UPDATE]
    assert not [part.name for part in whole.parts if "teacher" in part.name or "engine" in part.name]
    advice = advised(recipe, True, {"cpu": whole.peak("cpu").bytes * 2 // 3})
    assert {key for each in advice for key in each.settings} >= {"sft.optim.micro_batch_tokens", "sft.optim.recompute"}


def test_words(planned: Callable[..., Recipe]) -> None:
    """The sums of the table are the peak of the line; a notice only where it does not fit."""
    whole: Estimate = estimated(planned())
    rows = part_rows(whole, "cpu")
    assert rows[-1][0] == "in all"
    assert f"about {rows[-1][3]} of 4.00 GiB free at its peak, in the update" == peak_text(whole, {"cpu": 4 << 30})
    assert shortage_text(whole, {"cpu": 4 << 30}) is None
    assert "`sod plan RECIPE`" in str(shortage_text(whole, {"cpu": MIB}))


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups(version: int, tmp_path: Path) -> None:
    """The tightest of our group and those around it counts; `max` is none; pages of files can be given up."""
    top = tmp_path / "memory" if version == 1 else tmp_path
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
    limit, used, reclaimable = names.get(version, ("memory.max", "memory.current", "inactive_file"))
    inner = top / "outer" / "inner"
    inner.mkdir(parents=True)
    for group, most in ((inner, "max"), (inner.parent, str(900 * MIB)), (top, str(5000 * MIB))):
        (group / limit).write_text(f"{most}\n")
        (group / used).write_text(f"{300 * MIB}\n")
        (group / "memory.stat").write_text(f"anon 5\n{reclaimable} {100 * MIB}\n")
    mine = tmp_path / "mine"
    mine.write_text("3:cpu:/x\n4:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n")
    assert min(_of_groups(tmp_path, mine)) == 700 * MIB
    assert 0 < free_bytes("cpu") < 2**50


@pytest.mark.slow
def test_an_adapter_is_all_that_is_trained(planned: Callable[..., Recipe]) -> None:
    """Moments and gradients are those of the adapter; a teacher of other weights still takes its own."""
    whole, adapted = (
        {part.name: part.bytes for part in estimated(planned(*lora)).parts} for lora in ((), ("student.lora.rank=4",))
    )
    assert adapted["student: moments"] == 2 * (adapted["student: weights"] - whole["student: weights"])
    assert adapted["gradients"] == adapted["student: moments"] // 2
    assert adapted["teacher: weights"] == whole["teacher: weights"]


def test_a_teacher_over_the_adapters_weights_takes_none(planned: Callable[..., Recipe]) -> None:
    recipe = planned("student.lora.rank=4")
    alike = recipe.model_copy(update={"teacher": TeacherSpec(path=recipe.student.path)})
    assert "teacher: weights" not in [part.name for part in estimated(alike).parts]


def test_what_cuda_changes(planned: Callable[..., Recipe]) -> None:
    """Compiled layers keep less; larger chunks of the projection take more; what the pass takes else stays."""
    student, sizes = Planned(planned().student.whole), Sizes(kept=1000 * MIB, most=1200 * MIB)
    chunk = on_cuda(sizes, student, compiled=False, pull=None).most - sizes.most
    rows = CUDA_ROWS - chunk_rows(student.fake(1))
    assert chunk == 16 * rows * student.config.vocab_size
    compiled = on_cuda(sizes, student, compiled=True, pull=None)
    assert 600 * MIB < compiled.kept < 640 * MIB
    assert compiled.most - compiled.kept == 200 * MIB + chunk


def test_on_cuda_float32_has_a_key_head_for_each_query_head(planned: Callable[..., Recipe]) -> None:
    """As many bytes more as keys and values have in four more heads, for every layer; in bfloat16 none."""
    sizes, micro = Sizes(kept=1000 * MIB, most=1200 * MIB), Micro(3, 100)
    for settings, layers_kept in (((), 4), (("optim.recompute=true",), 0)):
        recipe = planned(*settings)
        student = Planned(recipe.student.whole, recipe.optim.recompute)
        more = 2 * 300 * 4 * student.config.head_dim * 4
        found = with_own_key_heads(sizes, student, micro)
        assert found == Sizes(sizes.kept + layers_kept * more, sizes.most + max(1, layers_kept) * more)
    assert with_own_key_heads(sizes, Planned(planned("student.dtype=bfloat16").student.whole), micro) == sizes


def test_prompts_that_rows_share_count_once(make_model: Callable[..., str]) -> None:
    """On a CPU they are run once; held against a real pass."""
    planned, micro = Planned(ModelSpec(path=make_model("one", "qwen3", 4, 64, 96))), Micro(6, 60, 48, 2)
    model = real_model(planned)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    assert packs(model)
    with Tally() as tally:
        value = action_logps(model, micro.batch(micro.actions)).sum()
        kept = tally.now
        value.backward()
    sizes = update_of(planned, micro, accumulated=True)
    assert (sizes.kept, sizes.most) == pytest.approx((kept, tally.lap()), rel=0.03)
    apart = update_of(planned, Micro(6, 60, 48), accumulated=True)
    assert sizes.kept < 0.7 * apart.kept


def test_the_largest_micro_batches_of_episodes() -> None:
    """Longest prompts, or prompts so short that more rows fit: those have more tokens of the student's own."""
    assert Micro.played(4096, 88, 400, 4, 1) == [Micro(4, 488, 88, 1)]
    longest, shortest = Micro.played(4096, 600, 400, 8, 8)
    assert (longest.rows, longest.actions) == (4, 4 * 424)
    assert (shortest.rows, shortest.context, shortest.actions) == (8, 112, 8 * 400)
    assert [micro.rows for micro in Micro.played(300, 600, 400, 8, 8)] == [1, 1]


@pytest.mark.gpu
@pytest.mark.slow
def test_the_peak_of_an_update_on_cuda(make_model: Callable[..., str]) -> None:
    """Plain layers, gradients there: PyTorch's own count of what is allocated."""
    planned, micro = Planned(ModelSpec(path=make_model("one", "qwen3", 8, 512, 1536))), Micro(8, 512)
    model = real_model(planned).to("cuda")
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action_logps(model, micro.batch(micro.tokens)).sum().backward()
    measured = torch.cuda.max_memory_allocated() - before
    sizes = with_own_key_heads(update_of(planned, micro, accumulated=True), planned, micro)
    sizes = on_cuda(sizes, planned, compiled=False, pull=None)
    assert sizes.most == pytest.approx(measured, rel=0.15)
