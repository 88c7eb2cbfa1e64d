"""What a run may be resumed with: its own recipe, up to keys that change nothing of what it computes.

A checkpoint carries a hash of the recipe that its run recorded at the start. The hash covers recorded keys only, so a
key that a later version adds (with a default) leaves older runs resumable, and of them only those not in
`NEUTRAL_KEYS`. Which those were is written into the run's manifest, so that the table may grow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sod.records import SodError
from sod.runlog.files import plain

_OF_A_SERVED_TEACHER = {
    "device": "as student.device",
    "url": "where the model is served; its name counts",
    "api_key_env": "where its key is found",
    "concurrency": "how many requests are under way at a time",
    "tokens_in_flight": "as teacher.concurrency",
    "seconds": "how patiently the server is asked",
    "attempts": "as teacher.seconds",
    "backoff_seconds": "as teacher.seconds",
    "backoff_max_seconds": "as teacher.seconds",
    "breaker_failures": "as teacher.seconds",
    "breaker_seconds": "as teacher.seconds",
    "cache": "where answers are kept",
    "cache_gb": "as teacher.cache",
}
NEUTRAL_KEYS: Mapping[str, str] = {
    "name": "a label",
    "threads": "belongs to the machine; null leaves it to the machine anyway",
    "deterministic": "the same sums, in an order that repeats",
    "student.device": "belongs to the machine, as threads do; auto leaves it to the machine anyway",
    **{f"teacher.{key}": why for key, why in _OF_A_SERVED_TEACHER.items()},
    **{f"teachers.*.{key}": why for key, why in _OF_A_SERVED_TEACHER.items()},
    "parallel": "who computes it: equal up to rounding",
    "trackers": "copies of the metrics to look at",
    "train.checkpoint_every": "when the state is kept, not what it is",
    "train.keep_checkpoints": "how many of them stay",
    "train.evaluate_every": "evaluations draw their own noise and move no weight",
    "train.trajectories_every": "which episodes are written down",
    "train.profile": "what is timed",
    "optim.recompute": "the same activations, computed twice",
    "sft.optim.recompute": "as optim.recompute",
    "optim.compile": "the same operations, fused: equal up to rounding",
    "sft.optim.compile": "as optim.compile",
    "rollout.cache_share": "how much memory is set aside for keys and values",
    "engine.urls": "where the servers are; that there are servers counts",
    "engine.servers": "how many of them there are",
    "engine.environment": "as engine.urls",
    "engine.push": "the same weights, on another way",
    "engine.push_dir": "as engine.push",
    "engine.tolerance": "how far a server may be off; the run stops beyond",
    "engine.turn_seconds": "when a turn is a fault of ours",
    "engine.restart_seconds": "how long a server that died is waited for",
    "launch.start_seconds": "how long a server may take to come up",
    "launch.restarts": "how often a server that ended is started again",
    "launch.student": "where servers are",
    "launch.teacher.gpus": "as launch.student",
    "launch.teacher.memory_share": "as launch.student",
    "launch.teacher.port": "as launch.student",
    "sft.checkpoint_every": "as train.checkpoint_every",
    "rollout.fault_retries": "what is done about faults of ours, which never become data",
    "rollout.max_fault_rate": "when to give up on faults of ours",
    "rollout.fault_window": "as rollout.max_fault_rate",
    "environment.concurrency": "how many environments are at work at a time",
    "environment.timeout_seconds": "when a reset or a step is a fault of ours",
    "reward.workers": "how many answers are checked at a time",
    "reward.call_workers": "how many own functions are called at a time",
    "reward.call_seconds": "when a call of an own function is a fault of ours",
    "reward.judge.max_calls": "what a judge model may cost; the run stops there",
    "reward.judge.max_tokens": "as reward.judge.max_calls",
    "reward.judge.cache": "where answers are kept",
    "reward.judge.concurrency": "how many questions are asked at a time",
    "reward.judge.seconds": "how patiently the judge is asked; that there is one counts",
    "reward.judge.attempts": "as reward.judge.seconds",
    "reward.judge.backoff_seconds": "as reward.judge.seconds",
    "reward.judge.backoff_max_seconds": "as reward.judge.seconds",
    "reward.judge.breaker_failures": "as reward.judge.seconds",
    "reward.judge.breaker_seconds": "as reward.judge.seconds",
    "tools.python.workers": "how many programs run at a time",
    "tools.python.fusion.*": "where the service is and how patiently it is asked; that there is one counts",
    "world": "read before the run, when its data and models are made",
    "compare": "read by `sod compare` alone, which writes recipes of its own",
}
"""Keys that change nothing of what is computed, each with the reason: a resume may set them anew.

A name covers all that is below it, `name.*` only that. A key that is not listed counts.
"""


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """sha256 (hex) of the recipe as canonical JSON: the order of keys does not matter, values do."""
    canonical = json.dumps(plain(recipe, finite=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def guard_hash(recipe: Mapping[str, Any], neutral: Collection[str] = tuple(NEUTRAL_KEYS)) -> str:
    """`recipe_hash` of what is left of the recipe without its neutral keys: what checkpoints carry in run format 2."""
    return recipe_hash(_computing(recipe, neutral, ""))


def differences(own: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """`(key, own value, asked value)` of every key that is not neutral and differs; an absent key counts as None.

    Both recipes with their defaults filled in by the same version, so that renamed and added keys agree.
    """
    return list(_differences(own, asked, ""))


def refuse_other_recipe(directory: Path, own: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises SodError where `asked` would compute something else than `own`, the recipe of the run in `directory`."""
    found = differences(own, asked)
    if not found:
        return
    key, mine, theirs = found[0]
    others = f" (and {len(found) - 1} more keys)" if len(found) > 1 else ""
    raise SodError(
        f"{directory}: was started with another recipe: {key} is {json.dumps(mine)} there and {json.dumps(theirs)} "
        f"here{others}; resume with the run's own value, or start a new run"
    )


def _computing(recipe: Mapping[str, Any], neutral: Collection[str], prefix: str) -> dict[str, Any]:
    kept = {}
    for name, value in recipe.items():
        key = f"{prefix}{name}"
        if not _matches(key, neutral):
            kept[name] = _computing(value, neutral, f"{key}.") if isinstance(value, Mapping) else value
    return kept


def _differences(own: Mapping[str, Any], asked: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*own, *asked]):
        key, mine, theirs = f"{prefix}{name}", own.get(name), asked.get(name)
        if mine == theirs or _matches(key, NEUTRAL_KEYS):
            continue
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(mine, theirs, f"{key}.")
        else:
            yield key, mine, theirs


def _matches(key: str, patterns: Collection[str]) -> bool:
    return key in patterns or any(fnmatchcase(key, pattern) for pattern in patterns if "*" in pattern)
