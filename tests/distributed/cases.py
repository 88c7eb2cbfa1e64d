"""What runs in each process of the tests over ranks: the same function alone gives what they are compared with.

`python cases.py CASE DIRECTORY [ARGUMENT ...]`, started once for each rank with a launcher's environment.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.build.method import make_method
from sod.cli.ranks import end_rank
from sod.models.lora import new_adapter
from sod.models.ranks import ALONE, Ranks, launched
from sod.models.recompute import recompute_layers
from sod.models.score import score
from sod.models.sharded import whole_tensor
from sod.objective.aggregation import loss_weights
from sod.objective.batch import TokenBatch
from sod.objective.methods import rated
from sod.objective.scores import SAMPLED_ONLY, TeacherScores
from sod.recipe import LoraSpec, Recipe
from sod.records import SodError
from sod.runlog import RunLog
from sod.teachers.base import Offer
from sod.teachers.first_rank import FirstRanksTeacher
from sod.teachers.local import LocalTeacher
from sod.training import checkpoint
from sod.training.loop import InterruptedRunError, Plan, Trainee, run_steps
from sod.training.optim import Optimizer
from sod.training.report import StepReport
from sod.training.shards import has_shards, read_shards, write_shards
from sod.training.step import Run, learn, scored, updater
from sod.training.update import Figures

TOKENS = 97
STEPS = 10
TOP_K = {"name": "opd", "divergence": {"kind": "jsd", "top_k": 8}}
"""`opd` with a dense loss over the 8 most probable tokens."""


def tiny(seed: int, tied: bool = True, dtype: torch.dtype = torch.float32, key_heads: int = 2) -> Any:
    """A model of two layers with weights of its own."""
    config = Qwen3Config(
        vocab_size=TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval().to(dtype)


def uneven_batch(seed: int, rows: int) -> TokenBatch:
    """Rows of 12 to 60 tokens and two turns, two to a group; the last row is as long as all others are short."""
    generator = torch.Generator().manual_seed(seed)
    length_B = torch.randint(12, 24, (rows,), generator=generator)
    length_B[-1] = 60
    width = int(length_B.max())
    at_BT = torch.arange(width).expand(rows, width)
    real_BT = at_BT < length_B[:, None]
    turn_BT = torch.where(at_BT >= 9, 2, torch.where(at_BT >= 4, 1, 0)) * real_BT * (at_BT != 8)
    return TokenBatch(
        token_BT=torch.randint(2, TOKENS, (rows, width), generator=generator) * real_BT,
        turn_BT=turn_BT,
        length_B=length_B,
        group_B=torch.arange(rows) // 2,
        reward_B=torch.rand(rows, generator=generator),
        rewarded_B=torch.ones(rows, dtype=torch.bool),
        prompt_B=torch.full((rows,), 4),
        sampled_BT=torch.zeros(rows, width),
        error_BK=torch.zeros(rows, 2, dtype=torch.bool),
    )


def make_run(
    directory: Path,
    ranks: Ranks,
    method: Any = "sod",
    tied: bool = True,
    recompute: bool = False,
    lora: bool = False,
    dtype: torch.dtype = torch.float32,
    start: Path | None = None,
    key_heads: int = 2,
    **optim: Any,
) -> Run:
    """A run whose engine does nothing: what is learned from is given. `start`: the weights to begin with."""
    settings = {"lr": 1e-2, "micro_batch_tokens": 70, "clip_grad": 0.5, "recompute": recompute, **optim}
    recipe = Recipe.model_validate(
        {"student": {"path": "tiny"}, "method": method, "optim": settings, "rollout": {"prompts": 4, "samples": 2}}
    )
    student = tiny(1, tied, dtype, key_heads)
    if start is not None:
        student.load_state_dict(torch.load(start))
    if lora:
        new_adapter(student, LoraSpec(rank=4), 0, "tiny")
    if recompute:
        recompute_layers(student)
    if ranks.count > 1:
        from sod.models.parallel import shard

        shard(student, ranks)
    return Run(
        recipe=recipe,
        tasks=[],
        student=student,
        teacher=(teacher := LocalTeacher(tiny(2, tied, dtype), settings["micro_batch_tokens"], ranks=ranks)),
        rollout=SimpleNamespace(engine=SimpleNamespace(exact=False, sync=lambda model: None)),  # type: ignore[arg-type]
        method=(chosen := make_method(recipe.method)),
        optimizer=Optimizer(student, recipe.optim, STEPS),
        dumps=directory / "dumps",
        model_teacher=teacher if chosen.dense else None,
        ranks=ranks,
    )


def whole(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors in pieces, put together; all ranks call it."""
    return {name: whole_tensor(tensor).detach().clone() for name, tensor in tensors.items()}


def weights(model: Any) -> dict[str, Any]:
    """All of a model's weights by name."""
    return whole(dict(model.named_parameters()))


# --- the cases: each returns what rank 0 writes down -----------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "sod": {},
    "sod-untied": {"tied": False},
    "sod-recompute": {"recompute": True},
    "sod-before": {"mini_batch_prompts": 2},
    "jsd-top-k": {"method": TOP_K},
    "jsd-recompute-untied": {"method": TOP_K, "recompute": True, "tied": False},
    "lora": {"lora": True},
    "lora-recompute": {"lora": True, "recompute": True},
    "batch-scope": {"method": "atod"},
    "one-row-each": {"micro_batch_tokens": 1},
}
"""Settings of runs by name."""


def gradients(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Of every kind: scores, the gradient of a mini-batch with rows of uneven lengths, and its loss."""
    return {kind: _gradient(make_run(directory, ranks, **settings)) for kind, settings in KINDS.items()}


def _gradient(run: Run) -> dict[str, Any]:
    batch, _ = scored(run, uneven_batch(3, 7))
    batch = rated(run.method, batch)
    updates = updater(run)
    if batch.scores is not None and batch.scores.old_BT is not None:
        batch, _ = updates.weighed(batch, 1)
    batch = batch.filled(loss_weight_BT=loss_weights(batch.turn_BT, run.method.loss_aggregation))
    figures = Figures()
    logp_BT = updates.accumulate(batch, 1, figures)
    grads = {name: w.grad for name, w in run.student.named_parameters() if w.requires_grad}
    teacher = None if batch.scores is None or batch.scores.teacher is None else batch.scores.teacher.logp_BT
    loss = figures.means(1, run.ranks)["loss"]
    return {"gradient": whole(grads), "logp": logp_BT, "teacher": teacher, "loss": loss}


def sampled(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Log-probabilities of a model in bfloat16, and in float32; how the weights of the former are kept."""
    run = make_run(directory, ranks, dtype=torch.bfloat16)
    stored = str(run.student.lm_head.weight.dtype)
    logp_BT = score(run.student, uneven_batch(3, 7), 70, ranks=ranks)
    exact_BT = score(tiny(1), uneven_batch(3, 7), 70, ranks=ranks)
    return {"logp": logp_BT, "float32": exact_BT, "stored": stored}


def halves(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Figures of two steps in bfloat16, of all weights and of an adapter."""
    found: dict[str, Any] = {}
    for name, lora in (("whole", False), ("adapter", True)):
        run = make_run(directory, ranks, dtype=torch.bfloat16, lora=lora)
        found[name] = [one_step(run, step).metrics for step in (1, 2)]
        found[f"{name} types"] = {str(w.dtype) for w in run.student.parameters() if w.requires_grad}
    return found


def steps(ranks: Ranks, directory: Path, first: int = 1, last: int = 6) -> dict[str, Any]:
    """Weights and figures after steps of two updates each, clipped, without an interruption."""
    run = make_run(directory, ranks, mini_batch_prompts=2)
    figures = [one_step(run, step).metrics for step in range(first, last + 1)]
    return {"weights": weights(run.student), "figures": figures}


def one_step(run: Run, step: int) -> StepReport:
    """Learn from a batch of the step's own."""
    return StepReport(step, learn(run, uneven_batch(10 + step, 8), step).updates)


def run_log(ranks: Ranks, directory: Path) -> RunLog:
    """The directory of a run, made by rank 0."""
    return ranks.shared(lambda: RunLog.create(directory, {"seed": 0}, 0))


def trainee(run: Run) -> Trainee:
    """What is saved of a run: in pieces where there are ranks, as everywhere else where there are none."""
    copy = tiny(1) if run.ranks.first else None

    def save_model(directory: Path) -> None:
        assert copy is not None
        torch.save(copy.state_dict(), directory / "weights.pt")

    def write(directory: Path) -> None:
        if run.ranks.count > 1:
            from sod.models.parallel import gather_into

            write_shards(directory, run.optimizer, run.ranks)
            gather_into(copy, run.student)
        else:
            copy.load_state_dict(run.student.state_dict())

    def state() -> dict[str, Any]:
        return {"optimizer": run.optimizer.state() if run.ranks.count == 1 else {"shards": run.ranks.count}}

    return Trainee(state, save_model, write, run.ranks)


def interrupted(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """A run of which the last rank alone is asked to stop, in its third step."""
    run = make_run(directory, ranks, mini_batch_prompts=2)
    log = run_log(ranks, directory / f"run-of-{ranks.count}")

    def take_step(step: int) -> StepReport:
        if step == 3 and ranks.number == ranks.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(run, step)

    said = ""
    try:
        run_steps(Plan(6, 100, 2, "hash"), log, 0, take_step, trainee(run), [])
    except InterruptedRunError as error:
        said = f"{error.exit_code}: {error}"
    return {"said": everybodys(ranks, said), "logged": [row["step"] for row in log.metrics()]}


def resumed(ranks: Ranks, directory: Path, source: str = "2") -> dict[str, Any]:
    """Weights after step 6 of the run that so many processes were interrupted in."""
    (_, saved), *_ = RunLog.open(directory / f"run-of-{source}").checkpoints()
    point = checkpoint.load(saved, "hash")
    run = make_run(directory, ranks, start=point.model / "weights.pt", mini_batch_prompts=2)
    if has_shards(saved):
        checkpoint.restore(point, "optimizer", lambda _: read_shards(saved, run.optimizer, ranks))
    else:
        checkpoint.restore(point, "optimizer", run.optimizer.load)
    for step in range(point.step + 1, 7):
        one_step(run, step)
    return {"weights": weights(run.student), "done": point.step}


def refused(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """What is said on each rank of a gradient that is infinite on one, and of a score that is on one no number."""
    run = make_run(directory, ranks)
    before = weights(run.student)
    batch = uneven_batch(3, 8)
    said = {}
    reward_B = batch.reward_B.clone()
    reward_B[0] = float("inf")
    said["gradient"] = everybodys(ranks, complaint(run, batch.filled(reward_B=reward_B)))
    scores = run.teacher
    run.teacher = Babbler(0)
    said["score"] = everybodys(ranks, complaint(run, batch))
    run.teacher = scores
    after = weights(run.student)
    same = all(bool(torch.equal(before[name], after[name])) for name in before)
    dumped = sorted(path.name for path in run.dumps.iterdir())
    return {"said": said, "same": same, "after": complaint(run, batch), "dumped": dumped}


def complaint(run: Run, batch: TokenBatch) -> str:
    """Why a batch cannot be learned from."""
    try:
        learn(run, batch, 1)
    except SodError as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Babbler:
    """A teacher whose score of one row is no number."""

    def __init__(self, row: int) -> None:
        self.row = row

    def score(self, batch: TokenBatch, episodes: Any, need: Any) -> TeacherScores:
        logp_BT = -torch.ones(batch.token_BT.shape)
        logp_BT[self.row] = float("nan")
        return TeacherScores(logp_BT * (batch.turn_BT > 0))


class Counted:
    """A served teacher that knows how often it was asked, and is gone at the second time."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, batch: TokenBatch, episodes: Any, need: Any) -> TeacherScores:
        self.asked += 1
        if self.asked > 1:
            raise SodError("the server is gone")
        return TeacherScores(-2.0 * (batch.turn_BT > 0))


def asked(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """What each rank gets of a teacher that rank 0 asks, at the first and at the second time."""
    inner: Any = Counted() if ranks.first else None
    teacher = FirstRanksTeacher(inner, Offer("sampled"), ranks)
    batch = uneven_batch(3, 4)
    total = float(teacher.score(batch, (), SAMPLED_ONLY).logp_BT.sum())
    said = ""
    try:
        teacher.score(batch, (), SAMPLED_ONLY)
    except SodError as error:
        said = str(error)
    return {"total": everybodys(ranks, str(total)), "said": everybodys(ranks, said), "tokens": batch.action_tokens()}


def everybodys(ranks: Ranks, value: str) -> list[str]:
    """The values of all ranks."""
    return ranks.everybodys(value)


def together(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """All of the cases, as processes take long to start."""
    cases = (gradients, sampled, halves, steps, interrupted, refused, asked)
    found = {case.__name__: case(ranks, directory) for case in cases}
    if ranks.count > 1:
        found["resumed-from-1"] = resumed(ranks, directory, "1")
    return found


CASES: dict[str, Callable[..., dict[str, Any]]] = {"together": together, "resumed": resumed, "halves": halves}


def main(cases: Mapping[str, Callable[..., dict[str, Any]]], case: str, directory: str, *arguments: str) -> None:
    """Run one of the cases and write down what it gives; rank 0 does."""
    torch.set_num_threads(1)
    ranks = ALONE
    if launched():
        from sod.models.parallel import join, leave

        ranks = join()
    found = cases[case](ranks, Path(directory), *arguments)
    if ranks.first:
        torch.save(found, Path(directory) / f"{case}-{ranks.count}.pt")
    if ranks.count > 1:
        leave()


if __name__ == "__main__":
    main(CASES, *sys.argv[1:])
    end_rank(0)
