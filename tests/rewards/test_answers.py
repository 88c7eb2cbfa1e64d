"""Where an answer stands: what prompts ask for, what each form finds, and what it does not."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from sod.records import Episode, Message, Verdict
from sod.rewards.answers import Answers, asked_forms, last_number
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.math_verifier import MathVerifier
from support import answered

GSM8K = 'Ann has 3 bags of 4 nuts. How many? Let\'s think step by step and output the final answer after "####".'
DAPO = (
    "Solve the problem step by step. The last line of your response should be of the form Answer: $Answer (without "
    "quotes) where $Answer is the answer to the problem.\n\nWhat is 5*7?\n\nRemember to put your answer on its own "
    'line after "Answer:".'
)


def asking(prompt: str, text: str, truth: str = "12", **options: object) -> Episode:
    episode = answered(text, truth, **options)  # type: ignore[arg-type]
    return replace(episode, task=replace(episode.task, prompt=(Message("user", prompt),)))


@pytest.mark.parametrize(
    ("prompt", "forms"),
    [
        (GSM8K, ("hash",)),
        (DAPO, ("answer_line",)),
        ("Put it after ####.", ("hash",)),
        ("End with\n#### <answer>", ("hash",)),
        ("End with\n#### 42", ("hash",)),
        ("Finish with:\n#### final answer", ("hash",)),
        ("#### Task\nAdd 2 and 3.\n#### Rules\nBe brief.", ()),
        ("##### Answer", ()),
        ("#### 1. Background\nTom has 3 pens.", ()),
        ("Choose the correct answer: A) 1 B) 2", ()),
        ("Write your final answer: on the last line.", ("answer_line",)),
        ("The last line is 'Answer: $LETTER'.", ("answer_line",)),
        ('Finish with "the answer is (X)" where X is the letter.', ("answer_line",)),
        ("Question: what is 2+2?\nAnswer:", ()),
        ("What is the answer?", ()),
        ("If the answer is $m/n$, find m+n.", ()),
        ("Write the final answer in \\boxed{}.", ("boxed",)),
        ("Write 'Answer: \\boxed{X}' at the end.", ("boxed", "answer_line")),
        ("The toys were boxed. Put the number after ####.", ("hash",)),
        ("Think in <think></think>, answer in <answer></answer>.", ("tags",)),
    ],
)
def test_what_a_prompt_asks_for(prompt: str, forms: tuple[str, ...]) -> None:
    assert asked_forms([Message("user", prompt)]) == forms


def test_a_system_message_asks_too() -> None:
    assert asked_forms([Message("system", "Answer after ####."), Message("user", "2+2?")]) == ("hash",)


FOUND = [
    ("hash", "3*4 = 12\n#### 12", "12"),
    ("hash", "#### 11\nno:\n#### 12 ", "12"),
    ("hash", "#### $1,234", "$1,234"),
    ("hash", "so\n####\n12", "12"),
    ("hash", "#### The final answer is: 12", "12"),
    ("hash", "#### Final Answer\n\\boxed{12}", "12"),
    ("hash", "#### **12**", "12"),
    ("hash", "the answer is 12", None),
    ("hash", "##### 12", None),
    ("hash", "12 ####", None),
    ("hash", "\\boxed{12}", None),
    ("answer_line", "so\nAnswer: 35", "35"),
    ("answer_line", "so\n**Answer:** 35", "35"),
    ("answer_line", "so\n**Answer: 35**", "35"),
    ("answer_line", "Final answer: \\(35\\)", "\\(35\\)"),
    ("answer_line", "Answer: \\boxed{35}", "35"),
    ("answer_line", "Answer:\n\n35", "35"),
    ("answer_line", "Answer: 34\nWait.\nAnswer: 35\nDone.", "35"),
    ("answer_line", "Answer: 35\nAnswer:", "35"),
    ("answer_line", "The answer is (B).", "(B)."),
    ("answer_line", "To find the answer: add them all up first. \\boxed{35}", "35"),
    ("answer_line", "To find the answer: add them all up first.", None),
    ("answer_line", "Answer: 35\nTo check the answer: 5*7 is 35, as it must be.", "35"),
    ("answer_line", "The answer is surely more than that, \\boxed{35}", "35"),
    ("answer_line", "The answer is surely more than 30.", None),
    ("answer_line", "35", None),
    ("tags", "<answer>34</answer> no <answer> 35 </answer>", "35"),
    ("tags", "<answer>so \\boxed{35}</answer>", "35"),
    ("tags", "<answer>35", None),
    ("last_number", "3 bags of 4 are 12 nuts.", "12"),
    ("last_number", "it costs $1,234.50.", "1,234.50"),
    ("last_number", "x = -3", "-3"),
    ("last_number", "7-3", "3"),
    ("last_number", "it is 3/4 of x2", "3/4"),
    ("last_number", "none", None),
    ("boxed", "#### 12", None),
    ("regex:The result: (.+)", "The result: 11\nThe result: 12", "12"),
    ("regex:[0-9]+", "11 and 12", "12"),
    ("regex:(?:result|outcome) (\\d+)?", "result 12, outcome x", "12"),
    ("regex:nothing", "12", None),
]


@pytest.mark.parametrize(("form", "text", "found"), FOUND)
def test_what_a_form_finds(form: str, text: str, found: str | None) -> None:
    read = Answers(form).read(answered(text))
    assert read.text == found
    assert (read.why == "") == (found is not None)


def test_a_form_that_was_asked_for_goes_before_a_box() -> None:
    """And without it a box counts: there is one answer either way."""
    both = "\\boxed{3} bags, so\n#### 12"
    assert Answers().read(asking(GSM8K, both)).text == "12"
    assert Answers().read(asking(GSM8K, "so \\boxed{12}")).text == "12"
    assert Answers().read(asking("What is 3*4?", both)).text == "3"
    assert Answers().read(asking(GSM8K, "twelve")).why == "nothing stands behind '####'"


def test_thoughts_are_not_read() -> None:
    assert Answers("hash").read(answered("<think>#### 11</think>so\n#### 12")).text == "12"
    assert Answers("hash").read(answered("<think>#### 12</think>so")).text is None


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        (GSM8K, "3*4=12\n#### 12", "3+4=7\n#### 7"),
        (GSM8K, "\\boxed{12.0}", "12"),
        (DAPO, "so\nAnswer: $12$", "Answer: 12 or 13"),
        ("What is 3*4? Use \\boxed{}.", "\\boxed{12}", "#### 12"),
    ],
)
def test_the_verifier_reads_what_was_asked(prompt: str, right: str, wrong: str, math_verifier: MathVerifier) -> None:
    found = math_verifier.verify([asking(prompt, right), asking(prompt, wrong)])
    assert [isinstance(verdict, Verdict) and verdict.correct for verdict in found] == [True, False]


def test_wrong_answers_behind_hashes_vote_together(math_verifier: MathVerifier) -> None:
    texts = ["#### 0.5", "#### 1/2", "#### \\frac12", "#### 3"]
    group = []
    for text in texts:
        episode = asking(GSM8K, text)
        (verdict,) = math_verifier.verify([episode])
        assert isinstance(verdict, Verdict)
        assert not verdict.correct
        group.append(replace(episode, trajectory=replace(episode.trajectory, answer=verdict.answer)))
    assert math_verifier.votes([group]) == [["1/2", "1/2", "1/2", "3"]]


def test_letters_are_read_where_the_prompt_asks() -> None:
    prompt = "The last line of your response should be 'Answer: $LETTER'."
    texts = ["so\nAnswer: B", "so\nAnswer: (B)", "Answer: B) 12", "Answer: A", "Answer: maybe B", "\\boxed{B}"]
    found = ChoiceVerifier().verify([asking(prompt, text, "B") for text in texts])
    assert [getattr(verdict, "answer", "fault") for verdict in found] == ["B", "B", "B", "A", None, "B"]
    strict = ChoiceVerifier(answers=Answers("boxed")).verify([asking(prompt, "Answer: B", "B")])
    assert strict == [Verdict(None, 0.0, "no letter of ABCD was answered, nothing was boxed")]


@pytest.mark.parametrize("form", ["hash", "answer_line", "tags", "last_number"])
@pytest.mark.parametrize(
    "junk",
    ["#### " * 30_000, "answer: \n" * 30_000, "answer is " * 20_000, "<answer>" * 30_000, "1," * 50_000, " " * 10**5],
)
def test_forms_take_no_time_over_junk(form: str, junk: str) -> None:
    started = time.process_time()
    Answers(form).read(answered(junk))
    assert time.process_time() - started < 2.0


def test_a_pattern_that_explodes_is_stopped() -> None:
    read = Answers("regex:(?:a|a|b)+\\1?(c)", seconds=0.2).read(answered("a" * 60))
    assert read.text is None
    started = time.process_time()
    read = Answers("regex:((?:a|aa)+)+$", seconds=0.2).read(answered("a" * 60 + "b"))
    assert read == (None, "the pattern of reward.answer took more than 0.2 s")
    assert time.process_time() - started < 5.0


def test_a_long_number_is_one_number() -> None:
    assert last_number("1" * 10_000) == "1" * 10_000
