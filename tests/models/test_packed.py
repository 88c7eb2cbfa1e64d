"""Packed rows against padded ones: the same values and gradients, for whatever may be packed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import LATENT, LLAMA3, MOE, VOCABULARY, rope, tiny_config, tiny_model
from sod.models import forward
from sod.models.dense import dense_terms
from sod.models.forward import hidden_before_actions, packed_hidden, packs, padded_hidden
from sod.models.packed import packed_rows, worth_packing
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps, teacher_scores
from sod.objective.batch import TokenBatch, supervised_batch, with_prompts
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed

Make = Callable[..., Any]
slow = pytest.mark.slow
LENGTHS = (40, 11, 2, 33, 3)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`choose(True)`: rows are packed from now on whatever their lengths, if their model can be; False: never."""

    def make(packed: bool) -> None:
        monkeypatch.setattr(forward, "worth_packing", lambda *_: packed)
        # Where rows that begin alike are run once on a CPU, that comes before; it is not what is tested here.
        monkeypatch.setattr(forward, "shared_rows_of", lambda *_: None)

    return make


def ragged(vocabulary: int = VOCABULARY, seed: int = 0) -> TokenBatch:
    """Rows of many lengths, down to two tokens, each with context inside."""
    generator = torch.Generator().manual_seed(seed)
    ledgers = []
    for length in LENGTHS:
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        ledgers.append((ids, [0, *(1 + n // 9 if n % 9 < 6 else 0 for n in range(length - 1))]))
    return supervised_batch(ledgers)


def gradients(model: Any, value_BT: Tensor) -> list[Tensor]:
    """Of a weighed sum; zeros for what has no part in it."""
    weight_BT = torch.linspace(-1, 2, value_BT.numel()).view(value_BT.shape)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad((value_BT * weight_BT).sum() / value_BT.numel(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, as a share of the largest gradient of the same weight."""
    scales = [max(float(b.abs().max()), 1e-3) for b in theirs]
    return max(float((a - b).abs().max()) / scale for a, b, scale in zip(ours, theirs, scales, strict=True))


# What may be packed, with contexts of 256: families that differ in positions, heads, norms or experts.
PACKED: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama llama3": LLAMA3,
    "llama yarn": rope("yarn", original_max_position_embeddings=64),
    "llama dynamic": {"max_position_embeddings": 64, **rope("dynamic")},
    "qwen3": {},
    "smollm3": {},
    "gpt_neox": {},
    "mistral window": {"sliding_window": 64},
    "qwen2": {},
    "phi3": {"sliding_window": None},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64},
    "olmo2": {},
    "olmo3": {"sliding_window": 64},
    "granite": {"residual_multiplier": 0.5, "attention_multiplier": 0.3, "embedding_multiplier": 3.0},
    "glm4": {"head_dim": 8},
    "gpt2": {},
    "diffllama": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_bigcode": {},
    "qwen3_moe": {**MOE, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
PADDED: dict[str, dict[str, Any]] = {
    "deepseek_v3": LATENT,
    "bloom": {},
    "stablelm": {},
    "gptj": {"rotary_dim": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "falcon": {"alibi": True},
    "mistral sliding": {"sliding_window": 32},
}
"""What is scored padded: other attention, or rows longer than a sliding window."""


def made(table: dict[str, dict[str, Any]], name: str) -> Any:
    return tiny_model(tiny_config(name.split()[0], **table[name]))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("qwen3", "gpt2", "gemma3_text") else slow) for n in PACKED]
)
def test_values_and_gradients_are_those_of_padded_rows(name: str, choose: Any) -> None:
    model, batch = made(PACKED, name), ragged()
    found = []
    for packed in (False, True):
        choose(packed)
        logp_BT = action_logps(model, batch)
        found.append((logp_BT.detach(), gradients(model, logp_BT)))
    assert packs(model)
    (padded_BT, theirs), (packed_BT, ours) = found
    torch.testing.assert_close(packed_BT, padded_BT, atol=1e-5, rtol=1e-5)
    assert any(bool(gradient.any()) for gradient in theirs)
    assert worst(ours, theirs) < 2e-5


def test_gradients_within_a_millionth(model: Any, clone: Make, choose: Any) -> None:
    """In float32, as numbers: for the model and the kind of batch that are trained in every other test."""
    student, batch = clone(model), ragged(300)
    found = []
    for packed in (False, True):
        choose(packed)
        found.append(gradients(student, action_logps(student, batch)))
    theirs, ours = found
    assert max(float(gradient.abs().max()) for gradient in theirs) > 1e-3
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-6


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("bloom", "mistral sliding") else slow) for n in PADDED]
)
def test_what_cannot_be_packed_is_padded(name: str, choose: Any) -> None:
    """With the values of the model's own attention, and that attention left as it was."""
    model, batch = made(PADDED, name), ragged()
    before = model.config._attn_implementation
    choose(False)
    expected_ND = hidden_before_actions(model, batch).detach()
    choose(True)
    assert torch.equal(hidden_before_actions(model, batch).detach(), expected_ND)
    assert model.config._attn_implementation == before or name == "mistral sliding"


def test_a_model_that_mixes_its_rows_is_padded(model: Any, clone: Make, choose: Any) -> None:
    """Something beside attention that looks at other tokens: seen by the proof, as the rows are no longer alone."""
    mixing = clone(model)
    mixing.get_decoder().layers[0].register_forward_hook(lambda _m, _i, out: out + 0.1 * out.cumsum(1))
    choose(True)
    assert not packs(mixing)
    assert packs(model)


@pytest.mark.parametrize("training", [False, True])
def test_the_proof_leaves_a_model_as_it_was(training: bool, model: Any, clone: Make) -> None:
    mine = clone(model)
    mine.set_attn_implementation("sdpa")  # an engine may have had the model before
    mine.get_decoder().layers[0].mlp.train(training)
    modes = [module.training for module in mine.modules()]
    assert packs(mine)
    assert [module.training for module in mine.modules()] == modes
    assert mine.config._attn_implementation == "sod-packed"
    assert all(weight.grad is None for weight in mine.parameters())


def test_recomputation_repeats_packed_layers_to_the_bit(model: Any, clone: Make, choose: Any) -> None:
    plain, frugal = clone(model), clone(model)
    recompute_layers(frugal)
    choose(True)
    exact, ours = (gradients(m, action_logps(m, ragged(300))) for m in (plain, frugal))
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


def test_nothing_is_computed_for_padding(model: Any, clone: Make, choose: Any) -> None:
    """Watches a layer: as many tokens as there are, in the only row."""
    mine = clone(model)
    packs(mine)
    seen: list[tuple[int, ...]] = []
    mine.get_decoder().layers[0].register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[:2])))
    choose(True)
    action_logps(mine, ragged(300))
    choose(False)
    action_logps(mine, ragged(300))
    assert seen == [(1, sum(LENGTHS)), (len(LENGTHS), max(LENGTHS))]


def test_teachers_scores(model: Any, clone: Make, choose: Any) -> None:
    """All that may be asked of a teacher, in several micro-batches."""
    teacher, batch, found = clone(model), ragged(300), []
    for packed in (False, True):
        choose(packed)
        found.append(teacher_scores(teacher, batch, 60, 0.8, ScoreNeed(top1=True, entropy=True, k=3)))
    padded, packed_scores = found
    for name in ("logp_BT", "top1_BT", "entropy_BT", "logps_NK"):
        torch.testing.assert_close(getattr(packed_scores, name), getattr(padded, name), atol=1e-5, rtol=1e-5)
    assert torch.equal(packed_scores.ids_NK, padded.ids_NK)


def test_dense_terms_with_other_prompts(model: Any, random_model: Make, clone: Make, choose: Any) -> None:
    """Student and teacher are packed each by their own rows."""
    student, teacher, batch = clone(model), random_model(seed=8, sharpness=3.0), ragged(300)
    view = with_prompts(batch, [[5] * n for n in (1, 30, 7, 2, 12)])
    measure, found = partial(divergence, spec=Divergence("jsd")), []
    for packed in (False, True):
        choose(packed)
        terms = dense_terms(student, teacher, batch, view, measure, 0.9)
        found.append((torch.stack(terms).detach(), gradients(student, sum(terms))))
    (theirs, expected), (ours, gradient) = found
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert worst(gradient, expected) < 2e-5


def test_packed_rows() -> None:
    rows = packed_rows(torch.tensor([[5, 6, 7], [8, 0, 0], [9, 9, 0]]), torch.tensor([3, 1, 2]))
    assert rows.token_1S.tolist() == [[5, 6, 7, 8, 9, 9]]
    assert rows.position_1S.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert (rows.cu_seq.tolist(), rows.cu_seq.dtype, rows.longest) == ([0, 3, 4, 6], torch.int32, 3)


FULL, LONG = [1024] * 16, [20480, 10240]
RAGGED = [256 + 64 * row for row in range(16)]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("lengths", "device", "dtype", "packed"),
    [
        (FULL, CPU, torch.float32, False),
        (RAGGED, CPU, torch.float32, True),
        (LONG, CPU, torch.bfloat16, True),
        ([100] * 9 + [80], CPU, torch.bfloat16, False),
        ([100] * 9 + [40], CPU, torch.bfloat16, True),
        (FULL, CUDA, torch.bfloat16, False),
        (RAGGED, CUDA, torch.bfloat16, True),
        (RAGGED, CUDA, torch.float32, False),
        (LONG, CUDA, torch.bfloat16, False),
        ([20480], CUDA, torch.bfloat16, False),
        ([4096] * 3 + [3072], CUDA, torch.bfloat16, False),
        ([4096, 1024, 1024, 1024], CUDA, torch.bfloat16, True),
    ],
)
def test_packed_where_it_is_worth_it(lengths: list[int], device: Any, dtype: Any, packed: bool) -> None:
    """By padding alone on a CPU; on CUDA against what the kernel loses on long rows."""
    assert worth_packing(torch.tensor(lengths), device, dtype) == packed


@pytest.mark.gpu
def test_the_variable_length_kernel() -> None:
    """In bfloat16 on a card: values and gradients as near to float32's as those of padded rows are."""
    card = torch.device("cuda")
    exact = made(PACKED, "qwen3").to(card)
    model = copy.deepcopy(exact).bfloat16()
    assert packs(model)
    batch = ragged()
    rows, real_BT = packed_rows(batch.token_BT, batch.length_B), torch.arange(max(LENGTHS)) < batch.length_B[:, None]
    found = {}
    for name, value_SD in (
        ("float32", padded_hidden(exact, batch.token_BT)[real_BT.to(card)]),
        ("padded", padded_hidden(model, batch.token_BT)[real_BT.to(card)]),
        ("packed", packed_hidden(model, rows)),
    ):
        owner = exact if name == "float32" else model
        weight = owner.get_decoder().layers[1].self_attn.q_proj.weight
        (slope,) = torch.autograd.grad(value_SD.float().square().mean(), weight)
        found[name] = (value_SD.detach().float(), slope.float())
    for part in (0, 1):
        far = {name: float((found[name][part] - found["float32"][part]).norm()) for name in ("padded", "packed")}
        assert far["packed"] < 1.5 * far["padded"] + 1e-6
