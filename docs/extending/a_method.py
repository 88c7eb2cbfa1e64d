"""Proof of `a-method.diff`: the statistic is what it says, and a step is trained with the weights it gives."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import torch
from small import refused, small_world

from sod.build.method import make_method
from sod.build.training import prepare_train
from sod.models.load import load_model
from sod.objective import turn_stats, weights
from sod.objective.scores import TeacherScores
from sod.recipe import MethodSpec, Recipe

# By hand: of turn 1 the teacher chooses one token in two, of turn 2 all; what stands at context is never read.
nan = float("nan")
teacher = TeacherScores(torch.tensor([[nan, 0.5, 0.1, nan, 0.4]]).log(), torch.tensor([[nan, 0.5, 0.6, nan, 0.4]]))
turn_BT = torch.tensor([[0, 1, 1, 0, 2]])
stats = turn_stats(torch.full((1, 5), -1.0), teacher, turn_BT)
assert stats.agreed_BK is not None
assert stats.agreed_BK.tolist() == [[0.5, 1.0]]
assert torch.allclose(weights.agreement(stats, floor=0.2), torch.tensor([[0.6, 1.0]]))
assert turn_stats(torch.zeros(1, 5), TeacherScores(teacher.logp_BT), turn_BT).agreed_BK is None

# The knob's range is checked where recipes are read.
assert refused(lambda: make_method(MethodSpec(name="agreement", floor=2))).startswith("method.floor")

# `sod methods` lists it with what it needs and its knobs.
listed = subprocess.run([sys.executable, "-m", "sod", "methods"], capture_output=True, text=True, check=True).stdout
assert "agreement" in listed
assert "weight of a turn without a token" in listed

FLOOR = 0.2
with tempfile.TemporaryDirectory() as name:
    content = {**small_world(Path(name)), "method": {"name": "agreement", "floor": FLOOR}}
    with closing(prepare_train(Recipe.model_validate(content), Path(name) / "run", False, print)) as job:
        report = job.take_step(1)
    model = load_model(content["teacher"]["path"], "float32")

# Every turn's weight again, from the teacher's whole distribution.
seen = set()
for row in report.trajectories:
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.tensor([row["token_ids"]])).logits[0]
    chosen = [None, *logits_TV.argmax(1).tolist()]
    for turn in row["turns"]:
        at = range(turn["start"], turn["start"] + turn["n_tokens"])
        share = sum(chosen[t] == row["token_ids"][t] for t in at) / len(at)
        assert abs(turn["w_k"] - (FLOOR + (1 - FLOOR) * share)) < 1e-6, (turn, share)
        seen.add(turn["w_k"])
assert len(seen) > 3, seen
print(f"agreement: {len(report.trajectories)} episodes, mean weight {report.metrics['weight']:.2f}")
