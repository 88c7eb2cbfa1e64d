"""What runs in each process of the tests of rows that ranks share; see `cases.py`.

`python long_cases.py CASE DIRECTORY`. Alone the same code gives what is expected.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import (
    TOKENS,
    TOP_K,
    interrupted,
    main,
    make_run,
    refused,
    resumed,
    tiny,
    together,
    uneven_batch,
    weights,
    whole,
)
from cases import _gradient as gradient_of
from torch import Tensor

from architectures import LINEAR, MOE, tiny_config, tiny_model
from sod.alignment.estimators import Chunk
from sod.cli.ranks import end_rank
from sod.models import forward
from sod.models.lora import new_adapter
from sod.models.ranks import Ranks
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps, teacher_scores
from sod.models.sequence import cut_rows
from sod.objective.batch import TokenBatch, with_prompts
from sod.objective.scores import ScoreNeed
from sod.preflight.crossing import Crossing, rendered
from sod.recipe import LoraSpec, OptimSpec
from sod.records import SodError
from sod.training.optim import Optimizer
from sod.training.sft import Example, sft_step
from sod.training.spans import span_terms
from sod.training.step import scored, updater

KINDS: dict[str, dict[str, Any]] = {
    "sod": {},
    "sod-recompute": {"recompute": True},
    "jsd-top-k-recompute": {"method": TOP_K, "recompute": True},
    "lora-recompute": {"lora": True, "recompute": True},
    "batch-scope": {"method": "atod"},
    "all-padded": {"micro_batch_tokens": 1},
    "all-packed": {"micro_batch_tokens": 4000},
    "one-key-head": {"key_heads": 1},
}
"""Settings of runs by name."""
OF_TEAMS = ("sod-recompute", "all-padded")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": 60},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64},
    "qwen3_moe": MOE | {"head_dim": 8},
    "gpt2": {},
    "granite": {"attention_multiplier": 0.3},
    "qwen3_next": LINEAR | MOE,
    "gpt_oss": {"head_dim": 8},
}
"""Settings of tiny models by their family; the last two have attention that cannot be cut."""
LONG = "long"
"""Where below the directory of all cases those of teams write."""


@contextmanager
def noting_columns() -> Iterator[dict[str, set[int]]]:
    """How many tokens of a row the decoder was given, by the way that rows were laid out in."""
    seen: dict[str, set[int]] = {"as_padded": set(), "as_packed": set()}
    before = forward.as_padded, forward.as_packed

    def padded(token_BT: Tensor) -> Any:
        seen["as_padded"].add(token_BT.shape[1])
        return before[0](token_BT)

    def packed(rows: Any, device: torch.device) -> Any:
        seen["as_packed"].add(rows.token_1S.shape[1])
        return before[1](rows, device)

    forward.as_padded, forward.as_packed = padded, packed
    try:
        yield seen
    finally:
        forward.as_padded, forward.as_packed = before


def gradients(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Of every kind what `cases.gradients` gives, and in which ways rows were laid out."""
    found: dict[str, Any] = {}
    for kind, settings in KINDS.items():
        with noting_columns() as seen:
            found[kind] = gradient_of(make_run(directory, ranks, **settings)) | {"seen": seen}
    return found


def of_teachers(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Gradients of dense losses: by a teacher that reads longer prompts, and by one that gave its best tokens."""
    found = {}
    for name in ("privileged", "choices"):
        run = make_run(directory, ranks, method=TOP_K)
        batch, _ = scored(run, uneven_batch(3, 7))
        updates = updater(run)
        prompts = {group: [5 + group, 9, 11, 2, 3, 4, 8] for group in batch.group_B.unique().tolist()}
        if name == "privileged":
            updates = replace(updates, teacher_view=partial(with_prompts, prompts=prompts))
        else:
            best = run.teacher.score(batch, (), ScoreNeed(k=8))
            old_BT = None if batch.scores is None else batch.scores.old_BT
            batch, updates = batch.scored(old_BT, best, "update"), replace(updates, teacher=None)
        logp_BT, value_BT = updates.forward(batch)
        (value_BT.sum() * ranks.count / len(batch) + logp_BT.sum() * ranks.count / 100).backward()
        grads = whole({name: weight.grad for name, weight in run.student.named_parameters()})
        # Each rank, or each team, had all of the rows.
        found[name] = {key: grad / (ranks.count // ranks.team.size) for key, grad in grads.items()}
    return found


def over_spans(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """The gradient of a loss over spans of a teacher with other tokens, and the values; of few spans, too."""
    found = {}
    for name, rows in (("many", 6), ("one", 1)):
        run = make_run(directory, ranks, method=TOP_K)
        batch = rendered(_few(uneven_batch(3, 7), rows), Crossing(1.5))
        logp_BT, value_BT = span_terms(run.student, run.teacher.model, batch, _measure, 0.7)
        ((value_BT.sum() + 0.1 * logp_BT.sum()) * ranks.count).backward()
        grads = whole({name: weight.grad for name, weight in run.student.named_parameters()})
        teams = ranks.count // ranks.team.size
        found[name] = {key: grad / teams for key, grad in grads.items()} | {"values": value_BT.detach()}
    return found


def _few(batch: TokenBatch, rows: int) -> TokenBatch:
    """Some rows; of a single one a single action token."""
    some = batch.rows(range(rows))
    return some if rows > 1 else some.filled(turn_BT=some.turn_BT * (torch.arange(some.turn_BT.shape[1]) == 6))


def _measure(part: Chunk) -> Tensor:
    own, theirs = part.student_logits_NV.log_softmax(1), part.teacher_logits_MW.log_softmax(1)
    own_SV, theirs_SW = own[part.student_start_S], theirs[part.teacher_stop_S - 1]
    return (own_SV.exp() * (own_SV - theirs_SW)).sum(1)


def tuned(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Weights and losses after three steps of fine-tuning; one conversation has a single token of the assistant's."""
    model = tiny(1)
    new_adapter(model, LoraSpec(rank=4), 0, "tiny")
    recompute_layers(model)
    if ranks.count > 1:
        from sod.models.parallel import shard

        shard(model, ranks)
    spec = OptimSpec(lr=3e-3, micro_batch_tokens=40)
    optimizer = Optimizer(model, spec, 3)
    examples = [Example([7, 8, 9, 10], [0, 0, 0, 1])]
    for length in (11, 17, 30):
        examples.append(Example([(5 * at + length) % TOKENS for at in range(length)], [0, 0, *[1] * (length - 2)]))
    losses = [sft_step(model, optimizer, examples, 4, spec, 0, step, ranks).metrics["loss"] for step in (1, 2, 3)]
    return {"weights": weights(model), "losses": losses}


def kept(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Bytes that the forward of one long row keeps for the backward pass beside weights."""
    model, batch = tiny(1), uneven_batch(3, 7)
    cut_rows(model, ranks, "tiny")
    own = {weight.data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        logp_BT = action_logps(model, batch.rows([6]))
    logp_BT.sum().backward()
    return {"bytes": sum(sizes.values()), "logp": logp_BT.detach()}


def families(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Log-probabilities by models of other families, by name; or why their rows are not cut."""
    batch, found = uneven_batch(3, 7), {}
    for kind, changes in FAMILIES.items():
        model = tiny_model(tiny_config(kind, **changes))
        try:
            cut_rows(model, ranks, kind)
        except SodError as error:
            found[kind] = str(error)
            continue
        with torch.no_grad():
            found[kind] = action_logps(model, batch)
    return found


def in_halves(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Log-probabilities by a model in bfloat16."""
    run = make_run(directory, ranks, dtype=torch.bfloat16)
    return {"logp": teacher_scores(run.student, uneven_batch(3, 7), 70, ranks=ranks).logp_BT}


def not_finite(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """See `cases.refused`."""
    return refused(ranks, directory)


def long_rows(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """All of the cases."""
    cases = (gradients, of_teachers, over_spans, tuned, kept, families, in_halves, not_finite, interrupted)
    return {case.__name__: case(ranks, directory) for case in cases}


def everything(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """What `cases.together` gives, and the same ranks as one team, as processes take long to start."""
    found = together(ranks, directory)
    return found | {"long": long_rows(in_teams(ranks, ranks.count), directory / LONG)}


def of_four(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """What becomes on four ranks of a run that two began, and the same in two teams; what those learn."""
    found = {"resumed": resumed(ranks, directory)}
    teams = in_teams(ranks, 2)
    kinds = {kind: gradient_of(make_run(directory, teams, **KINDS[kind])) for kind in OF_TEAMS}
    learned = {"gradients": kinds, "tuned": tuned(teams, directory), "resumed": resumed(teams, directory)}
    return found | {"long": learned}


def in_teams(ranks: Ranks, sequence: int) -> Ranks:
    """The ranks in teams of so many; one process is alone."""
    if sequence == 1:
        return ranks
    from sod.models.parallel import teamed

    return teamed(ranks, sequence)


if __name__ == "__main__":
    main({"everything": everything, "of_four": of_four}, *sys.argv[1:])
    end_rank(0)
