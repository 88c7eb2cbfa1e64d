"""All dialects, in the order in which they are tried. The first that speaks a template and reads its calls is taken."""

from __future__ import annotations

from sod.chat.dialects.base import Dialect
from sod.chat.dialects.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from sod.chat.dialects.functionary import FUNCTIONARY
from sod.chat.dialects.gemma3 import GEMMA3
from sod.chat.dialects.gemma4 import FUNCTION_GEMMA, GEMMA4
from sod.chat.dialects.glm4 import GLM4_5, GLM4_7, HUNYUAN3
from sod.chat.dialects.gpt_oss import GPT_OSS
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.invoked import DEEPSEEK_V3_2, DEEPSEEK_V4, MINICPM5, MINIMAX_M2
from sod.chat.dialects.json_families import (
    APERTUS,
    APRIEL,
    COHERE_MOE,
    COHERE_R7B,
    GIGACHAT3_1,
    GRANITE3,
    GRANITE_20B,
    INTERNLM2,
    MINIMAX_M1,
    NEMOTRON_NANO_2,
    TOOL_CALLS,
)
from sod.chat.dialects.kimi import KIMI_K2
from sod.chat.dialects.lfm2 import LFM2
from sod.chat.dialects.llama3_json import LLAMA3_JSON, XLAM
from sod.chat.dialects.mistral import MISTRAL_V3, MISTRAL_V11, MISTRAL_V13
from sod.chat.dialects.phi4 import PHI4, PHI4_FUNCTOOLS
from sod.chat.dialects.python_lines import PYTHON_LINES
from sod.chat.dialects.qwen_xml import NEMOTRON3, QWEN_XML, SEED_OSS, STEP3_5

DIALECTS: tuple[Dialect, ...] = (
    # Families whose marks are their own come first; those that share their marks with others come last.
    GPT_OSS,
    GEMMA4,
    FUNCTION_GEMMA,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    KIMI_K2,
    MISTRAL_V3,
    MISTRAL_V11,
    MISTRAL_V13,
    PHI4,
    PHI4_FUNCTOOLS,
    GEMMA3,
    SEED_OSS,
    QWEN_XML,
    NEMOTRON3,
    STEP3_5,
    GLM4_7,
    GLM4_5,
    HUNYUAN3,
    MINIMAX_M2,
    MINICPM5,
    DEEPSEEK_V3_2,
    DEEPSEEK_V4,
    FUNCTIONARY,
    GRANITE3,
    GRANITE_20B,
    GIGACHAT3_1,
    INTERNLM2,
    LFM2,
    APRIEL,
    TOOL_CALLS,
    MINIMAX_M1,
    NEMOTRON_NANO_2,
    APERTUS,
    COHERE_R7B,
    COHERE_MOE,
    LLAMA3_JSON,
    XLAM,
    PYTHON_LINES,
    HERMES,
)
