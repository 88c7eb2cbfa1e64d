"""Which command makes a file that a shipped recipe reads: what to run first, where it is not there yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sod.records import SodError


@final
@dataclass(frozen=True)
class Maker:
    """The `command` that makes `path`, a file or a directory with all that is in it, from the paths that it `needs`."""

    path: str
    command: str
    needs: tuple[str, ...] = ()


GSM8K_SFT = "sod sft recipes/smollm2-gsm8k.yaml"
MAKERS = (
    Maker("runs/quickstart", "sod quickstart"),
    Maker("models/smollm2-135m", "sod models smollm2 --out models/smollm2-135m"),
    Maker("data/gsm8k", "sod data gsm8k --input GSM8K/train.jsonl --out data/gsm8k"),
    Maker(
        "runs/gsm8k-teacher",
        f"{GSM8K_SFT} student.path=models/smollm2-135m --run runs/gsm8k-teacher",
        ("models/smollm2-135m", "data/gsm8k"),
    ),
    Maker(
        "models/smollm2-15l",
        "sod models prune runs/gsm8k-teacher --layers 15 --out models/smollm2-15l",
        ("runs/gsm8k-teacher",),
    ),
    Maker(
        "runs/gsm8k-student",
        f"{GSM8K_SFT} student.path=models/smollm2-15l --run runs/gsm8k-student",
        ("models/smollm2-15l", "data/gsm8k"),
    ),
    *(Maker(f"runs/qwen3-{size}-sft", f"sod sft recipes/qwen3-{size}-sft.yaml") for size in ("0.6b", "1.7b")),
    Maker(
        "runs/qwen3-4b-sft",
        "sod sft recipes/qwen3-4b-grpo-teacher.yaml student.path=Qwen/Qwen3-4B --run runs/qwen3-4b-sft",
    ),
    Maker(
        "data/hinted-30k.parquet",
        "sod data hints --input Gen-Verse/Open-AgentRL-30K --model youngzhong/SOD-GRPO_teacher-4B "
        "--out data/hinted-30k.parquet",
    ),
)
"""In the order in which they have to be run: each needs only what stands above it. The recipes' heads list them too."""


def maker_of(path: str) -> Maker | None:
    """The maker of a path as the recipes write it; None for any other path."""
    place = Path(path)
    return next((maker for maker in MAKERS if place.is_relative_to(maker.path)), None)


def refuse_unmade(paths: Mapping[str, str | Sequence[str] | None]) -> None:
    """Look for the files that a command reads, by the key or option that names them, one or several.

    Raises SodError naming all that are missing with the commands that make them, in order, where a shipped recipe's
    files are; other missing files are left to those who read them.
    """
    named = [
        (key, path) for key, value in paths.items() for path in ([value] if isinstance(value, str) else value or ())
    ]
    missing = {f"{path} ({key})": path for key, path in named if path and _unmade(path)}
    if missing:
        commands = ", then ".join(f"`{maker.command}`" for maker in _to_run(missing.values()))
        raise SodError(f"{', '.join(missing)}: not there yet; first run {commands}")


def _unmade(path: str) -> bool:
    return maker_of(path) is not None and not Path(path).exists()


def _to_run(paths: Iterable[str]) -> list[Maker]:
    """The makers of these paths, and of all that they need and that is missing too, in order."""
    wanted: set[Maker] = set()
    pending = list(paths)
    while pending:
        maker = maker_of(pending.pop())
        if maker is not None and maker not in wanted:
            wanted.add(maker)
            pending += [path for path in maker.needs if _unmade(path)]
    return [maker for maker in MAKERS if maker in wanted]
