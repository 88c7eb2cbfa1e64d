"""Shared fixtures: a tiny tokenizer, tiny Qwen3 models and a real Python tool, all made from nothing."""

from __future__ import annotations

import copy
import gc
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.chat.render import Chat
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective.batch import TokenBatch, supervised_batch
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tools.base import Tool
from sod.tools.python import SCHEMA, PythonTool
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import made_once

torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)  # of the tests that are left when others are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where PyTorch sees no CUDA device; for several workers put long tests first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Files of few tests have the long ones. A worker that has nothing left takes from the end of another's list,
        # and where the short ones stand there, all workers end at the same time.
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (tests[item.path], item.path))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def own_temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files, also of the processes that we start and kill, lie where pytest removes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setattr(tempfile, "tempdir", None)  # it is looked up anew
        yield


@pytest.fixture(scope="session", autouse=True)
def imported_set_apart() -> Iterator[None]:
    """What is there before the first test is not looked at by the garbage collector.

    Each run in this process would collect it all before its first step (`long_lived_set_apart`), which took longer than
    the rest of a small run.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that sets the number of threads sets its own: two made the tiny models of all later tests far slower."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    """Expert traces of a small chain world."""
    chains = chain.splits({"sft": 64}, 2, 3, seed=5)["sft"]
    return [chain.as_conversation(c, n, SCHEMA) for n, c in enumerate(chains)]


@pytest.fixture(scope="session")
def tokenizer(conversations: list[Conversation]) -> Any:
    """A byte-level BPE tokenizer learned from those traces (never change it in place: copy it)."""
    blank = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
    return train_tokenizer([blank.conversation_text(c.messages) for c in conversations], 400)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Chat:
    """The tokenizer under our own template, with the Python tool declared."""
    return Chat(tokenizer, [SCHEMA], template="hermes")


@pytest.fixture(scope="session")
def random_model(tokenizer: Any) -> Callable[..., Any]:
    """`random_model(seed, sharpness)`: a fresh tiny Qwen3; `sharpness` scales its logits away from uniform."""

    def make(seed: int = 0, sharpness: float = 1.0, layers: int = 2) -> Any:
        model = new_qwen3(tokenizer, layers=layers, hidden=32, heads=2, ffn=64, context=2048, seed=seed)
        with torch.no_grad():
            model.get_decoder().norm.weight.mul_(sharpness)
            for name, weight in model.get_decoder().layers.named_parameters():
                if "proj" in name:
                    weight.mul_(5.0)  # what came before matters, or a model with tied embeddings only repeats itself
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(random_model: Callable[..., Any]) -> Any:
    """A tiny random student whose next-token distribution is far from uniform (never change it in place)."""
    return random_model(seed=0, sharpness=8.0)


@pytest.fixture(scope="session")
def acting_model(chat: Chat, conversations: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny student with just enough SFT to make well-formed Python calls (never change it in place)."""
    student = new_qwen3(chat.tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=2048, seed=3)

    def teach(directory: Path) -> None:
        ledgers = [chat.encode_conversation(c.messages) for c in conversations]
        optimizer = torch.optim.AdamW(student.parameters(), lr=8e-3)
        for step in range(60):
            batch = supervised_batch([ledgers[(step * 8 + i) % len(ledgers)] for i in range(8)])
            loss = -action_logps(student, batch).sum() / batch.action_tokens()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save(student.state_dict(), directory / "weights.pt")

    student.load_state_dict(torch.load(made_once(tmp_path_factory, "acting-model", teach) / "weights.pt"))
    return student.eval()


@pytest.fixture(scope="session")
def python_tool() -> Iterator[Tool]:
    """The real Python tool on a real local sandbox, with the quickstart's limits but for a longer clock."""
    tool = PythonTool(LocalSandbox(ProgramLimits(seconds=20.0, memory_mb=256), workers=1), 14, 64)
    yield tool
    tool.close()


@pytest.fixture(scope="session")
def full_logps() -> Callable[..., list[float]]:
    """Log-probabilities of every token after the first by one plain forward pass over a single sequence."""

    def score(model: Any, token_ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([list(token_ids)])).logits[0].double() / temperature
        logp_TV = logits_TV.log_softmax(-1)
        return [math.nan, *(float(logp_TV[t - 1, token]) for t, token in enumerate(token_ids) if t)]

    return score


@pytest.fixture
def clone() -> Callable[[Any], Any]:
    """A model of one's own to train or break."""
    return copy.deepcopy


@pytest.fixture(scope="session")
def random_batch(tokenizer: Any) -> Callable[..., TokenBatch]:
    """`random_batch(rows, seed)`: ledgers of random ids with uneven lengths, two or three turns, two rows a group."""

    def make(rows: int = 6, seed: int = 0) -> TokenBatch:
        generator = torch.Generator().manual_seed(seed)

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        ledgers = []
        for _ in range(rows):
            turn_ids = [0] * integer(1, 6)
            for turn in range(1, integer(3, 5)):
                turn_ids += [turn] * integer(1, 7) + [0] * integer(0, 4)
            ledgers.append(([integer(0, len(tokenizer)) for _ in turn_ids], turn_ids))
        batch = supervised_batch(ledgers)
        reward_B = torch.randint(0, 3, (rows,), generator=generator).float()
        return batch.filled(group_B=torch.arange(rows) // 2, reward_B=reward_B)

    return make
