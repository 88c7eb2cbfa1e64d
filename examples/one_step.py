"""One step of SOD from top to bottom: two models made from nothing, a real tool, one update, every number in sight.

    python examples/one_step.py

Nothing is downloaded; it takes about half a minute on one CPU core. The trainer does the same in
`src/sod/training/step.py`, with checks, meters and mini-batches around it.
"""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any

import torch

from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective import combine, group_advantage, loss_weights, pack, per_token, supervised_batch, turn_stats, weights
from sod.objective.scores import ScoreNeed
from sod.objective.surrogate import clipped_surrogate
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.rollout.reward import VerifierReward
from sod.tasks import chain
from sod.teachers.local import LocalTeacher
from sod.tools.python import SCHEMA, PythonTool
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox

torch.set_num_threads(1)  # so small a model gains nothing from more

# 1. A world: nested arithmetic, to be worked out one Python call at a time. Demonstrations for a cold start, and tasks.
chains = chain.splits({"sft": 256, "train": 3}, 2, 3, seed=0)
demonstrations = [chain.as_conversation(c, number, SCHEMA) for number, c in enumerate(chains["sft"])]
tasks = [chain.as_task(c, number) for number, c in enumerate(chains["train"])]

# 2. A tokenizer learned from the demonstrations, and a chat: messages to token ids, append-only.
blank = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
chat = Chat(train_tokenizer([blank.conversation_text(d.messages) for d in demonstrations], 400), [SCHEMA], "hermes")


# 3. Two random models, given as much SFT as it takes to make well-formed calls; the teacher gets more of it.
def taught(updates: int, seed: int) -> Any:
    """A small Qwen3 after `updates` updates on the demonstrations' assistant tokens."""
    model = new_qwen3(chat.tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=2048, seed=seed)
    ledgers = [chat.encode_conversation(d.messages) for d in demonstrations]
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for update in range(updates):
        batch = supervised_batch([ledgers[(update * 8 + i) % len(ledgers)] for i in range(8)])
        loss = -action_logps(model, batch).sum() / batch.action_tokens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


student, teacher = taught(updates=150, seed=3), LocalTeacher(taught(updates=300, seed=4), micro_batch_tokens=4096)

# 4. Rollout: the student plays four episodes of every task; its calls run in a real sandbox, its answers are verified.
with closing(PythonTool(LocalSandbox(ProgramLimits(seconds=2.0), workers=1))) as python:
    reward_function = VerifierReward(MathVerifier(), {}, Shaping(correct=1.0, wrong=-1.0))
    engine = TorchEngine(student, chat.stop_ids)
    rollout = Collector(engine, chat, {python.name: python}, EpisodeLimits(5, 32, 200), reward_function, seed=0)
    groups = rollout.collect(tasks, samples=4, sampling=Sampling(), purpose="train", step=1).groups
batch = pack(groups, tasks=tasks)  # token ids, turn ids and log-probabilities as sampled; nothing is encoded again

# 5. The teacher scores every token that the student sampled; d_k is the mean absolute gap of turn k.
old_BT = batch.sampled_BT  # the engine samples with the trainer's own weights in float32
scores = teacher.score(batch, batch.episodes, ScoreNeed())
stats = turn_stats(old_BT, scores, batch.turn_BT, batch.error_BK)

# 6. SOD: w_k falls as the student drifts from its teacher. A_t = w_k (log pi_T - log pi_old) + the reward's advantage.
weight_BK = weights.sod(stats, delta=0.2, epsilon=0.5)
reward_advantage_B = group_advantage(batch.reward_B, batch.group_B)
weight_BT = per_token(weight_BK, batch.turn_BT)
gap_BT = scores.logp_BT - old_BT
advantage_BT = combine(reward_advantage_B, gap_BT, weight_BT, batch.turn_BT, kappa=1.0, rho=1.0)

# 7. One update under the clipped surrogate, every action token with the same weight.
before = copy.deepcopy(student.state_dict())
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
logp_BT = action_logps(student, batch)
terms = clipped_surrogate(logp_BT, old_BT, advantage_BT, batch.turn_BT, loss_weights(batch.turn_BT))
terms.loss.backward()
optimizer.step()
engine.sync(student)  # the next episodes are sampled with the new weights

# 8. What happened.
for row, episode in enumerate(batch.episodes):
    played = episode.trajectory
    print(f"\n{played.task_id} #{played.sample}: reward {played.reward:+.0f}, A_grpo {reward_advantage_B[row]:+.2f}")
    for k, turn in enumerate(played.turns):
        said = str(turn.calls[0].arguments.get("code", "(unreadable call)")) if turn.calls else turn.text
        result = turn.results[0].text.splitlines()[-1][:20] if turn.results else ""
        print(f"  turn {k + 1}  d {stats.turn_gap_BK[row, k]:.3f}  w {weight_BK[row, k]:.2f}  {said[:32]:32}  {result}")
moved = max(float((weight - before[name]).abs().max()) for name, weight in student.state_dict().items())
print(f"\nloss {terms.loss.item():+.4f}, {batch.action_tokens()} action tokens, largest change of a weight {moved:.1e}")
