"""How each style asks, which text of an episode it reads, and the flaws that it says of itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sod.chat.dialects.hermes import read
from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.base import Means
from sod.evaluation.styles.catalogue import STYLES
from sod.evaluation.styles.shuffling import as_simple_evals
from sod.records import Episode, Fault, Message, SodError, StopReason, Task, ToolResult, Trajectory, Turn, Verdict
from sod.rewards.code import CodeVerifier
from sod.rewards.code_cases import CaseSuite, same_text
from sod.rewards.code_suites import read_suite
from sod.tools.sandbox.local import LocalSandbox

EVERY = ("aime24", "aime25", "math500", "gsm8k", "gpqa_diamond", "livecodebench_v6", "humaneval", "mbpp")
TWICE = 'def twice(n):\n    """Double."""\n'
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n"
SUM = {"inputs": ["1 2\n"], "outputs": ["3\n"]}


def math(benchmark: str, answer: str, **row: Any) -> Problem:
    return Problem("p", benchmark, "math", "How much?", answer, row=row)


def choice(benchmark: str = "gpqa_diamond") -> Problem:
    options = ("red", "green", "blue", "black")
    return Problem("p", benchmark, "choice", "Which colour?", "green", options, 1, row={"High-level domain": "Physics"})


def function(benchmark: str) -> Problem:
    row = {"prompt": TWICE, "test": CHECK, "entry_point": "twice", "test_list": ["assert twice(3) == 6"]}
    columns = ("test_list",) if benchmark == "mbpp" else ("prompt", "test", "entry_point")
    task = Task("p", (Message("user", "?"),), "", extra={name: row[name] for name in columns})
    return Problem("p", benchmark, "code", TWICE, "", task=task, row=row)


def contest(extra: Mapping[str, Any] = SUM, **row: Any) -> Problem:
    task = Task("p", (Message("user", "?"),), "", extra=extra)
    return Problem("p", "livecodebench_v6", "code", "Add them.", "", task=task, row=row)


def problem(benchmark: str) -> Problem:
    if benchmark in ("humaneval", "mbpp"):
        return function(benchmark)
    if benchmark == "livecodebench_v6":
        return contest()
    return choice() if benchmark == "gpqa_diamond" else math(benchmark, "5")


def without_programs() -> CodeVerifier:
    raise AssertionError("no program is to be run")


NO_PROGRAMS = Means(without_programs)


@pytest.fixture(scope="module")
def means() -> Iterator[Means]:
    sandbox = LocalSandbox()
    yield Means(lambda: CodeVerifier(sandbox.execute, seconds=30.0))
    sandbox.close()


def verdict(outcome: Verdict | Fault) -> Verdict:
    assert isinstance(outcome, Verdict), outcome
    return outcome


def asked(style: str, of: Problem) -> str:
    return STYLES[style].prompt(of)[-1].content


def episode(*texts: str, tool: str = "", ended: StopReason = StopReason.ANSWER) -> Episode:
    """Turns that say the texts; a tool answers all but the last one."""
    turns = []
    for number, text in enumerate(texts, 1):
        results = (ToolResult(tool),) if number < len(texts) else ()
        turns.append(Turn(number, 0, 0, text, results=results, said=read(text)))
    return Episode(Task("p", (Message("user", "?"),), ""), Trajectory("p", 0, 0, (), (), (), tuple(turns), ended))


def test_every_benchmark_has_rules_in_the_styles_that_know_it() -> None:
    for style in STYLES.values():
        lacking = {"livecodebench_v6"} if style.name.startswith("lm-eval") else set()
        assert set(style.benchmarks) == set(EVERY) - lacking
        for benchmark in style.benchmarks:
            assert style.flaws(benchmark)
            assert all(len(flaw) < 200 and not flaw.endswith(".") for flaw in style.flaws(benchmark))
            assert style.sampling(benchmark).k >= 1


def test_a_benchmark_that_a_style_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(SodError, match=r"lm-eval has no rules for livecodebench_v6; it has aime24, .*official"):
        STYLES["lm-eval"].sampling("livecodebench_v6")


@pytest.mark.parametrize(
    ("style", "benchmark", "parts"),
    [
        ("sod", "aime24", ["step by step", "How much?", "\\boxed{'The final answer goes here.'}"]),
        ("sod", "math500", ["How much?", "without any units."]),
        ("sod", "gpqa_diamond", ["following Physics problem", "Which colour?\n\nA. red\nB. green", "uppercase letter"]),
        ("sod", "livecodebench_v6", ["Add them.", "Input:['1 2\\n']\nOutput:\n['3\\n']", "submit your code within"]),
        ("sod", "mbpp", ["assert twice(3) == 6", "submit your code within"]),
        ("official", "aime25", ["How much?", "integer from 0 to 999", "\\boxed{}"]),
        ("official", "math500", ["How much?", "\\boxed{}"]),
        ("official", "gsm8k", ["How much?", "#### 42"]),
        ("official", "gpqa_diamond", ["'Answer: $LETTER'", "Which colour?\n\nA) red\nB) green\nC) blue\nD) black"]),
        ("official", "livecodebench_v6", ["### Question:\nAdd them.", "Read the inputs from stdin", "### Answer: "]),
        ("official", "humaneval", ["only contain the code", TWICE]),
        ("official", "mbpp", ["assert twice(3) == 6\n[BEGIN]\n"]),
    ],
)
def test_prompts(style: str, benchmark: str, parts: list[str]) -> None:
    text = asked(style, problem(benchmark))
    at = -1
    for part in parts:
        assert text.find(part) > at, part
        at = text.find(part)


def test_starter_code_changes_the_form_that_is_asked_for() -> None:
    text = asked("official", contest(starter_code="class Solution:\n    pass"))
    assert "following starter code" in text
    assert "```python\nclass Solution:\n    pass\n```" in text
    assert "stdin" not in text
    (system, _) = STYLES["official"].prompt(contest())
    assert system.role == "system"


def test_hidden_tests_are_not_shown_but_the_public_ones_are() -> None:
    public = [{"input": "7 8\n", "output": "15\n", "testtype": "stdin"}]
    hidden = [{"input": "40 2\n", "output": "42\n", "testtype": "stdin"}]
    text = asked("sod", contest({"public_test_cases": public, "private_test_cases": hidden}))
    assert "Input:['7 8\\n']\nOutput:\n['15\\n']" in text
    assert "42" not in text


# Outputs whose verdicts show what a style says of itself.
READ = [
    ("sod", math("aime24", "73"), "\\boxed{73}", True),
    ("sod", math("aime24", "73"), "\\boxed{073}", False),
    ("sod", math("aime24", "73"), "\\boxed{73} " + "x" * 100, False),
    ("sod", math("aime24", "73"), "x" * 200 + "\\boxed{73}" + "y" * 89, True),
    ("sod", math("aime24", "73"), "x" * 200 + "\\boxed{73}" + "y" * 91, False),
    ("sod", math("aime24", "73"), "\\boxed{'73'}", False),
    ("sod", math("math500", "1/2"), "\\boxed{0.5}", False),
    ("sod", choice(), "\\boxed{B}", True),
    ("sod", choice(), "\\boxed{b}", False),
    ("lm-eval", math("aime24", "73"), "\\boxed{73}", True),
    ("lm-eval", math("aime24", "73"), "so $73$", True),
    ("lm-eval", math("aime24", "73"), "73 cm", False),
    ("lm-eval", math("gsm8k", "18"), "It costs $18.", True),
    ("lm-eval", math("gsm8k", "18"), "It costs $18...", False),
    ("lm-eval", math("gsm8k", "18"), "It costs 18.00", False),
    ("lm-eval", math("gsm8k", "18"), "18 it is.\n\nQ: How many are 5?", True),
    ("lm-eval-strict", math("gsm8k", "18"), "The answer is 18.", True),
    ("lm-eval-strict", math("gsm8k", "18"), "The answer is 18", False),
    ("lm-eval-strict", math("math500", "5"), "\\boxed{5}", False),
    ("lm-eval-strict", math("math500", "5"), "thus $5$", True),
    ("lm-eval", choice(), "The answer is (B)", True),
    ("lm-eval", choice(), "(B), as f(A) shows: it is not (A)", False),
    ("lm-eval", choice(), "\\boxed{B}", False),
    ("lm-eval", choice(), "It is green.", True),
    ("lm-eval-strict", choice(), "The answer is (B).", True),
    ("lm-eval-strict", choice(), "The answer is B", False),
    ("official", math("aime24", "73"), "\\boxed{073}", True),
    ("official", math("aime24", "73"), "\\boxed{73.0}", False),
    ("official", math("aime24", "73"), "\\boxed{1073}", False),
    ("official", math("math500", "\\frac{1}{2}"), "\\boxed{0.5}", True),
    ("official", math("math500", "\\frac{1}{4}"), "\\boxed{0.25}", False),
    ("official", math("math500", "10,000"), "\\boxed{10000}", False),
    ("official", math("gsm8k", "1,250"), "#### 1250", True),
    ("official", math("gsm8k", "18"), "#### $18", False),
    ("official", math("gsm8k", "18"), "#### 18.", False),
    ("official", math("gsm8k", "18"), "#### 81\n#### 18", False),
    ("official", choice(), "Answer: B", True),
    ("official", choice(), "Answer: Both are fine, but: Answer: C", True),
    ("official", choice(), "Answer: (B)", False),
    ("official", choice(), "answer: b", False),
]


@pytest.mark.parametrize(("style", "of", "text", "right"), READ)
def test_flaws_are_as_they_are_said(style: str, of: Problem, text: str, right: bool) -> None:
    assert verdict(STYLES[style].score(of, text, NO_PROGRAMS)).correct is right


RUN = [
    ("sod", contest(), "```python\na, b = map(int, input().split())\nprint(a + b)\n```", True),
    ("sod", contest(), "```python\na, b = map(int, input().split())\nprint(a + b, end='\\n')\n```", False),
    ("sod", contest(), "```python\na, b = map(int, input().split())\nprint(a + b, '')\n```", False),
    ("sod", contest(), "<think></think>hm<think></think>```python\nprint(3)\n```", False),
    ("official", contest(), "```python\nprint('3 ', end='\\n')\n```", True),
    ("official", contest(), "```python\nprint(3)\n```\nIt prints\n```\n3\n```", False),
    ("official", function("humaneval"), "    return n * 2\ndef other():\n    pass", True),
    ("official", function("humaneval"), "```python\ndef twice(n):\n    return n * 2\n```", True),
    (
        "official",
        function("humaneval"),
        "```python\nimport math\ndef twice(n):\n    return 2 * math.floor(n)\n```",
        False,
    ),
    ("official", function("mbpp"), "def twice(n):\n    return n * 2\n[DONE] and so on", True),
    ("official", function("mbpp"), "def twice(n: List[int]):\n    return n * 2", False),  # annotations are evaluated
    ("lm-eval", function("humaneval"), "    return n * 2\n```\nso", True),
    ("lm-eval", function("mbpp"), "\ndef twice(n):\n    return n * 2\n```", True),
    ("lm-eval", function("mbpp"), "def twice(n):\n    return n * 2\n```", False),
]


@pytest.mark.slow
@pytest.mark.parametrize("style", ["sod", "official", "lm-eval"])
def test_flaws_of_programs_are_as_they_are_said(style: str, means: Means) -> None:
    mine = [(of, text) for name, of, text, _ in RUN if name == style]
    found = [verdict(one).correct for one in STYLES[style].scores(mine, means)]
    assert found == [right for name, _, _, right in RUN if name == style]


@pytest.mark.slow
def test_math_verify_reads_whole_texts_and_reports_what_it_found() -> None:
    of = math("math500", "\\frac{1}{2}", solution="Halving gives $\\boxed{\\frac{1}{2}}$.")
    texts = ["The answer is 0.5", "\\boxed{2/4}", "\\boxed{2}", "", "Problem: \\boxed{0.5}"]
    outcomes = [verdict(one) for one in STYLES["lm-eval"].scores([(of, text) for text in texts], NO_PROGRAMS)]
    assert [one.correct for one in outcomes] == [True, True, False, False, False]
    assert [one.answer for one in outcomes] == ["\\frac{1}{2}", "\\frac{1}{2}", "2", None, None]


def test_a_style_reads_what_its_harness_would_have_read() -> None:
    aime = math("aime24", "73")
    thought = episode("<think>\n\\boxed{73}\n</think>\nThat is all.")
    after_tool = episode("first", "short.", tool="the box \\boxed{73}")
    cut_off = episode("<think>\nso \\boxed{73} is", ended=StopReason.LENGTH)
    for style, right in (("sod", [1, 1, 1]), ("lm-eval", [1, 0, 1]), ("official", [0, 0, 0])):
        verifier = STYLES[style].verifier([aime], NO_PROGRAMS)
        found = [verdict(one).correct for one in verifier.verify([thought, after_tool, cut_off])]
        assert found == [bool(one) for one in right], style
        verifier.close()
        verifier.close()


@pytest.mark.slow
def test_a_chat_answer_is_read_as_if_the_harness_had_opened_its_block(means: Means) -> None:
    fenced = episode("Here it is:\n```python\nfrom typing import List\n\ndef twice(n):\n    return 2 * n\n```\nDone.")
    bare = episode("    return 2 * n")
    for benchmark, right in (("humaneval", [True, True]), ("mbpp", [True, False])):
        verifier = STYLES["lm-eval"].verifier([function(benchmark)], means)
        assert [verdict(one).correct for one in verifier.verify([fenced, bare])] == right


def test_votes_are_the_answers_in_the_spelling_that_is_compared() -> None:
    verifier = STYLES["official"].verifier([math("math500", "\\frac{1}{2}")], NO_PROGRAMS)
    said = [episode(f"\\boxed{{{answer}}}") for answer in ("0.5", "1/2", "\\dfrac12", "3", "")]
    said.append(episode("no box"))
    verified = []
    for one, outcome in zip(said, verifier.verify(said), strict=True):
        found = verdict(outcome)
        verified.append(replace(one, trajectory=replace(one.trajectory, answer=found.answer, correct=found.correct)))
    assert verifier.votes([verified]) == [["\\frac{1}{2}"] * 3 + ["3", "", None]]


def test_an_episode_on_another_task_is_refused() -> None:
    verifier = STYLES["sod"].verifier([replace(math("aime24", "1"), id="other")], NO_PROGRAMS)
    with pytest.raises(SodError, match="task 'p' is none of its problems"):
        verifier.verify([episode("1")])


def test_scores_come_in_order_whatever_the_benchmarks() -> None:
    outputs = [(math("aime24", "1"), "\\boxed{1}"), (choice(), "Answer: A"), (math("aime24", "1"), "\\boxed{2}")]
    outputs += [(choice(), "Answer: B")]
    found = [verdict(one).correct for one in STYLES["official"].scores(outputs, NO_PROGRAMS)]
    assert found == [True, False, False, True]


def test_options_are_shuffled_by_seed_and_id_and_the_letter_goes_with_them() -> None:
    problems = [replace(choice(), id=str(number)) for number in range(40)]
    once, again = (STYLES["sod"].arranged(problems, 1) for _ in range(2))
    assert once == again
    assert once != STYLES["sod"].arranged(problems, 2)
    assert {one.letter for one in once} == set("ABCD")
    assert all(one.choices[one.right] == "green" for one in once)
    assert STYLES["sod"].arranged(problems[5:], 1) == once[5:]


def test_the_official_order_is_that_of_simple_evals_whatever_the_seed() -> None:
    options = ("right", "first", "second", "third")
    problems = [Problem(str(n), "gpqa_diamond", "choice", "?", "right", options) for n in range(5)]
    numbers = random.Random(0)
    orders = [numbers.sample(range(4), 4) for _ in problems]
    found = STYLES["official"].arranged(problems, 7)
    assert [one.choices for one in found] == [tuple(options[at] for at in order) for order in orders]
    assert [one.choices[one.right] for one in found] == ["right"] * 5
    assert as_simple_evals([math("aime24", "1")], 0) == [math("aime24", "1")]


def test_an_output_compared_to_the_letter_differs_by_a_space() -> None:
    assert same_text("3\n\n", "3\n")
    assert not same_text("3 \n", "3\n")
    suite = read_suite(Task("t", (Message("user", "?"),), "", extra=SUM))
    assert isinstance(suite, CaseSuite)
    assert not suite.verbatim
