"""Hugging Face's side of `engine.py`: `model.generate`. `python hf_generate.py SETTINGS.json`"""

from __future__ import annotations

import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch
from prompts import prompt_ids
from protocol import Line
from transformers import AutoModelForCausalLM


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    line, numbers = Line(), count()
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.bfloat16).eval()

    def generate() -> dict[str, Any]:
        ids = torch.tensor(prompt_ids(settings, next(numbers)))
        began = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            min_new_tokens=settings["tokens"],
            max_new_tokens=settings["tokens"],
        )
        return {"seconds": time.perf_counter() - began, "tokens": out[:, ids.shape[1] :].numel()}

    line.ready("transformers", "torch")
    line.serve(generate)


if __name__ == "__main__":
    main()
