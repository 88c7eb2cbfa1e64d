"""Small chat templates of our own, each laid out in the manner of a family; the words in them are invented."""

from __future__ import annotations

from dataclasses import dataclass

BAR, LOW = "\uff5c", "\u2581"
PROPERTIES = "{{ tools | tojson if tools else '' }}"


def deepseek(text: str) -> str:
    """`<~a b~>` as DeepSeek writes a token."""
    parts = text.split("~")
    inner = [part.replace(" ", LOW) if at % 2 else part for at, part in enumerate(parts)]
    return BAR.join(inner)


@dataclass(frozen=True)
class Family:
    """A template, and what is to be found out of it: the dialect, and the texts that end an answer and a call."""

    template: str
    dialect: str
    end: str
    call_end: str
    users: bool = True  # whether another question can be appended
    lossy: bool = False  # whether it drops what is said beside a call


QWEN_XML = """
{{- '<|im_start|>system\n<tools>' + (tools | tojson) + '</tools>\n<tool_call>\n<function=f>\n<|im_end|>\n' if tools }}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' }}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.index0 > (messages | map(attribute='role') | list | length) - 2 %}
{{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}
{%- endif %}
{{- m.content | trim }}
{%- for c in m.tool_calls or [] %}
{{- ('\n\n' if loop.first and m.content | trim else ('' if loop.first else '\n')) + '<tool_call>\n<function=' }}
{{- c.function.name + '>\n' }}
{%- for k, v in c.function.arguments | items %}
{{- '<parameter=' + k + '>\n' + (v if v is string else v | tojson) + '\n</parameter>\n' }}
{%- endfor %}
{{- '</function>\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\n<think>\n' if add_generation_prompt }}"""

LLAMA3 = """
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython<|eot_id|>' }}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
{%- set f = m.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + f.name + '", "parameters": ' }}
{{- (f.arguments | tojson) + '}' + ('<|eom_id|>' if builtin_tools is defined else '<|eot_id|>') }}
{%- elif m.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{{- (tools | tojson + '\n\n') if loop.first and tools }}{{ (m.content | trim) + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }}"""

MISTRAL_V3 = """
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{%- if messages[0].role == 'system' %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' if tools and m == asked[-1] }}
{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.tool_calls %}
{{- '[TOOL_CALLS][' }}
{%- for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}
{{- (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}
{%- endfor %}
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}
{{- '[TOOL_RESULTS]{"content": ' + m.content + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}
{{- m.content + eos_token }}
{%- endif %}
{%- endfor %}"""

MISTRAL_V11 = """
{{- bos_token + ('[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' if tools else '') }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS]' + m.tool_call_id + '[TOOL_CONTENT]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{ m.content }}
{%- for c in m.tool_calls or [] %}
{{- '[TOOL_CALLS]' + c.function.name + '[CALL_ID]' + c.id + '[ARGS]' + (c.function.arguments | tojson) }}
{%- endfor %}
{{- eos_token }}
{%- endif %}
{%- endfor %}"""

GPT_OSS = """
{{- '<|start|>system<|message|>Channels: analysis, commentary, final.<|end|>' }}
{{- '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' if tools }}
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json<|message|>' }}
{{- (m.tool_calls[0].function.arguments | tojson) + '<|call|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
{%- elif m.role == 'tool' %}
{%- set said = messages[loop.index0 - 1] %}
{%- if not said.tool_calls %}{{ raise_exception('a result without a call') }}{% endif %}
{{- '<|start|>functions.' + said.tool_calls[0].function.name + ' to=assistant<|channel|>commentary<|message|>' }}
{{- (m.content | tojson) + '<|end|>' }}
{%- else %}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{{- '<|start|>assistant' if add_generation_prompt }}"""

GEMMA4 = """
{%- macro shown(v) %}
{%- if v is string %}{{ '<|"|>' + v + '<|"|>' }}
{%- elif v is mapping %}{{ '{' }}{% for k, x in v | dictsort %}{{ k + ':' + shown(x) + ('' if loop.last else ',') }}
{%- endfor %}{{ '}' }}
{%- else %}{{ v | tojson }}{% endif %}
{%- endmacro %}
{{- bos_token }}
{%- if tools %}{{ '<|turn>system\n' }}
{%- for t in tools %}
{{- '<|tool>declaration:' + t.function.name + shown(t.function.parameters) + '<tool|>' }}
{%- endfor %}
{{- '<turn|>\n' }}{% endif %}
{%- set ns = namespace(inside=false) %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|tool_response>response:' + m.name + '{value:<|"|>' + m.content + '<|"|>}<tool_response|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|turn>model\n' if not ns.inside }}{{ m.content | trim }}
{%- for c in m.tool_calls or [] %}
{{- '<|tool_call>call:' + c.function.name + shown(c.function.arguments) + '<tool_call|>' }}
{%- endfor %}
{%- set ns.inside = m.tool_calls | length > 0 if m.tool_calls else false %}
{{- '<turn|>\n' if not ns.inside }}
{%- else %}
{{- '<|turn>' + m.role + '\n' + (m.content | trim) + '<turn|>\n' }}{% set ns.inside = false %}
{%- endif %}
{%- endfor %}
{{- '<|turn>model\n' if add_generation_prompt and not ns.inside }}"""

GEMMA3 = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{{- (m.content if m.content is string else m.content[0].text) | trim }}{{ '<end_of_turn>\n' }}
{%- endfor %}
{{- '<start_of_turn>model\n' if add_generation_prompt }}"""

DEEPSEEK_V3 = deepseek("""
{{- bos_token + (tools | tojson if tools else '') }}
{%- set ns = namespace(tool=false) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<~User~>' + m.content }}{% set ns.tool = false %}
{%- elif m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'tool' %}
{{- '<~tool outputs begin~>' if not ns.tool }}{{ '<~tool output begin~>' + m.content + '<~tool output end~>' }}
{{- '<~tool outputs end~>' if loop.last or messages[loop.index0 + 1].role != 'tool' }}{% set ns.tool = true %}
{%- else %}
{{- '<~Assistant~>' if not ns.tool }}
{{- m.content if m.content is not none }}
{%- if m.content is none %}{{ '<~tool calls begin~>' }}
{%- for c in m.tool_calls %}
{{- '\n' if not loop.first }}
{{- '<~tool call begin~>' + c.type + '<~tool sep~>' + c.function.name + '\n```json\n' }}
{{- c.function.arguments + '\n```' + '<~tool call end~>' }}
{%- endfor %}
{{- '<~tool calls end~>' }}{% endif %}
{{- '<~end of sentence~>' }}{% set ns.tool = false %}
{%- endif %}
{%- endfor %}
{{- '<~Assistant~>OPEN' if add_generation_prompt and not ns.tool }}""")

GLM = """
{{- '[gMASK]<sop>' + ('<|system|>\n' + (tools | tojson) + '\n<tool_call>name\n<arg_key>' if tools else '') }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|assistant|>\n<think></think>\n' + (m.content | trim) }}
{%- for c in m.tool_calls or [] %}
{{- '\n<tool_call>' + c.function.name + '\n' }}
{%- for k, v in c.function.arguments.items() %}
{{- '<arg_key>' + k + '</arg_key>\n<arg_value>' + (v if v is string else v | tojson) + '</arg_value>\n' }}
{%- endfor %}
{{- '</tool_call>' }}
{%- endfor %}
{%- elif m.role == 'tool' %}
{{- '<|observation|>' if messages[loop.index0 - 1].role != 'tool' }}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- else %}
{{- ('<|user|>' if m.role == 'user' else '<|system|>') + '\n' + m.content }}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt }}"""

GRANITE3 = """
{{- '<|start_of_role|>system<|end_of_role|>Call with <|tool_call|> and a JSON list.<|end_of_text|>\n' }}
{{- '<|start_of_role|>available_tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\n' if tools }}
{%- for m in messages %}
{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}
{%- endfor %}
{{- '<|start_of_role|>assistant<|end_of_role|>' if add_generation_prompt }}"""

PHI4 = """
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{{- '<|assistant|><|tool_call|>[' }}
{%- for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}
{{- ', ' if not loop.last }}{% endfor %}
{{- ']<|/tool_call|><|end|>' }}
{%- else %}
{{- '<|' + m.role + '|>' + m.content }}
{{- '<|tool|>' + (tools | tojson) + '<|/tool|>' if loop.first and tools }}{{ '<|end|>' }}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt else eos_token }}"""

SMOLLM3 = """
{{- '<|im_start|>system\n' + (xml_tools | tojson if xml_tools else '') + '\nCall with <tool_call>.<|im_end|>\n' }}
{%- for m in messages %}
{{- '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' + m.content }}
{%- for c in m.tool_calls or [] %}
{{- ('\n' if m.content or not loop.first else '') + '<tool_call>\n{"name": "' + c.function.name }}
{{- '", "arguments": ' + (c.function.arguments | tojson) + '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\n' if add_generation_prompt }}"""

END = deepseek("<~end of sentence~>")
FAMILIES = {
    "Qwen3.5": Family(QWEN_XML, "qwen-xml", "<|im_end|>", "<|im_end|>"),
    "Llama 3": Family(LLAMA3, "llama3-json", "<|eot_id|>", "<|eot_id|>", lossy=True),
    "Mistral v3": Family(MISTRAL_V3, "mistral-v3", "</s>", "</s>", users=False, lossy=True),
    "Mistral v11": Family(MISTRAL_V11, "mistral-v11", "</s>", "</s>"),
    "gpt-oss": Family(GPT_OSS, "gpt-oss", "<|return|>", "<|call|>", lossy=True),
    "Gemma 4": Family(GEMMA4, "gemma4", "<turn|>", "<|tool_response>"),
    "Gemma 3": Family(GEMMA3, "gemma3", "<end_of_turn>", "<end_of_turn>"),
    "DeepSeek V3": Family(DEEPSEEK_V3.replace("OPEN", ""), "deepseek-v3", END, END, lossy=True),
    "DeepSeek R1": Family(DEEPSEEK_V3.replace("OPEN", "<think>\n"), "deepseek-v3", END, END, lossy=True),
    "GLM 4.5": Family(GLM, "glm4.5", "<|user|>", "<|observation|>"),
    "Granite 3": Family(GRANITE3, "granite3", "<|end_of_text|>", "<|end_of_text|>"),
    "Phi-4-mini": Family(PHI4, "phi4", "<|end|>", "<|end|>", lossy=True),
    "SmolLM3": Family(SMOLLM3, "hermes", "<|im_end|>", "<|im_end|>"),
}
