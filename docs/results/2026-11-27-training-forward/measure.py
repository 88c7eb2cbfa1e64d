"""One forward less, and no padding: what each saves of an update on a CPU, ways taking turns in one process.

    PYTHONPATH=src python docs/results/2026-11-27-training-forward/measure.py [--times N] [--only CASE,CASE]

`quickstart`: the student's and the teacher's shape in float32, with the lengths of a run's episodes (128 rows a step,
steps 10 and 60, `quickstart-lengths.json` beside this file), micro-batches of 4,096 tokens. `smollm2`: six layers of
SmolLM2-135M's shape with random weights in bfloat16, 8 rows of 178 to 234 tokens, as in `benchmarks/step.py`, and 8
of 96 to 544.
Milliseconds by the wall and by the process's own CPU time, least and median of the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sod.models import forward
from sod.models.meter import Meter
from sod.models.score import score, teacher_scores
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.presets import make
from sod.objective.scores import TeacherScores
from sod.recipe import OptimSpec
from sod.training.measured import StepMeter
from sod.training.optim import Optimizer
from sod.training.update import Updater

HERE = Path(__file__).parent
chosen = forward.worth_packing


def main() -> None:
    """Every case, a line of JSON each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default="quickstart,smollm2 even,smollm2 ragged")
    given = parser.parse_args()
    torch.manual_seed(0)
    for case in given.only.split(","):
        print(json.dumps({"case": case, **CASES[case](given.times)}), flush=True)


def quickstart(times: int) -> dict[str, Any]:
    """The engine's log-probabilities are the old ones: only packing can save something. Teacher and update apart."""
    steps = json.loads((HERE / "quickstart-lengths.json").read_text(encoding="utf-8"))
    batches = [batch_of(lengths, 512, 24) for lengths in steps.values()]
    student, teacher = (qwen3(hidden, ffn) for hidden, ffn in ((96, 192), (128, 256)))
    update = updater(student, 4096)

    def taught(packed: bool) -> Callable[[], Any]:
        return lambda: [ways(packed, teacher_scores, teacher, batch, 4096) for batch in batches]

    def updated(packed: bool) -> Callable[[], Any]:
        known = [batch.scored(batch.sampled_BT, TeacherScores(batch.sampled_BT - 0.1)) for batch in batches]
        return lambda: [ways(packed, learn, update, batch) for batch in known]

    return {
        "padding": round(padding(batches, 4096), 3),
        "teacher": turns({"padded": taught(False), "packed": taught(True)}, times),
        "update": turns({"padded": updated(False), "packed": updated(True)}, times),
    }


def smollm2(lengths: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """In bfloat16 the old log-probabilities are the trainer's: from a forward before the update, or from its own."""

    def measured(times: int) -> dict[str, Any]:
        student = llama()
        update = updater(student, 2048)
        batch = batch_of(lengths, 49152, 100)
        scores = TeacherScores(batch.sampled_BT - 0.1)

        def separate(packed: bool) -> Callable[[], Any]:
            def run() -> None:
                old_BT = ways(packed, score, student, batch, 2048)
                ways(packed, learn, update, batch.scored(old_BT, scores))

            return run

        def own(packed: bool) -> Callable[[], Any]:
            return lambda: ways(packed, learn, update, batch.scored(None, scores, "update"))

        sides = {
            "forward before, padded": separate(False),
            "own forward, padded": own(False),
            "own forward, packed": own(True),
        }
        return {"padding": round(padding([batch], 2048), 3), "old and update": turns(sides, times)}

    return measured


CASES = {
    "quickstart": quickstart,
    "smollm2 even": smollm2([178 + 8 * row for row in range(8)]),
    "smollm2 ragged": smollm2([96 + 64 * row for row in range(8)]),
}


def learn(update: Updater, batch: TokenBatch) -> None:
    """Weights and update of a scored batch."""
    if batch.scores is not None and batch.scores.old_BT is not None:
        batch, _ = update.weighed(batch, 1)
    update.update(batch, 1)


def ways(packed: bool, run: Callable[..., Any], *args: Any) -> Any:
    """The call with rows padded, or with the product's own choice."""
    forward.worth_packing = chosen if packed else lambda *_: False  # type: ignore[assignment]
    return run(*args)


def turns(sides: dict[str, Callable[[], Any]], times: int) -> dict[str, Any]:
    """Milliseconds of each side, least and median, after a warm-up; ratios to the first side by the least."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(times + 1):
        for name in sides if turn % 2 else reversed(sides):
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            if turn:
                spent[name].append(((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
    table: dict[str, Any] = {}
    for name, pairs in spent.items():
        walls, cpus = zip(*pairs, strict=True)
        least = (min(walls), min(cpus))
        first = table.setdefault("_first", (*least, statistics.median(walls), statistics.median(cpus)))
        table[name] = {
            "wall": [round(least[0]), round(statistics.median(walls))],
            "cpu": [round(least[1]), round(statistics.median(cpus))],
            "of the first, cpu": [round(least[1] / first[1], 3), round(statistics.median(cpus) / first[3], 3)],
        }
    del table["_first"]
    return table


def padding(batches: Sequence[TokenBatch], budget: int) -> float:
    """Share of padding in all micro-batches."""
    micros = [micro for batch in batches for micro in batch.split(budget)]
    return 1.0 - sum(int(m.length_B.sum()) for m in micros) / sum(m.token_BT.numel() for m in micros)


def batch_of(lengths: Sequence[int], vocabulary: int, prompt: int) -> TokenBatch:
    """Random tokens; all but a prompt are the student's."""
    ids = [torch.randint(vocabulary, (length,)).tolist() for length in lengths]
    ledgers = [(row, [0] * min(prompt, len(row) - 2) + [1] * max(2, len(row) - prompt)) for row in ids]
    batch = supervised_batch(ledgers)
    return batch.filled(sampled_BT=torch.where(batch.turn_BT > 0, -6.0, 0.0))


def updater(student: Any, budget: int) -> Updater:
    """The product's, with plain on-policy distillation; the rate is 0, so that all turns start from one model."""
    spec = OptimSpec(lr=1e-12, micro_batch_tokens=budget)
    dumps = Path(tempfile.gettempdir())
    measured = StepMeter.of(Meter(), student, False)
    return Updater(student, Optimizer(student, spec, 10), make("opd", {}), spec, 1.0, None, None, dumps, measured)


def qwen3(hidden: int, ffn: int) -> Any:
    """A model of the quickstart."""
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 3, "head_dim": hidden // 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=512, **sizes, **heads, max_position_embeddings=2048, tie_word_embeddings=True)
    ).eval()


def llama() -> Any:
    """SmolLM2-135M's shape, of 30 layers the first 6."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(vocab_size=49152, **sizes, **heads, max_position_embeddings=8192, tie_word_embeddings=True)
    return LlamaForCausalLM(config).bfloat16().eval()


if __name__ == "__main__":
    main()
