"""A sharded model on one card: a world of one rank over NCCL learns, saves and goes on as a plain run does.

    PYTHONPATH=src python scripts/gpu_check/ranks.py [--tiny] [--json FILE]

Two steps of a dense distillation and of SOD's own loss, in float32 and bfloat16, with recomputation, an adapter and
compiled layers: figures are how far the sharded run is from the plain one, relative to how far the weights moved. Then
its pieces are written by torch.distributed.checkpoint, read by another sharded run and by a plain one, and each takes a
third step. Beside all that two ranks meet that one card has no room for. What is too far apart is a failure. `--tiny`
runs the same over gloo on a CPU.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from common import CUDA, DEVICE, QWEN3_06B, TOY, Report, parse, seconds, versions
from torch import distributed
from torch.distributed import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.build.job import compile_where_wanted
from sod.build.method import make_method
from sod.build.ranks import gatherer, whole_copy
from sod.engines.gathered import GatheredEngine
from sod.models.device import repeat_exactly
from sod.models.lora import new_adapter
from sod.models.parallel import join, leave, prove_cards, shard
from sod.models.ranks import ALONE, Ranks
from sod.models.recompute import recompute_layers
from sod.objective.batch import TokenBatch
from sod.recipe import Recipe
from sod.teachers.local import LocalTeacher
from sod.training.optim import Optimizer
from sod.training.shards import read_shards, write_shards
from sod.training.step import Run, learn

OPTIONS = parse(__doc__)
SHAPE = TOY if OPTIONS.tiny else QWEN3_06B | {"vocab_size": 32_000, "num_hidden_layers": 4}
SHARE = 16 if OPTIONS.tiny else 1  # toy rows are so many times shorter
LENGTHS = [length // SHARE for length in (512, 320, 256, 640, 384, 256, 448, 1024)]
PROMPT = 64 // SHARE
ADAM = {"lr": 1e-3, "clip_grad": 0.5, "micro_batch_tokens": 2048 // SHARE}
DENSE = {"name": "opd", "divergence": {"kind": "jsd", "top_k": 8}}
LIMIT = {"float32": 1e-3, "bfloat16": 0.05}
"""How far apart runs may be, relative to the change of the weights."""

MEETING = """
from sod.models.parallel import break_off, join, prove_cards
from sod.records import SodError

ranks = join()
try:
    prove_cards(ranks)
    print("met")
except SodError as error:
    print(error)
break_off()
"""
"""What each of two ranks does that are on one card."""


@final
@dataclass(frozen=True)
class Kind:
    """How a run learns."""

    dtype: str = "bfloat16"
    method: Any = "sod"
    recompute: bool = False
    adapter: bool = False
    compiled: bool = False


KINDS = {
    "float32": Kind("float32"),
    "float32, dense": Kind("float32", DENSE),
    "bfloat16": Kind(),
    "bfloat16, dense, recompute": Kind(method=DENSE, recompute=True),
    "bfloat16, adapter": Kind(adapter=True),
}
COMPILED = {"bfloat16, dense, compiled": Kind(method=DENSE, compiled=True)}
"""On a card alone: on a CPU it takes minutes, and nothing there uses it."""


def main() -> None:
    """All figures; a failure of one does not stop the next."""
    report = Report("ranks", OPTIONS)
    report.tell("versions", versions())
    if CUDA:
        repeat_exactly()  # as runs do
    else:
        torch.set_num_threads(1)
    two = meeting()
    ranks = alone_in_a_world()
    report.attempt("cards connected, s", lambda: seconds(lambda: prove_cards(ranks)))
    for name, kind in KINDS.items():
        report.attempt(name, lambda kind=kind: compared(kind, ranks))
    for name in ("float32", "bfloat16"):
        report.attempt(f"{name}, gone on with", lambda name=name: gone_on_with(KINDS[name], ranks))
    report.attempt("written together, s", lambda: written_together(ranks))
    report.attempt("two ranks on one card", lambda: said_by(two))
    for name, kind in COMPILED.items() if CUDA else ():
        report.attempt(name, lambda kind=kind: compared(kind, ranks))
    leave()
    report.end()


def launched(number: int, count: int, port: int) -> dict[str, str]:
    """What a launcher sets for one of the ranks on this machine."""
    own = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
    return own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    """A port that nobody listens on, at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alone_in_a_world() -> Ranks:
    """The one rank that there is, with its process group."""
    os.environ.update(launched(0, 1, free_port()))
    return join()


def compared(kind: Kind, ranks: Ranks) -> dict[str, float]:
    """How far two steps of a sharded run are from those of a plain one."""
    start = weights(new_run(kind).whole)
    plain, sharded = new_run(kind), new_run(kind, ranks)
    rows = [(plain.take(step), sharded.take(step)) for step in (1, 2)]
    ours, theirs = weights(plain.run.student), weights(sharded.whole)
    found = {
        "weights": apart(ours, theirs, start),
        "norms": max(abs(one["grad_norm"] / other["grad_norm"] - 1.0) for one, other in rows),
        "loss": max(abs(one["loss"] - other["loss"]) for one, other in rows),
        "s/step": round(seconds(lambda: sharded.take(3)), 3),
        "s/step, plain": round(seconds(lambda: plain.take(3)), 3),
    }
    return within_limits(found, ("weights", "norms", "loss"), LIMIT[kind.dtype])


def gone_on_with(kind: Kind, ranks: Ranks) -> dict[str, float]:
    """How far the third step of runs that read a sharded run's pieces is from its own."""
    first = new_run(kind, ranks)
    for step in (1, 2):
        first.take(step)
    before = weights(first.whole)
    with tempfile.TemporaryDirectory() as folder:
        found = {"s to write": seconds(lambda: write_shards(Path(folder), first.run.optimizer, ranks))}
        first.take(3)
        for name, others in (("sharded", ranks), ("plain", None)):
            other = new_run(kind, others, seed=5)
            found[f"s to read, {name}"] = seconds(
                lambda run=other.run: read_shards(Path(folder), run.optimizer, run.ranks)
            )
            other.take(3)
            theirs = other.run.student if others is None else other.whole
            found[name] = apart(weights(first.whole), weights(theirs), before)
    return within_limits(found, ("sharded", "plain"), LIMIT[kind.dtype])


def written_together(ranks: Ranks) -> float:
    """Seconds in which pieces are written and read as several ranks do, which agree by objects sent over gloo."""
    told: list[Any] = [{"rank": 0}]
    distributed.broadcast_object_list(told, src=0)
    found: list[Any] = [None]
    distributed.all_gather_object(found, told[0])
    if found != [{"rank": 0}]:
        raise RuntimeError(f"{found} came back")
    tensors = new_run(KINDS["float32"], ranks).run.optimizer.tensors()
    with tempfile.TemporaryDirectory() as folder:
        write, read = checkpoint.state_dict_saver.save, checkpoint.state_dict_loader.load
        return seconds(lambda: (write(tensors, checkpoint_id=folder), read(tensors, checkpoint_id=folder)))


def meeting() -> list[subprocess.Popen[str]]:
    """Two ranks on this machine, which look at one another's cards."""
    port = free_port()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, "-c", MEETING], env=os.environ | launched(number, 2, port), **pipes)
        for number in (0, 1)
    ]


def said_by(started: list[subprocess.Popen[str]]) -> str:
    """What two ranks said of their meeting; one card is not enough for both. Raises RuntimeError for anything else."""
    try:
        said = {process.communicate(timeout=45)[0].strip() for process in started}
    finally:
        for process in started:
            process.kill()
    wanted = "ranks 0 and 1 are on one CUDA card" if torch.cuda.device_count() == 1 else "met"
    if not all(text.startswith(wanted) for text in said) or any(process.returncode for process in started):
        raise RuntimeError(f"said {said}, ended {[process.returncode for process in started]}")
    return "met" if wanted == "met" else "refused"


def within_limits(found: dict[str, float], names: tuple[str, ...], limit: float) -> dict[str, float]:
    """The figures. Raises RuntimeError where one of these names is over the limit."""
    told = {name: float(f"{value:.3g}") for name, value in found.items()}
    if not all(told[name] <= limit for name in names):  # what is no number is over it too
        raise RuntimeError(f"over {limit:g}: {told}")
    return told


@final
@dataclass(frozen=True)
class Trained:
    """A run, with what its engine would sample with: the whole copy of a sharded model, or the model itself."""

    run: Run
    whole: Any

    def take(self, step: int) -> dict[str, float]:
        """Learn from a step's own batch; its figures."""
        return learn(self.run, batch_of(step), step).updates


def new_run(kind: Kind, ranks: Ranks | None = None, seed: int = 1) -> Trained:
    """A run from random weights, in pieces where `ranks` are given."""
    student = new_model(kind.dtype, seed)
    settings = ADAM | {"recompute": kind.recompute, "compile": kind.compiled}
    lora = {"rank": 8} if kind.adapter else None
    recipe = Recipe.model_validate(
        {"student": {"path": "random", "lora": lora}, "method": kind.method, "optim": settings}
    )
    if recipe.student.lora is not None:
        new_adapter(student, recipe.student.lora, 0, "random")
    whole = student if ranks is None else whole_copy(student, ranks, DEVICE)
    compile_where_wanted(student, recipe.optim, print)
    if kind.recompute:
        recompute_layers(student)
    if ranks is not None:
        shard(student, ranks)
    gather: Callable[[Any], Any] = gatherer(whole) if ranks is not None else lambda model: model
    idle = SimpleNamespace(sync=lambda model: None)
    teacher, method = (
        LocalTeacher(new_model(kind.dtype, 2), recipe.optim.micro_batch_tokens),
        make_method(recipe.method),
    )
    run = Run(
        recipe=recipe,
        tasks=[],
        student=student,
        teacher=teacher,
        rollout=SimpleNamespace(engine=GatheredEngine(idle, False, gather)),  # type: ignore[arg-type]
        method=method,
        optimizer=Optimizer(student, recipe.optim, 10),
        dumps=Path(tempfile.gettempdir()) / "gpu-check-dumps",
        model_teacher=teacher if method.dense else None,
        ranks=ALONE if ranks is None else ranks,
    )
    return Trained(run, whole)


def new_model(dtype: str, seed: int) -> Any:
    """Random weights of the shape, on the device, in eval mode."""
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = Qwen3Config(**SHAPE, **ends, max_position_embeddings=4096, tie_word_embeddings=True)
    torch.manual_seed(seed)
    with DEVICE:
        return Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()


def batch_of(step: int) -> TokenBatch:
    """Random tokens and rewards; all but the prompts are the student's."""
    generator = torch.Generator().manual_seed(step)
    length_B = torch.tensor(LENGTHS)
    rows, width = len(length_B), int(length_B.max())
    at_BT = torch.arange(width).expand(rows, width)
    real_BT = at_BT < length_B[:, None]
    return TokenBatch(
        token_BT=torch.randint(SHAPE["vocab_size"], (rows, width), generator=generator) * real_BT,
        turn_BT=((at_BT >= PROMPT) & real_BT).long(),
        length_B=length_B,
        group_B=torch.arange(rows) // 2,
        reward_B=torch.rand(rows, generator=generator),
        rewarded_B=torch.ones(rows, dtype=torch.bool),
        prompt_B=torch.full((rows,), PROMPT),
        sampled_BT=torch.zeros(rows, width),
        error_BK=torch.zeros(rows, 1, dtype=torch.bool),
    )


def weights(model: Any) -> dict[str, Any]:
    """A copy of a plain model's weights, in float32."""
    return {name: weight.detach().float().clone() for name, weight in model.named_parameters()}


def apart(ours: dict[str, Any], theirs: dict[str, Any], start: dict[str, Any]) -> float:
    """The distance of weights from others, by the distance of those from where they began."""
    away = sum(float((theirs[name] - value).square().sum()) for name, value in ours.items())
    moved = sum(float((value - start[name]).square().sum()) for name, value in ours.items())
    return float((away / moved) ** 0.5)


if __name__ == "__main__":
    main()
