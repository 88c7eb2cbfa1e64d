"""What a method may need of a run. Whoever puts a run together asks for these, never for a method's name."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """One thing that a method needs; the values are what a person is shown."""

    TEACHER = "teacher"  # its log-probabilities of the sampled tokens
    TOP1 = "top-1 log-probs"  # also the teacher's highest probability at each place
    ENTROPY = "entropy"  # also the entropy of the teacher's distribution there
    TOP_K = "topk log-probs"  # also its k most probable tokens
    FULL = "full log-probs"  # its whole distribution: a model in this process
    REWARD = "reward"
    GROUP = "group"  # several episodes of a task, to compare rewards
    GROUND_TRUTH = "privileged context (ground truth)"  # the teacher is the student's copy and reads the answer
    HINT = "privileged context (hint)"  # likewise, with a hint of the task's
    TEACHER_EPISODES = "teacher's episodes"  # the teacher plays too
    DEMONSTRATIONS = "demonstrations"  # SFT conversations; no episodes are played


SELF_TEACHER = frozenset({Need.GROUND_TRUTH, Need.HINT})
"""With one of these the teacher is a copy of the student at the start."""
