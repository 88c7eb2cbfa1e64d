"""The verifier for mathematics: exact in process, symbolic in worker processes.

An answer is first compared exactly (`sod.rewards.math`). Where that fails and the ground truth is
an expression, a set, an interval, a matrix, an equation, the pair is put to math-verify in a
process that can be killed (`math_workers`). What that adds: `1+x` is `x+1`, `\\sqrt{117}` is
`3\\sqrt{13}`, `-2,1` is the list `1,-2`, `5\\pi/10` is `\\frac{\\pi}{2}`, `x \\in [1,2]` is `[1,2]`.

What it deliberately does not add, because math-verify says yes to it (see `may_ask`):

- an unevaluated expression where the truth is a number: else `\\boxed{17\\cdot 23}` would earn the
  reward of `391` without any work (`accept_unevaluated` switches this guard off);
- words (`24 clips` is not 24, and `on` is not `no`), letters of the other case, numbers in another
  base, equations whose left side is not a name (`6=5` is not 5), a tuple for a set, `3,3` for 3.

Known weakness: where the truth is an expression, every equal expression is right, even the one that
the task asked to factor or to simplify.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import final

from sod.records import Episode, Fault, Task, Verdict
from sod.rewards.answers import Answers, Read
from sod.rewards.math import WRAPPERS, normalise, rational
from sod.rewards.math_workers import MathWorkers, Pair
from sod.rewards.votes import Compared, merged

LONGEST_ASKED = 1000  # characters of an answer or truth that math-verify is asked about

_CONNECTIVE = re.compile(r"\s*,?\s*\\(?:text|mbox|mathrm)\s*\{\s*(?:and|or)\s*\}")
_BETWEEN = re.compile(rf"{_CONNECTIVE.pattern}\s*|\s*,?\s\b(?:and|or)\b\s")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_WORD_IN_TEXT = re.compile(rf"{WRAPPERS}\s*\{{[^{{}}]*[^\W\d_]{{2,}}[^{{}}]*\}}")
_MEMBER_OF = re.compile(r"^([a-zA-Z])\s*\\in(?![a-zA-Z])\s*")
_COEFFICIENT = re.compile(r"(?<=[0-9]) (?=[a-zA-Z])")
_CLOSED_AT_INFINITY = re.compile(r"\[-\\infty|\\infty\s*\]")
_NAME = re.compile(r"[a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-zA-Z]\))?")
_IN_A_BASE = re.compile(r"[0-9]_")
_LIKE_THOUSANDS = re.compile(r"[0-9], ?[0-9]{3}")
_TO_BE_EVALUATED = re.compile(r"\\(?:int|sum|prod|lim)(?![a-zA-Z])")
_RELATION = re.compile(r"(?<![<>!:])=(?!=)")


@final
class MathVerifier:
    """Verifies the answer that stands where `answer`, the recipe's `reward.answer`, says; see the module for what
    counts as equal.

    `seconds` (whole) is the limit of one symbolic comparison in CPU time, so that a busy machine
    changes no verdict; `memory_mb` (MiB) its limit of memory; `workers` how many run at a time;
    `remember` how many verdicts on (answer, truth) pairs are kept. A comparison that runs out of
    time or memory or crashes is the answer's own doing: it is wrong. The processes start with the
    first pair that needs one. `Verdict.answer` is the truth that was matched, else the normalised text;
    `votes` gives equal wrong answers one spelling too.

    Any of a task's truths is right, and so are all of them together as a list.
    """

    def __init__(
        self,
        workers: int = 2,
        seconds: int = 3,
        memory_mb: int = 1024,
        remember: int = 20_000,
        accept_unevaluated: bool = False,
        answer: str = "auto",
    ) -> None:
        self._answers = Answers(answer, seconds)
        self._workers = MathWorkers(workers, seconds, memory_mb)
        self._remember = remember
        self._accept_unevaluated = accept_unevaluated
        self._known: OrderedDict[Pair, str] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """See `Verifier.verify`. Calls from several threads run one after the other."""
        reads = [self._answers.read(episode) for episode in episodes]
        boxes = [read.text for read in reads]
        truths = [_accepted(episode.task) for episode in episodes]
        with self._lock:
            pairs = [self._pairs(box, accepted) for box, accepted in zip(boxes, truths, strict=True)]
            statuses = self._statuses([pair for mine in pairs for pair in mine.values()])
            return [
                _verdict(read, accepted, {truth: statuses[pair] for truth, pair in mine.items()})
                for read, accepted, mine in zip(reads, truths, pairs, strict=True)
            ]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """See `Verifier.votes`. Wrong answers are compared by what makes an answer right, in both directions."""
        with self._lock:
            spelled = merged([self._wrong(group) for group in groups], self._compared)
        return [
            [_vote(episode, spelling) for episode in group] for group, spelling in zip(groups, spelled, strict=True)
        ]

    def close(self) -> None:
        """End the processes. Safe to call twice."""
        with self._lock:
            self._workers.close()

    def _wrong(self, group: Sequence[Episode]) -> list[tuple[str, str]]:
        """(answer, its text as it was written) of the episodes that answered wrong."""
        wrong = [one for one in group if one.trajectory.answer is not None and not one.trajectory.correct]
        return [
            (str(one.trajectory.answer), self._answers.read(one).text or str(one.trajectory.answer)) for one in wrong
        ]

    def _pairs(self, box: str | None, truths: Sequence[str]) -> dict[str, Pair]:
        """What to put to math-verify, by truth; nothing where the exact comparison says all."""
        if box is None or any(_exactly(box, truth) for truth in truths):
            return {}
        asked = {truth: self._pair(box, truth) for truth in truths}
        return {truth: pair for truth, pair in asked.items() if pair is not None}

    def _pair(self, box: str, truth: str) -> Pair | None:
        if max(len(box), len(truth)) > 2 * LONGEST_ASKED:  # of white space alone a connective takes its square
            return None
        return may_ask(_CONNECTIVE.sub(",", box), _CONNECTIVE.sub(",", truth), self._accept_unevaluated)

    def _compared(self, couples: Sequence[tuple[str, str]]) -> list[Compared]:
        """Whether boxes are equal; `costly` where finding out took all the time or memory there is."""
        pairs = {}
        for one, other in couples:
            pair = self._pair(one, other)
            if pair is not None and self._pair(other, one) is not None:  # no box is the truth: the rules hold for both
                pairs[one, other] = pair
        statuses = self._statuses(list(pairs.values()))
        found: list[Compared] = []
        for one, other in couples:
            status = statuses[pairs[one, other]] if (one, other) in pairs else "different"
            if _exactly(one, other) or _exactly(other, one) or status == "equal":
                found.append("equal")
            else:
                found.append("costly" if status in ("time-out", "crash") else "different")
        return found

    def _statuses(self, pairs: Sequence[Pair]) -> dict[Pair, str | Fault]:
        """Each distinct pair is asked once, ever, as long as it is remembered."""
        statuses: dict[Pair, str | Fault] = {pair: self._known[pair] for pair in pairs if pair in self._known}
        unknown = list(dict.fromkeys(pair for pair in pairs if pair not in statuses))
        if unknown:
            statuses.update(zip(unknown, self._workers.compare(unknown), strict=True))
        for pair in dict.fromkeys(pairs):
            status = statuses[pair]
            if not isinstance(status, Fault):
                self._known[pair] = status
                self._known.move_to_end(pair)
        while len(self._known) > self._remember:
            self._known.popitem(last=False)
        return statuses


def _accepted(task: Task) -> list[str]:
    """Every truth of the task; where there are several, all of them as a list is the last."""
    truths = [task.ground_truth, *task.truths]
    together = ", ".join(truths)
    # `3, 500` as a list could be taken for 3500.
    return truths if len(truths) == 1 or _LIKE_THOUSANDS.search(together) else [*truths, together]


def _verdict(read: Read, truths: Sequence[str], statuses: Mapping[str, str | Fault]) -> Verdict | Fault:
    """`statuses` are math-verify's, by truth, where it was asked."""
    box = read.text
    if box is None:
        return Verdict(None, 0.0, read.why)
    for truth in truths:
        if statuses.get(truth) == "equal" or _exactly(box, truth):
            # One spelling for everything that was found equal: a vote can count it.
            return Verdict(normalise(truth), 1.0)
    for status in statuses.values():
        if isinstance(status, Fault):
            return status
    given, asked = normalise(box), normalise(truths[0])
    ended = [status for status in statuses.values() if status != "different"]
    why = f" (comparison ended by {ended[0]})" if ended else ""
    more = " or another truth" if len(truths) > 1 else ""
    return Verdict(given, 0.0, f"{given[:80]} is not {asked[:80]}{more}{why}")


def _vote(episode: Episode, spelling: Mapping[str, str]) -> str | None:
    """All right answers of a task are one: any of its truths is."""
    answer = episode.trajectory.answer
    if answer is None:
        return None
    return normalise(episode.task.ground_truth) if episode.trajectory.correct else spelling.get(answer, answer)


def _exactly(box: str, truth: str) -> bool:
    """Equal without asking anybody, or a number behind a name: `x=5` is 5. A list is equal in any order."""
    given, asked = normalise(box), normalise(truth)
    named = rational(asked) is not None and _unnamed(given) == asked
    return named or (given == asked and given != "") or _same_list(box, truth)


def _unnamed(text: str) -> str:
    """The number behind a name; any other text as it is."""
    name, _, value = text.partition("=")
    number = normalise(value)
    return number if _NAME.fullmatch(name) and rational(number) is not None else text


def _same_list(box: str, truth: str) -> bool:
    """Whether both list the same values. math-verify would read the list `3, 500` as one number."""
    if len(box) > LONGEST_ASKED or rational(normalise(truth)) is not None:  # `1,234` is no list
        return False
    given, asked = sorted(_members(box)), sorted(_members(truth))
    if len(asked) < 2 or len(given) != len(asked):
        return False
    of_one_name = len({part.partition("=")[0] for part in given}) == 1
    return given == asked or (of_one_name and sorted(map(_unnamed, given)) == asked)


def _members(text: str) -> list[str]:
    """What stands between the commas, and between `and` and `or`, of a bare list or of one in braces."""
    bare = text.strip().removeprefix("\\{").removesuffix("\\}")
    return [normalise(part) for part in _split(_BETWEEN.sub(",", bare))]


def may_ask(box: str, truth: str, accept_unevaluated: bool = False) -> Pair | None:
    """Two texts whose equality math-verify may decide, or None where its yes would mean nothing."""
    given, asked = normalise(box), normalise(truth)
    if not given or not asked or max(len(given), len(asked)) > LONGEST_ASKED:
        return None
    if rational(asked) is not None and (rational(given) is not None or not accept_unevaluated):
        return None
    if _WORD_IN_TEXT.search(box) or _WORD_IN_TEXT.search(truth) or not _letters_agree(given, asked):
        return None
    if _IN_A_BASE.search(given) or _IN_A_BASE.search(asked) or _other_digits(given + asked):
        return None
    if _TO_BE_EVALUATED.search(given) and not _TO_BE_EVALUATED.search(asked):
        return None
    if _CLOSED_AT_INFINITY.search(given) and not _CLOSED_AT_INFINITY.search(asked):
        return None
    of_one_name = len(_variables(given) | _variables(asked)) < 2
    # `9 i` would be read as the imaginary unit and `9i` as a symbol.
    given, asked = (_COEFFICIENT.sub("", _MEMBER_OF.sub("", text)) for text in (given, asked))
    return Pair(given, asked) if of_one_name and _same_shape(given, asked) else None


def _variables(text: str) -> set[str]:
    """The name that a text says is a member of something, as `x` of `x \\in [0, 1]`; empty where it says so of none."""
    match = _MEMBER_OF.match(text)
    return set() if match is None else {match.group(1)}


def _other_digits(text: str) -> bool:
    """Whether there are digits of another script, which are no numbers here."""
    return any(character.isdecimal() and not character.isascii() for character in text)


def _letters_agree(given: str, asked: str) -> bool:
    """No words, and no letter in both cases: math-verify multiplies words out and lowers every letter."""
    bare = [_COMMAND.sub(" ", _ENVIRONMENT.sub(" ", text)) for text in (given, asked)]
    if any(_WORD.search(text) for text in bare):
        return False
    letters = {letter for letter in "".join(bare) if letter.isalpha()}
    for letter in letters:
        other_case = letter.swapcase()
        if other_case != letter and other_case in letters:
            return False
    return True


def _same_shape(given: str, asked: str) -> bool:
    """Same brackets around the whole, as many parts, and equations only where they can be compared."""
    outer_given, outer_asked = _outer(given), _outer(asked)
    if outer_given and outer_asked and outer_given != outer_asked:
        return False
    parts_given, parts_asked = _parts(given, outer_given), _parts(asked, outer_asked)
    if len(parts_given) != len(parts_asked) and not _signs(given + asked):
        return False
    names_given, names_asked = _left_sides(parts_given), _left_sides(parts_asked)
    if names_given is None or names_asked is None:
        return False
    if bool(names_given) == bool(names_asked):
        return True
    names = names_given or names_asked
    return len(set(names)) == 1 and _NAME.fullmatch(names[0]) is not None


def _signs(text: str) -> bool:
    """Whether one text stands for two values."""
    return "\\pm" in text or "\\mp" in text


def _outer(text: str) -> str:
    """`()`, `[)`, ... around a tuple or interval; `set` for `\\{...\\}`, a bare list, `\\pm`; else empty."""
    if text.startswith("\\{") and text.endswith("\\}"):
        return "set"
    if len(_split(text)) > 1:
        return "set"
    if text[:1] in "([" and text[-1:] in ")]" and len(_split(text[1:-1])) > 1:
        return text[0] + text[-1]
    return "set" if _signs(text) else ""


def _parts(text: str, outer: str) -> list[str]:
    if outer == "set":
        return _split(text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text)
    return _split(text[1:-1]) if outer else [text]


def _split(text: str) -> list[str]:
    """The pieces between commas outside all brackets; the whole where brackets close before they open."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return [text]
        elif character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _left_sides(parts: Sequence[str]) -> list[str] | None:
    """The left sides of the equations among the parts; None for a chain or a mixture."""
    sides = [_RELATION.split(part) for part in parts]
    if any(len(side) > 2 for side in sides) or len({len(side) for side in sides}) > 1:
        return None
    return [side[0].strip() for side in sides if len(side) == 2]
