"""What tells two evaluations apart: the bytes of a model, the contents of tasks, the settings that touch an episode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sod.build.own_code import code_rows
from sod.hub import cached_model_file
from sod.models.adapters import base_source, is_adapter
from sod.recipe import Recipe, resolved
from sod.records import Task

WHOLE_BYTES = 1 << 22
"""A file of more is told by its size and `PIECES` pieces of it: weights that were trained differ everywhere."""
PIECES, PIECE_BYTES = 64, 1 << 16
READ: Mapping[str, Sequence[str]] = {
    "seed": (),
    "student": ("path", "lora"),
    "chat": (),
    "tools": (),
    "environment": (),
    "reward": (),
    "rollout": (
        *("prompts", "samples", "temperature", "top_p", "top_k", "max_rows", "decode_chunk"),
        *("distill_before_fault", "max_staleness", "importance"),
    ),
    "evaluation": ("k", "tasks"),
}
"""The sections of a recipe that an evaluation plays by, with the keys of each that are not read or stand elsewhere."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe touches an evaluation's episodes, as plain values, and the user's own code by its hash."""
    whole = resolved(recipe)
    kept: dict[str, Any] = {}
    for section, left_out in READ.items():
        value = whole.get(section)
        kept[section] = {k: v for k, v in value.items() if k not in left_out} if isinstance(value, dict) else value
    kept["engine"] = {"kind": recipe.engine.kind}
    kept["code"] = {row["key"]: row["source_sha256"] for row in code_rows(recipe)}
    return kept


def model_fingerprint(path: str, name: str) -> dict[str, str]:
    """A model by `name` and the hash of its files; one of the hub by its revision. An adapter's base counts too."""
    digest = hashlib.sha256()
    for place in [path, *([base_source(path).path] if is_adapter(path) else [])]:
        directory = Path(place)
        if directory.is_dir():
            for file in sorted(entry for entry in directory.iterdir() if entry.is_file()):
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
                _add(digest, file)
        else:
            cached = cached_model_file(place, "config.json")
            digest.update(f"{place} {cached.parent.name if cached is not None else ''}\n".encode())
    return {"name": name, "sha256": digest.hexdigest()}


def tasks_fingerprint(tasks: Sequence[Task], name: str) -> dict[str, Any]:
    """Tasks by `name`, their number, and a hash of all that is asked and judged."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps(asdict(task), default=repr).encode())
    return {"name": name, "number": len(tasks), "sha256": digest.hexdigest()}


def _add(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= WHOLE_BYTES:
            digest.update(opened.read())
            return
        for piece in range(PIECES):
            opened.seek((size - PIECE_BYTES) * piece // (PIECES - 1))
            digest.update(opened.read(PIECE_BYTES))
