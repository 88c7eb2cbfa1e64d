"""Small rows of every shape that is read, and of some that are refused: what `docs/data.md` shows and a test loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

Row = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Example:
    """A row under a title; `settings` are the recipe's keys that it takes, `sft` whether it is a conversation."""

    title: str
    row: Row
    settings: Mapping[str, Any] = field(default_factory=dict)
    sft: bool = False


CODE = {"type": "object", "properties": {"code": {"type": "string"}}}
CALL = {"type": "function", "function": {"name": "python", "arguments": '{"code": "print(17*23)"}'}}
PYTHON = {"type": "function", "function": {"name": "python", "description": "runs code", "parameters": CODE}}
ASKED = "What is 17*23?"
ASKS = {"role": "user", "content": ASKED}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "391"}
SAYS = {"role": "assistant", "content": "It is 391."}
MARKED = '<tool_call>\n{"name": "python", "arguments": {"code": "print(17*23)"}}\n</tool_call>'
CHECKED = "def check(candidate):\n    assert candidate(1) == 2\n"
CASE = (
    "import unittest\n\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n"
)
PAIR = {"inputs": ["1\n"], "outputs": ["2\n"]}

TASKS: Sequence[Example] = (
    Example(
        "verl, DAPO, Open-AgentRL: messages, and a truth in `reward_model`",
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f'{ASKED} Output the final answer after "####".'}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "391"},
            "extra_info": {"index": 7},
        },
    ),
    Example(
        "SkyRL: `reward_spec`",
        {"prompt": [ASKS], "env_class": "math", "reward_spec": {"method": "rule", "ground_truth": "391"}},
    ),
    Example(
        "A prompt and a truth in columns of any of the usual names: TRL's GRPO, MATH, AIME, GSM8K, OpenRLHF, slime",
        {"problem": ASKED, "answer": "391", "source": "arithmetic"},
    ),
    Example("AReaL: `messages` and an answer", {"messages": [ASKS], "answer": "391"}),
    Example(
        "Any other names: `data.columns`",
        {"q": ASKED, "a": "391"},
        {"data.columns": {"prompt": "q", "ground_truth": "a"}},
    ),
    Example("Accepted alternatives: a list", {"question": "Name a prime below 4.", "answer": ["2", "3"]}),
    Example(
        "A list that is right as a whole: `is_multiple_answer`, OlympiadBench, or `reward.truths=all`",
        {"question": "Solve x^2-8x+15=0.", "final_answer": ["3", "5"], "is_multiple_answer": True},
    ),
    Example(
        "NeMo-Gym: a request of the Responses API",
        {"responses_create_params": {"input": [ASKS], "tools": []}, "expected_answer": "391"},
    ),
    Example(
        "prime-rl: `verification_info`",
        {"prompt": ASKED, "verification_info": '{"ground_truth": "391"}', "task_type": "math"},
    ),
    Example(
        "Open-Reasoner-Zero: a conversation with the truth at its end",
        {
            "conversations": [
                {"from": "human", "value": ASKED},
                {"from": "assistant", "ground_truth": {"value": "391", "pass_at_n": 0.5}},
            ]
        },
    ),
    Example(
        "Multiple choice: options as a list, a mapping or columns, the right one as letter, index or text",
        {"question": ASKED, "choices": ["381", "391", "401"], "answer": 1},
    ),
    Example(
        "HumanEval",
        {
            "prompt": "def f(x):\n    ...\n",
            "entry_point": "f",
            "test": CHECKED,
            "canonical_solution": "    return x + 1\n",
        },
    ),
    Example("MBPP", {"text": "Write f(x), which returns x+1.", "test_list": ["assert f(1) == 2"]}),
    Example("APPS, TACO", {"question": "Read x and print x+1.", "input_output": PAIR}),
    Example(
        "DeepCoder, PrimeIntellect", {"problem": "Read x and print x+1.", "tests": [{"input": "1", "output": "2"}]}
    ),
    Example(
        "prompt and tests",
        {"prompt": "def f(x):\n    # x+1\n", "test": "def check():\n    assert f(1) == 2\n\ncheck()"},
    ),
    Example("AceCode", {"question": "Write f(x), which returns x+1.", "test_cases": ["assert f(1) == 2"]}),
    Example(
        "KodCode: pytest",
        {
            "question": "Write f(x), which returns x+1.",
            "test": "from solution import f\n\ndef test_a():\n    assert f(1) == 2\n",
            "solution": "def f(x):\n    return x + 1\n",
        },
    ),
    Example(
        "BigCodeBench: unittest",
        {"instruct_prompt": "Write f(x), which returns x+1.", "entry_point": "f", "test": CASE},
    ),
    Example(
        "LiveCodeBench",
        {
            "question_content": "Read x and print x+1.",
            "public_test_cases": '[{"input": "1", "output": "2", "testtype": "stdin"}]',
        },
    ),
    Example(
        "CodeContests",
        {"description": "Read x and print x+1.", "public_tests": {"input": ["1\n"], "output": ["2\n"]}},
    ),
    Example(
        "LeetCodeDataset",
        {"query": "Write f(x), which returns x+1.", "entry_point": "f", "test": CHECKED, "starter_code": "def f(x):"},
    ),
)
CONVERSATIONS: Sequence[Example] = (
    Example("OpenAI: `messages` and `tools`", {"messages": [ASKS, CALLS, RESULT, SAYS], "tools": [PYTHON]}, sft=True),
    Example(
        "Several user turns, a turn that does not count, a thought",
        {
            "messages": [
                ASKS,
                {"role": "assistant", "content": "371", "weight": 0},
                {"role": "user", "content": "No."},
                {"role": "assistant", "reasoning_content": "340+51.", "content": "391"},
            ]
        },
        sft=True,
    ),
    Example(
        "ShareGPT: `conversations`",
        {
            "conversations": [
                {"from": "human", "value": ASKED},
                {"from": "function_call", "value": '{"name": "python", "arguments": {"code": "print(17*23)"}}'},
                {"from": "observation", "value": "391"},
                {"from": "gpt", "value": "It is 391."},
            ],
            "tools": '[{"name": "python", "parameters": {"type": "object"}}]',
        },
        sft=True,
    ),
    Example(
        "Calls in the text, as Hermes writes them",
        {"messages": [ASKS, {"role": "assistant", "content": MARKED}, RESULT, SAYS]},
        sft=True,
    ),
    Example(
        "Anthropic: blocks",
        {
            "messages": [
                ASKS,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t1", "name": "python", "input": {"code": "print(17*23)"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "391"}]},
                SAYS,
            ]
        },
        sft=True,
    ),
    Example("TRL: `prompt` and `completion`", {"prompt": [ASKS], "completion": [SAYS]}, sft=True),
    Example("Alpaca", {"instruction": "Multiply.", "input": "17 and 23", "output": "391"}, sft=True),
    Example(
        "xLAM, APIGen: a query and the calls that answer it",
        {
            "query": ASKED,
            "tools": '[{"name": "multiply", "parameters": {"a": {"type": "int"}, "b": {"type": "int"}}}]',
            "answers": '[{"name": "multiply", "arguments": {"a": 17, "b": 23}}]',
        },
        sft=True,
    ),
    Example(
        "Glaive: texts",
        {
            "system": "SYSTEM: You are an assistant with access to the following functions. Use them if required -\n"
            '{"name": "now", "parameters": {}}',
            "chat": 'USER: What time is it?\n\nASSISTANT: <functioncall> {"name": "now", "arguments": \'{}\'} '
            '<|endoftext|>\n\nFUNCTION RESPONSE: {"time": "12:00"}\n\nASSISTANT: Noon. <|endoftext|>',
        },
        sft=True,
    ),
    Example(
        "ToolACE: functions in the system text, calls in brackets",
        {
            "system": "You are given functions. Put it in the format of [func1(params_name=params_value...)]\n"
            '[{"name": "multiply", "parameters": {"type": "dict", '
            '"properties": {"a": {"type": "int"}, "b": {"type": "int"}}}}]',
            "conversations": [
                {"from": "user", "value": ASKED},
                {"from": "assistant", "value": "[multiply(a=17, b=23)]"},
                {"from": "tool", "value": '[{"name": "multiply", "results": 391}]'},
                {"from": "assistant", "value": "It is 391."},
            ],
        },
        sft=True,
    ),
    Example(
        "Our own episodes: a run directory, its `trajectories/*.jsonl`, or an evaluation's `generations.jsonl`",
        {
            "format": 2,
            "task_id": "t",
            "sample": 0,
            "stop": "answer",
            "reward": 1.0,
            "prompt": [ASKS],
            "tools": [PYTHON],
            "turns": [
                {
                    "k": 1,
                    "said": {
                        "thinking": "",
                        "answer": "",
                        "calls": [{"name": "python", "arguments": {"code": "print(17*23)"}}],
                    },
                    "calls": [{"name": "python", "arguments": {"code": "print(17*23)"}}],
                    "results": [{"text": "391", "error": None}],
                },
                {"k": 2, "said": {"thinking": "", "answer": "\\boxed{391}", "calls": []}, "calls": [], "results": []},
            ],
        },
        sft=True,
    ),
)
REFUSED: Sequence[Example] = (
    Example("a task without a truth", {"prompt": [ASKS], "reward_model": {"style": "rule"}}),
    Example(
        "a task with an image",
        {"prompt": [ASKS], "images": [{"bytes": "aGk="}], "reward_model": {"ground_truth": "4"}},
    ),
    Example("a whole solution as the truth", {"problem": ASKED, "answer": "We multiply the numbers one by one. " * 30}),
    Example("a conversation without an assistant", {"messages": [ASKS]}, sft=True),
    Example("a preference pair", {"prompt": ASKED, "chosen": "391", "rejected": "371"}, sft=True),
)
