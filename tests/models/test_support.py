"""One support for all: a model with rows that have no token behaves as if it did not have them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.dense import dense_terms
from sod.models.score import action_logps, teacher_scores
from sod.models.support import (
    Support,
    SupportHead,
    columns_of,
    limit_to,
    refuse_tokens_without_rows,
    rows_without_token,
    tokens_of,
)
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed
from sod.records import SodError

SLICED, HOLED = Support(12), Support(13, (3, 4, 9))
SUPPORTS = pytest.mark.parametrize("support", [SLICED, HOLED], ids=["the first ids", "ids with holes"])
SPECS = [
    Divergence("forward_kl"),
    Divergence("reverse_kl"),
    Divergence("jsd", beta=0.3),
    Divergence("forward_kl", top_k=4),
    Divergence("reverse_kl", top_k=5, chosen_by="student"),
    Divergence("jsd", top_k=30),
]


def tiny(rows: int, seed: int = 0, tied: bool = False, hidden: int = 8) -> Any:
    """A random Qwen3 with `rows` rows, far from uniform, that would say the last ones most of the time."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.6,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[12:] *= 4.0
    return model


def limited(model: Any, support: Support) -> Any:
    limit_to(model, support, "here")
    return model


def ids_of(support: Support) -> list[int]:
    return [number for number in range(support.size) if number not in support.holes]


def batch_over(support: Support, seed: int = 0) -> TokenBatch:
    """Three ledgers of ids that have tokens."""
    ids, generator = torch.tensor(ids_of(support)), torch.Generator().manual_seed(seed)
    turns = ([0, 1, 1, 0, 2, 2, 2], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 2])
    drawn = (ids[torch.randint(0, len(ids), (len(row),), generator=generator)].tolist() for row in turns)
    return supervised_batch(list(zip(drawn, turns, strict=True)))


def exact_logps(whole: Any, batch: TokenBatch, support: Support, temperature: float = 1.0) -> Tensor:
    """From the whole model's forward, its logits cut to the support: log-probabilities before the actions. N x ids."""
    found = []
    for row in range(len(batch)):
        length = int(batch.length_B[row])
        logits_TV = whole(input_ids=batch.token_BT[row : row + 1, :length]).logits[0][:, ids_of(support)].double()
        found += [logits_TV[t - 1] for t in range(length) if batch.turn_BT[row, t] > 0]
    return (torch.stack(found) / temperature).log_softmax(-1)


def targets(batch: TokenBatch, support: Support) -> Tensor:
    """The places of the action tokens among the support's ids. Shape N."""
    return torch.tensor([ids_of(support).index(token) for token in batch.token_BT[batch.turn_BT > 0].tolist()])


@dataclass(eq=False)
class Words:
    """A tokenizer, as much of it as a support is made of."""

    vocabulary: Mapping[str, int]

    def get_vocab(self) -> Mapping[str, int]:
        return self.vocabulary


@given(st.sets(st.integers(0, 60), min_size=1))
@settings(max_examples=30, deadline=None)
def test_a_support_is_the_ids_that_have_tokens(ids: set[int]) -> None:
    support = Support.of(Words({str(number): number for number in ids}))
    assert set(ids_of(support)) == ids
    assert support.tokens == len(ids)


def test_added_tokens_are_in_it(tokenizer: Any) -> None:
    larger = copy.deepcopy(tokenizer)
    assert Support.of(larger) == Support.of(tokenizer)
    larger.add_tokens(["<extra>"])
    assert Support.of(tokenizer) == Support(len(tokenizer))
    assert Support.of(larger).tokens == len(tokenizer) + 1


def test_a_model_whose_rows_are_the_support_is_not_touched(model: Any, tokenizer: Any) -> None:
    """The very same output embedding: nothing of it is computed in another way than before."""
    head = model.get_output_embeddings()
    limit_to(model, Support.of(tokenizer), "here")
    assert model.get_output_embeddings() is head
    assert columns_of(model) == tokens_of(model) == len(tokenizer)


@SUPPORTS
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_over_the_support(support: Support, temperature: float) -> None:
    """Of the sampled tokens, with their gradient: zero in the rows without a token."""
    whole, cut = tiny(20), limited(tiny(20), support)
    batch = batch_over(support)
    exact_N = exact_logps(whole, batch, support, temperature).gather(1, targets(batch, support)[:, None]).squeeze(1)
    ours_BT = action_logps(cut, batch, temperature)
    torch.testing.assert_close(ours_BT[batch.turn_BT > 0].double(), exact_N, atol=1e-5, rtol=1e-5)
    moved_BT = (action_logps(whole, batch, temperature) - ours_BT).detach()
    assert float(moved_BT.abs().max()) > 0.5  # or nothing was left out
    weight_N = torch.linspace(-1, 2, len(exact_N))
    (ours_BT[batch.turn_BT > 0] * weight_N).sum().backward()
    (exact_N * weight_N).sum().backward()
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(cut.get_parameter(name).grad, parameter.grad, atol=1e-4, rtol=1e-3)
    without = sorted(set(range(20)) - set(ids_of(support)))
    assert not cut.lm_head.weight.grad[without].any()
    assert cut.lm_head.weight.grad[ids_of(support)].any(dim=1).all()


@SUPPORTS
def test_all_that_a_teacher_says_is_over_the_support(support: Support) -> None:
    """Every token of the support and no other, together 1; the same as from the cut logits."""
    batch, cut = batch_over(support), limited(tiny(20), support)
    scores = teacher_scores(cut, batch, 7, need=ScoreNeed(top1=True, entropy=True, k=support.tokens))
    exact_NV = exact_logps(tiny(20), batch, support).detach()
    assert scores.top1_BT is not None
    assert scores.entropy_BT is not None
    assert scores.ids_NK is not None
    assert scores.logps_NK is not None
    assert all(sorted(row) == ids_of(support) for row in scores.ids_NK.tolist())
    torch.testing.assert_close(
        scores.logps_NK.double().logsumexp(1), torch.zeros(len(exact_NV)).double(), atol=1e-5, rtol=0
    )
    best_NK = exact_NV.sort(dim=1, descending=True).values
    torch.testing.assert_close(scores.logps_NK.double(), best_NK, atol=1e-4, rtol=1e-4)
    action_BT = batch.turn_BT > 0
    torch.testing.assert_close(scores.top1_BT[action_BT].double(), best_NK[:, 0].exp(), atol=1e-5, rtol=1e-4)
    entropy_N = -(exact_NV.exp() * exact_NV).sum(1)
    torch.testing.assert_close(scores.entropy_BT[action_BT].double(), entropy_N, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=f"the {support.tokens + 1} most probable of {support.tokens} tokens"):
        teacher_scores(cut, batch, 7, need=ScoreNeed(k=support.tokens + 1))


@pytest.mark.parametrize(
    ("support", "spec"), [(SLICED, SPECS[2]), (SLICED, SPECS[4]), *((HOLED, spec) for spec in SPECS)], ids=str
)
def test_dense_terms_of_models_with_other_row_counts(support: Support, spec: Divergence) -> None:
    """Values, and the gradient by a central difference along a random direction of all weights."""
    batch = batch_over(support)
    student, teacher = limited(tiny(20, 1), support), limited(tiny(27, 2, hidden=16), support)
    measure = partial(divergence, spec=spec)
    _, value_BT = dense_terms(student, teacher, batch, batch, measure)
    exact_NV = [
        exact_logps(tiny(rows, seed, hidden=hidden), batch, support) for rows, seed, hidden in ((20, 1, 8), (27, 2, 16))
    ]
    torch.testing.assert_close(value_BT[batch.turn_BT > 0].double(), measure(*exact_NV), atol=2e-4, rtol=1e-3)
    value_BT.sum().backward()
    generator = torch.Generator().manual_seed(3)
    slope, step = 0.0, 2e-3
    ways = [torch.randn(parameter.shape, generator=generator) for parameter in student.parameters()]
    for parameter, way in zip(student.parameters(), ways, strict=True):
        assert bool(torch.isfinite(parameter.grad).all())
        slope += float((parameter.grad * way).sum())
    ends = []
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for parameter, way in zip(student.parameters(), ways, strict=True):
                parameter.add_(sign * step * way)
            ends.append(float(dense_terms(student, teacher, batch, batch, measure)[1].double().sum()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.03, abs=0.03)
    assert not student.lm_head.weight.grad[sorted(set(range(20)) - set(ids_of(support)))].any()


@SUPPORTS
def test_a_model_is_its_own_twin_with_other_rows(support: Support) -> None:
    """The same network with more rows without a token: no divergence, and equal log-probabilities."""
    one, more = tiny(20), tiny(20)
    more.resize_token_embeddings(33, mean_resizing=False)
    batch = batch_over(support)
    limited(one, support), limited(more, support)
    torch.testing.assert_close(action_logps(one, batch), action_logps(more, batch), atol=1e-6, rtol=1e-6)
    for spec in SPECS:
        value_BT = dense_terms(one, more, batch, batch, partial(divergence, spec=spec))[1]
        assert float(value_BT.abs().max().detach()) < 1e-5


def sampled(
    model: Any, support: Support, sampling: Sampling, rows: int, tokens: int
) -> list[tuple[tuple[int, ...], Sampled]]:
    ids = ids_of(support)
    asked = [SampleRequest(str(n), (ids[n % len(ids)], ids[1]), tokens, 77 * n) for n in range(rows)]
    answers = TorchEngine(model, frozenset()).generate(asked, sampling)
    return [(tuple(request.token_ids), answer) for request, answer in zip(asked, answers, strict=True)]


@SUPPORTS
@pytest.mark.parametrize(
    ("sampling", "dtype"),
    [
        (Sampling(), torch.float32),
        (Sampling(3.0), torch.bfloat16),
        (Sampling(0.0), torch.bfloat16),
        (Sampling(1.0, top_k=40), torch.float32),
        (Sampling(1.0, top_k=3), torch.float32),
        (Sampling(2.0, top_p=0.999), torch.float32),
    ],
    ids=str,
)
def test_nothing_else_is_ever_sampled(support: Support, sampling: Sampling, dtype: torch.dtype) -> None:
    """Though the model would rather say rows without a token."""
    model = tiny(20).to(dtype)
    free = {token for _, answer in sampled(model, support, sampling, 8, 8) for token in answer.token_ids}
    assert free - set(ids_of(support))
    said = {
        token for _, answer in sampled(limited(model, support), support, sampling, 8, 8) for token in answer.token_ids
    }
    assert said <= set(ids_of(support))


@SUPPORTS
def test_the_engines_log_probabilities_are_the_trainers(support: Support) -> None:
    """To float32 rounding, at a temperature too: an exact engine stays one."""
    model = limited(tiny(20), support)
    for temperature in (1.0, 0.7):
        turns = sampled(model, support, Sampling(temperature), 12, 12)
        ledgers = [([*prompt, *answer.token_ids], [0, 0] + [1] * len(answer.token_ids)) for prompt, answer in turns]
        batch = supervised_batch(ledgers)
        trainers = action_logps(model, batch, temperature)[batch.turn_BT > 0].detach()
        engines = torch.tensor([logp for _, answer in turns for logp in answer.logps])
        torch.testing.assert_close(engines, trainers, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@SUPPORTS
def test_every_row_is_saved_under_its_name(support: Support, tied: bool, tmp_path: Path) -> None:
    """The files of a limited model are those of the whole one; a copy of it is limited, and as tied as it was."""
    whole, cut = tiny(20, tied=tied), limited(tiny(20, tied=tied), support)
    assert isinstance(cut.get_output_embeddings(), SupportHead)
    whole.save_pretrained(tmp_path / "whole")
    cut.save_pretrained(tmp_path / "cut")
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    assert (tmp_path / "whole" / "config.json").read_text() == (tmp_path / "cut" / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert again.get_output_embeddings().weight.shape == (20, 8)
    assert list(dict(cut.named_parameters())) == list(dict(whole.named_parameters()))
    copied = copy.deepcopy(cut)
    assert columns_of(copied) == support.size
    assert (copied.get_output_embeddings().weight is copied.get_input_embeddings().weight) == tied


def test_rows_without_a_token_stay_as_they_are_under_adamw() -> None:
    """Tied or not, their moments are zero; only weight decay would shrink them."""
    for tied in (False, True):
        model = limited(tiny(20, tied=tied), HOLED)
        before, optimizer = (
            copy.deepcopy(model.lm_head.weight),
            torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.0),
        )
        (-action_logps(model, batch_over(HOLED)).sum()).backward()
        optimizer.step()
        changed = (model.lm_head.weight != before).any(dim=1)
        assert changed.tolist() == [number in ids_of(HOLED) for number in range(20)]


def test_an_embedding_with_a_bias() -> None:
    """Phi's, for one: of the bias too, only what has a token counts."""
    whole = torch.nn.Linear(8, 20)
    hidden_ND = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    logits_NV = SupportHead(whole, HOLED)(hidden_ND)
    torch.testing.assert_close(logits_NV[:, ids_of(HOLED)], whole(hidden_ND)[:, ids_of(HOLED)])
    assert bool((logits_NV[:, list(HOLED.holes)] == -torch.inf).all())


def test_what_cannot_be_limited_is_refused() -> None:
    with pytest.raises(SodError, match=r"some/model: the model gives 20 logits and its tokenizer has ids up to 24"):
        limit_to(tiny(20), Support(25), "some/model")

    class Scaled(torch.nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return 2 * super().forward(hidden)

    model = tiny(20)
    model.set_output_embeddings(Scaled(8, 20))
    limit_to(model, Support(20), "some/model")
    with pytest.raises(SodError, match=r"some/model: 8 rows of its output embedding have no token.*not of a Scaled"):
        limit_to(model, SLICED, "some/model")


def test_a_token_without_a_row_is_named() -> None:
    words = Words({"a": 0, "b": 1, "<pad>": 2, "<more>": 5})
    refuse_tokens_without_rows(words, 6, "some/model")
    with pytest.raises(SodError, match=r"^some/model: the model has 5 rows.*'<more>', token 5 .*, has none; save"):
        refuse_tokens_without_rows(words, 5, "some/model")
    with pytest.raises(SodError, match=r"'<pad>', token 2 .* none and 1 more tokens.*resize_token_embeddings\(6\)"):
        refuse_tokens_without_rows(words, 2, "some/model")


def test_what_is_told_of_rows_without_a_token() -> None:
    assert rows_without_token(Support(20), 20, "m") is None
    assert rows_without_token(Support(151_665), 152_064, "m") == (
        "m: 152,064 rows, 151,665 tokens: the 399 rows without a token are left out of every distribution"
    )
    assert rows_without_token(Support(20, (4,)), 20, "m") == (
        "m: 20 rows, 19 tokens: the row without a token is left out of every distribution"
    )
